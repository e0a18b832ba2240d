"""data_pipelines/base/: what all commands have in common, to the one who types them."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from data_pipelines.base.command import CONFIGS, overrides_parser, parse_overrides
from data_pipelines.base.errors import CONFIG_EXIT, RUN_EXIT, ConfigError, RunError, answers_errors

ROOT = Path(__file__).parents[3]
COMMANDS = (
    "train.__main__",
    "train.model",
    "train.evaluate",
    "train.export",
    "train.import_hf",
    "train.report",
    "train.optim.benchmark.__main__",
    "train.studies.balance",
    "train.studies.optimizers",
    "data_pipelines.prepare",
    "data_pipelines.tokenize",
    "data_pipelines.tokenizer.__main__",
    "data_pipelines.verify",
    "data_pipelines.explain",
    "data_pipelines.diff",
    "data_pipelines.index",
    "data_pipelines.audit",
    "data_pipelines.show",
    "launch.local",
    "launch.preflight",
    "launch.submit",
    "launch.requeue",
    "launch.status",
    "launch.dashboard",
    "launch.catch_up",
)
COMPOSING = (
    "train.__main__",
    "train.model",
    "train.optim.benchmark.__main__",
    "train.studies.balance",
    "train.studies.optimizers",
    "data_pipelines.prepare",
    "launch.local",
    "launch.torchrun",
    "launch.preflight",
    "launch.submit",
)
HELP = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name).main(["--help"])
    except SystemExit as end:
        assert end.code == 0
    assert "torch" not in sys.modules, f"{name} imports torch"
"""
STOPPED = """
import os, signal, sys, time
from data_pipelines.base.command import run_command

def main(arguments):
    try:
        os.kill(os.getpid(), signal.Signals[arguments[0]])
        time.sleep(5)
    finally:
        print("tidied up", flush=True)
        if arguments[1:]:
            raise OSError("and this went wrong on the way")

run_command(main, advice="Try again.")
"""


def test_help_takes_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], cwd=ROOT, capture_output=True, text=True)
    assert not done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_module_ends_in_the_common_way(name: str) -> None:
    text = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    assert re.search(r"^    run_command\(", text, re.MULTILINE)
    assert "sys.exit(" not in text
    assert "argparse.ArgumentParser(" not in text


@pytest.mark.parametrize(("name", "rest"), [("evaluate", "--tokens=t.npy"), ("export", "out")])
def test_the_first_words_come_before_the_engine_and_not_on_stdout(name: str, rest: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"train.{name}", str(tmp_path / "run"), rest]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    before, words, after = done.stderr.partition(f"train.{name}: the engine takes some seconds to load\n")
    assert words
    assert " torch" not in before
    assert " torch" in after
    assert re.search(r"^error: ", after, re.MULTILINE)
    assert (done.returncode, done.stdout) == (CONFIG_EXIT, "")


# Errors


def test_an_error_of_the_system_is_the_file_and_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    @answers_errors({OSError: CONFIG_EXIT})
    def main(arguments: list[str]) -> int:
        return len(Path(*arguments).read_bytes())

    assert main([f"{tmp_path}/gone.npy"]) == CONFIG_EXIT
    assert capsys.readouterr().err == f"error: {tmp_path}/gone.npy: No such file or directory\n"


