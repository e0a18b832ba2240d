"""data_pipelines/settings/compose.py and overrides.py: what people type, and what Hydra makes of it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from data_pipelines.base.errors import ConfigError
from data_pipelines.settings.compose import compose, info, to_yaml
from data_pipelines.settings.overrides import in_shell

TEXTS = (
    "/a/step=5",
    "{a,b}",
    "/x/[ab]",
    "texts/*.{txt,md}",
    "müller",
    "日本",
    "a,b",
    "it's=5",
    'a"b=',
    "back\\slash=\\",
    "f(x)",
    "a#b=c:d",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_hydra_cannot_read_is_named_with_the_form_that_works(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([f"run.name={text}"])
    (problem,) = error.value.problems
    assert problem.startswith(f"run.name={text}: ")
    typed = in_shell("run.name", text)
    assert problem.endswith(typed)
    (override,) = shlex.split(typed)
    assert compose([override])["run"]["name"] == text


def test_every_override_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        compose(["run.name=x", "run.dir=/a=b", "trinity_large", "data.sources={a"])
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "run.dir=/a=b",
        "trinity_large",
        "data.sources={a",
    ]
    assert "expected group=option or section.key=value" in error.value.problems[1]


def test_several_values_need_multirun() -> None:
    with pytest.raises(ConfigError, match=r"^optimizer\.muon\.lr=1e-2,2e-2: several values.*--multirun"):
        compose(["run.name=x", "optimizer.muon.lr=1e-2,2e-2"])


def test_the_files_of_a_configuration_are_listed_in_the_order_in_which_they_apply() -> None:
    lines = info("defaults", ["experiment=smoke", "balance=sign"]).splitlines()
    files = [line.split()[0] for line in lines[1:]]
    assert "balance/sign" in files
    assert "balance/smebu" not in files
    assert files.index("parallelism/hsdp_2x2_ep2") < files.index("config") < files.index("experiment/smoke")


def test_an_experiment_of_ones_own_builds_on_those_of_the_checkout(own_experiment: Path) -> None:
    searched = f'hydra.searchpath=["file://{own_experiment}"]'
    settings = compose([searched, "experiment=mine"])
    assert (settings["run"]["name"], settings["balance"]["speed"]) == ("mine", 0.125)
    assert settings["training"]["seq_len"] == compose(["experiment=smoke"])["training"]["seq_len"]
    assert info("searchpath", [searched]).splitlines()[-1] == str(own_experiment)


def test_a_group_of_ones_own_is_a_group(own_experiment: Path) -> None:
    (own_experiment / "site").mkdir()
    (own_experiment / "site/big.yaml").touch()
    with pytest.raises(ConfigError, match=r"append to your default list use \+site=big"):
        compose([f'hydra.searchpath=["file://{own_experiment}"]', "experiment=mine", "site=big"])


def test_a_shown_configuration_can_be_read_back() -> None:
    from omegaconf import OmegaConf

    settings = compose(["experiment=smoke"])
    assert OmegaConf.to_container(OmegaConf.create(to_yaml(settings))) == settings


def test_what_there_is_to_choose_from_reads_as_a_list() -> None:
    with pytest.raises(ConfigError, match=r"Available options in 'data': files, shards, "):
        compose(["run.name=x", "data=fils"])
