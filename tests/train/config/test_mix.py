"""What a person sets for a phase is what the phase gets, and nothing is left over from an experiment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose
from train.config.check import check
from train.config.full import with_mix
from train.config.rundir import changes

MIXED = {
    "general": {"code": 0.50, "prose": 0.35, "stem": 0.15},
    "high_quality": {"code": 0.35, "prose": 0.35, "stem": 0.30},
    "stem": {"code": 0.20, "prose": 0.20, "stem": 0.60},
}
FILES = ["data=files", "data.sources.web.glob='texts/*.txt'", "data.sources.papers.glob='papers/*.txt'"]


def data(*overrides: str) -> dict[str, Any]:
    return check(compose(["experiment=smoke", *overrides])).settings["data"]


@pytest.mark.parametrize(
    ("overrides", "mix"),
    [
        ([], MIXED),
        (["data.mix.stem={stem: 1}"], MIXED | {"stem": {"stem": 1}}),
        (["+data.mix.stem={stem: 1}"], MIXED | {"stem": {"stem": 1}}),
        (["++data.mix.stem={stem: 1}"], MIXED | {"stem": {"stem": 1}}),
        (["data.mix.stem={stem: 1}", "data.mix.stem.code=2"], MIXED | {"stem": {"stem": 1, "code": 2}}),
        (["data.mix.stem.code=0"], MIXED | {"stem": {"code": 0, "prose": 0.2, "stem": 0.6}}),  # this weight alone
        (
            ["data.mix.stem={stem: 1}", "data.mix.general={code: 3}"],
            MIXED | {"stem": {"stem": 1}, "general": {"code": 3}},
        ),
        (["data.mix=proportional"], "proportional"),
        (
            ["data.mix={one: {code: 1}}", "schedule.phases=[{name: one, tokens: 10T}]"],
            {"one": {"code": 1}},
        ),
        (["experiment=balance_study"], {name: {name: 1} for name in ("code", "prose", "stem")}),
    ],
)
def test_weights_in_braces_are_all_that_a_phase_has(overrides: list[str], mix: Any) -> None:
    assert data(*overrides)["mix"] == mix


@pytest.mark.parametrize(
    ("text", "overrides", "mix"),
    [
        ("{stem: {stem: 1}}", [], MIXED | {"stem": {"stem": 1}}),
        ("{stem: {stem: 1}}", ["data.mix.stem.code=2"], MIXED | {"stem": {"stem": 1, "code": 2}}),
        ("{stem: {stem: 1}}", ["data.mix.stem={prose: 1}"], MIXED | {"stem": {"prose": 1}}),
        ("{general: '${data.mix.stem}'}", [], MIXED | {"general": MIXED["stem"]}),
        ("proportional", [], "proportional"),
    ],
)
def test_weights_in_a_file_of_ones_own_are_all_that_a_phase_has(
    tmp_path: Path, text: str, overrides: list[str], mix: Any
) -> None:
    write_experiments(tmp_path, mine=f"defaults: [smoke]\ndata: {{mix: {text}}}")
    assert data(f'hydra.searchpath=["{tmp_path}"]', "experiment=mine", *overrides)["mix"] == mix


def test_sources_in_a_file_of_ones_own_are_all_sources(tmp_path: Path) -> None:
    write_experiments(
        tmp_path,
        first="defaults: [smoke, {override /data: files}]\ndata: {sources: {web: {glob: w}, papers: {glob: p}}}",
        mine="defaults: [first]\ndata: {sources: {web: {glob: mine}}}",
    )
    found = data(f'hydra.searchpath=["{tmp_path}"]', "experiment=mine")["sources"]
    assert found == {"web": {"glob": "mine", "text_key": "text", "undecodable": "error"}}


def write_experiments(folder: Path, **texts: str) -> None:
    (folder / "experiment").mkdir()
    for name, text in texts.items():
        (folder / f"experiment/{name}.yaml").write_text(f"# @package _global_\n{text}\n")


@pytest.mark.parametrize("experiment", ["smoke", "balance_study"])
def test_other_data_does_not_inherit_the_mix_of_an_experiment(experiment: str) -> None:
    assert data(f"experiment={experiment}", "data=files", "data.sources.web.glob=a")["mix"] is None


def test_the_mix_of_own_files_is_what_was_given() -> None:
    weights = "{web: 1, papers: 3}"
    mix = data(*FILES, f"data.mix={{general: {weights}, high_quality: {weights}, stem: {{web: 1}}}}")["mix"]
    assert mix == {"general": {"web": 1, "papers": 3}, "high_quality": {"web": 1, "papers": 3}, "stem": {"web": 1}}


def test_a_phase_without_weights_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError) as refusal:
        data(*FILES, "data.mix.stem={web: 1, papers: 3}")
    (problem,) = refusal.value.problems
    assert problem.startswith("data.mix.general: missing, every phase needs weights; data.mix.high_quality: missing")
    assert problem.endswith("or set data.mix=proportional: sources by their size, in every phase")


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        (["data.mix.stem={web: 1, papers: 3}"], {"stem": {"web": 1, "papers": 3}}),
        (["data.mix={general: {web: 0, papers: 0.25}, stem: {books: 1}}"], {"general": {"web": 0, "papers": 0.25}}),
        (["data.mix.general.web=0", "data.sources={web: {glob: a}, it\\ s\\:1: {glob: b}}"], {}),
    ],
)
def test_the_form_that_is_suggested_works_in_a_shell(given: list[str], completed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refusal:
        data(*FILES, *given)
    (typed,) = [word for word in shlex.split(str(refusal.value)) if word.startswith("data.mix={")]
    sources = [one for one in given if one.startswith("data.sources")]
    settings = data(*FILES, *sources, typed.rstrip(","))
    equal = dict.fromkeys(sorted(settings["sources"]), 1)
    assert settings["mix"] == {phase: completed.get(phase, equal) for phase in MIXED}


def test_several_sources_of_several_phases_without_a_mix_are_no_curriculum() -> None:
    with pytest.raises(ConfigError, match=r"data\.mix: missing, there are 3 phases and 2 sources \(papers, web\)"):
        data(*FILES, "data.mix=null")
    assert data(*FILES, "data.mix=proportional")["mix"] == "proportional"
    assert data(*FILES, "data.mix=null", "schedule.phases=[{name: one, tokens: 10T}]")["mix"] is None
    assert data("data=files", "data.sources.web.glob=a")["mix"] is None


def test_a_run_that_began_before_the_word_was_there_is_the_same_run() -> None:
    """null meant that."""
    before, now = ({"data": {"mix": mix}} for mix in (None, "proportional"))
    assert not changes(with_mix(before), with_mix(now))
    weighed = {"data": {"mix": {"one": {"web": 1}}}}
    assert [path for path, *_ in changes(with_mix(before), with_mix(weighed))] == ["data.mix"]


def test_sources_in_braces_are_all_sources() -> None:
    sources = data(*FILES, "data.sources={mine: {glob: 'mine/*.txt'}}")["sources"]
    assert sources == {"mine": {"glob": "mine/*.txt", "text_key": "text", "undecodable": "error"}}


def test_phases_are_those_that_were_given() -> None:
    run = check(compose(["experiment=smoke", "data.mix=proportional", "schedule.phases=[{name: one, tokens: 10T}]"]))
    assert [phase.name for phase in run.schedule.phases] == ["one"]