@pytest.mark.parametrize(
    ("error", "exit_code", "lines"),
    [
        (ConfigError(["a is wrong", "b is wrong"]), CONFIG_EXIT, "error: a is wrong\nerror: b is wrong\n"),
        (RunError("the disk is full"), RUN_EXIT, "error: the disk is full\n"),
    ],
)
def test_an_error_is_lines_and_an_exit_code(
    error: Exception, exit_code: int, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @answers_errors({ConfigError: CONFIG_EXIT, RunError: RUN_EXIT})
    def main(arguments: list[str]) -> int:
        raise error

    assert main([]) == exit_code
    assert capsys.readouterr().err == lines


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    @answers_errors({ConfigError: CONFIG_EXIT})
    def main(arguments: list[str]) -> int:
        raise ValueError("not meant for people")

    with pytest.raises(ValueError, match="not meant"):
        main([])


def test_a_rank_says_which_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    assert answers_errors({RunError: RUN_EXIT})(_fail)([]) == RUN_EXIT
    assert capsys.readouterr().err == "error: rank 3: no\n"


def _fail(arguments: list[str]) -> int:
    raise RunError("no")


# Empty texts: "$OUT" where nobody has set OUT


@pytest.mark.parametrize(
    ("name", "arguments", "empty"),
    [
        ("train.evaluate", "run --tokens=", "--tokens"),
        ("train.export", "run @", "OUT"),
        ("train.export", "run out --step=", "--step"),
        ("train.import_hf", "@ out", "HF_DIR"),
        ("train.report", "@", "RUN"),
        ("train.model", "@", "MODEL | override"),
        ("data_pipelines.explain", "@ --step=1", "RUN"),
        ("data_pipelines.audit", "@", "RUN"),
        ("data_pipelines.show", "@", "PLAN_OR_RUN"),
        ("data_pipelines.tokenize", "--input= --tokenizer=t --out=o", "--input"),
        ("data_pipelines.tokenize", "--input=i --tokenizer=t --out=", "--out"),
        ("data_pipelines.verify", "@", "URI"),
    ],
)
def test_no_command_takes_an_empty_argument(
    name: str, arguments: str, empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main([argument.replace("@", "") for argument in arguments.split()])
    assert end.value.code == CONFIG_EXIT
    said = f"error: argument {empty}: must not be empty, got ''; was a variable of the shell not set?\n"
    assert capsys.readouterr().err.endswith(said)


# Signals


def stopped(*arguments: str, rank: str = "0") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RANK": rank}
    return subprocess.run(
        [sys.executable, "-c", STOPPED, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_one_line_and_leaves_time_to_tidy_up(name: str, exit_code: int) -> None:
    done = stopped(name)
    assert (done.returncode, done.stdout) == (exit_code, "tidied up\n")
    assert done.stderr == f"\nerror: stopped by {name}. Try again.\n"


def test_a_command_under_nohup_goes_on_without_its_terminal() -> None:
    code = "import os, signal\nfrom data_pipelines.base.command import run_command\n"
    code += "def main(arguments):\n    os.kill(os.getpid(), signal.SIGHUP)\n    return 7\nrun_command(main)"
    assert subprocess.run(["nohup", sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 7


def test_what_goes_wrong_while_tidying_up_does_not_hide_the_signal() -> None:
    done = stopped("SIGINT", "fail")
    assert done.returncode == 130
    assert done.stderr == "\nerror: stopped by SIGINT. Try again.\n"


def test_a_signal_that_is_swallowed_ends_the_command_all_the_same() -> None:
    code = (
        "import os, signal, time\nfrom data_pipelines.base import command, signals\nsignals.GRACE_S = 0.2\n"
        "def main(arguments):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(5)\n"
        "    except BaseException:\n        time.sleep(5)\n    return 0\ncommand.run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "\nerror: stopped by SIGTERM.\n")


def test_only_rank_0_speaks_of_a_signal() -> None:
    done = stopped("SIGTERM", rank="1")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


def test_a_signal_in_an_import_ends_the_command_at_once(tmp_path: Path) -> None:
    """An exception could be swallowed there, as this module does."""
    (tmp_path / "swallows.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(5)\nexcept:\n    pass\n"
    )
    code = "from data_pipelines.base.command import run_command\n"
    code += f"def main(arguments):\n    import sys; sys.path.append({str(tmp_path)!r}); import swallows; return 0\n"
    done = subprocess.run([sys.executable, "-c", code + "run_command(main)"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "\nerror: stopped by SIGINT.\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_imports_what_takes_time_is_one_line(name: str, tmp_path: Path) -> None:
    for module in ("fsspec", "hydra", "matplotlib", "numpy", "omegaconf", "pydantic", "tokenizers", "tqdm", "xxhash"):
        (tmp_path / f"{module}.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}  # found before the installed ones
    command = [sys.executable, "-m", name, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) in [(0, ""), (130, "\nerror: stopped by SIGINT.\n")]


def test_ctrl_c_while_train_loads_the_engine_is_one_line_with_advice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "experiment=smoke", "parallelism=single", f"run.dir={tmp_path}/run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "train: reading the configuration\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == (
            "\nerror: stopped by SIGINT. The same command goes on from the last complete checkpoint.\n"
        )


# Options of one's own


def overrides(*arguments: str) -> list[str]:
    return parse_overrides(overrides_parser("program", description=None), list(arguments)).overrides


def test_a_folder_of_ones_own_is_searched_wherever_the_option_stands(own_experiment: Path) -> None:
    expected = [f'hydra.searchpath=["file://{own_experiment}"]', "a=b", "c=d"]
    assert overrides("--config-dir", str(own_experiment), "a=b", "c=d") == expected
    assert overrides("a=b", f"--config-dir={own_experiment}", "c=d") == expected


@pytest.mark.parametrize("name", COMPOSING)
def test_the_help_shows_ones_own_options_too(
    name: str, own_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--config-dir", str(own_experiment), "--help"], ["--help", "--config-dir", str(own_experiment)]):
        with pytest.raises(SystemExit):
            importlib.import_module(name).main(arguments)
        assert re.search(r"experiment= .*smoke.*, mine$", capsys.readouterr().out, re.MULTILINE)


SHOWN = {
    "train.__main__": ("experiment=smoke", "debug.seed"),
    "train.model": ("trinity_smoke", "optimizer.muon.momentum"),
    "train.optim.benchmark.__main__": ("trinity_smoke", "optimizer.muon.momentum"),
    "train.studies.balance": ("out", "balance.speed"),
    "train.studies.optimizers": ("out", "optimizer.muon.lr"),
    "data_pipelines.prepare": ("data=stdlib", "data.held_out"),
    "launch.local": ("run.name=a", "debug.seed"),
    "launch.torchrun": ("experiment=smoke", "debug.seed"),
    "launch.preflight": ("experiment=smoke", "debug.seed"),
    "launch.submit": ("experiment=smoke", "debug.seed"),
}
"""Command -> an argument, and a setting of those that it shows."""


@pytest.mark.parametrize("name", COMPOSING)
def test_every_command_that_composes_shows_its_configuration_and_makes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argument, setting = SHOWN[name]
    main = importlib.import_module(name).main
    assert main([argument, "--cfg", "job"]) == 0
    for document in yaml.safe_load_all(capsys.readouterr().out):
        section, *keys = setting.split(".")
        assert reduce(getitem, keys, document[section]) is not None
    assert main([argument, "--info", "defaults"]) == 0
    assert re.search(r"^data/stdlib +data +", capsys.readouterr().out, re.MULTILINE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMPOSING)
def test_a_configuration_is_shown_after_all_checks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    is_data = name == "data_pipelines.prepare"
    wrong = ["data.vocab_sise=4", "data.held_out=7"] if is_data else ["model.dims=4", "optimizer.muon.lrr=1"]
    assert importlib.import_module(name).main([SHOWN[name][0], "--cfg", "job", *wrong]) != 0
    shown = capsys.readouterr()
    assert not shown.out
    assert all(setting.partition("=")[0] in shown.err for setting in wrong)


def test_a_file_that_configs_would_hide_is_refused(own_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_experiment / "experiment/smoke.yaml").touch()
    with pytest.raises(SystemExit) as end:
        overrides("--config-dir", str(own_experiment))
    assert end.value.code == CONFIG_EXIT
    assert "experiment/smoke.yaml would be hidden" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overrides("--config-dir", str(tmp_path / "nowhere"))
    assert f"{tmp_path}/nowhere is no folder" in capsys.readouterr().err


def test_the_groups_of_the_help_are_the_folders_of_configs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overrides("--help")
    shown = re.findall(r"^  (\w+)= ", capsys.readouterr().out, re.MULTILINE)
    assert shown == sorted(entry.name for entry in CONFIGS.iterdir() if entry.is_dir())
