"""launch/env.sh with a stand-in for Python: it notes what it is asked to do and installs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    -V) echo "Python 3.11.0" ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip install "*) sleep "${PIP_SECONDS:-0}"; [ -z "${PIP_ERROR:-}" ] || { echo "$PIP_ERROR"; exit 1; } ;;
esac
"""


class Checkout:
    """A folder with what env.sh reads, and a PATH that begins with stand-ins."""

    def __init__(self, root: Path) -> None:
        self.root = root / "check out"  # a space: every path in env.sh must be quoted
        self.bin = root / "bin"
        self.calls = root / "calls"
        self.bin.mkdir()
        (self.root / "launch").mkdir(parents=True)
        (self.root / "pyproject.toml").write_text("[project]\n")
        for file in ("env.sh", "local.sh", "test.sh", "constraints.txt"):
            shutil.copy(LAUNCH / file, self.root / "launch")
        self.add_command("python3.11", FAKE_PYTHON)
        self.add_command("nvidia-smi", "#!/bin/sh\nexit 1\n")

    def add_command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, **variables: str) -> subprocess.Popen[str]:
        """What local.sh and test.sh do first."""
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls), **variables}
        command = ["bash", "-c", f'set -euo pipefail; source "{self.root}/launch/env.sh"; echo "PY=$PY"']
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, to be killed as one
        )

    def call(self, *command: str, cwd: Path, **variables: str) -> tuple[str, str]:
        """(last call of Python, stderr) of one of the scripts."""
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls), **variables}
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=True)
        return self.calls.read_text().splitlines()[-1], done.stderr

    def run(self, **variables: str) -> tuple[int, str]:
        process = self.start(**variables)
        output, _ = process.communicate()
        return process.returncode, output

    def installs(self) -> list[str]:
        """Arguments of `pip install`, in order."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        prefix = f"-m pip install --disable-pip-version-check -c {self.root}/launch/constraints.txt "
        return [call.removeprefix(prefix) for call in calls if call.startswith(prefix)]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_start_installs_torch_and_then_the_rest_all_under_the_lock(checkout: Checkout) -> None:
    code, output = checkout.run()
    assert code == 0, output
    assert output.endswith(f"PY={checkout.root}/.venv/bin/python\n")
    assert checkout.installs() == ["torch==2.13.0", f"torch==2.13.0 -e {checkout.root}[dev]"]


def test_the_second_start_does_nothing(checkout: Checkout) -> None:
    checkout.run()
    calls = checkout.calls.read_text()
    assert checkout.run() == (0, f"PY={checkout.root}/.venv/bin/python\n")
    assert checkout.calls.read_text() == calls


def test_a_machine_with_a_gpu_gets_the_newest_torch_of_the_range(checkout: Checkout) -> None:
    checkout.add_command("nvidia-smi", "#!/bin/sh\necho 'GPU 0: some model'\n")
    checkout.run()
    assert checkout.installs()[0] == "torch==2.15.0"


def test_the_user_may_choose_torch(checkout: Checkout) -> None:
    checkout.run(TORCH="2.14.1")
    assert checkout.installs()[0] == "torch==2.14.1"


@pytest.mark.parametrize("changed", ["pyproject.toml", "launch/constraints.txt"])
def test_changed_pins_update_the_environment_in_place(checkout: Checkout, changed: str) -> None:
    checkout.run()
    (checkout.root / ".venv" / "kept").touch()
    with (checkout.root / changed).open("a") as file:
        file.write("# changed\n")
    code, output = checkout.run()
    assert code == 0
    assert "up to date" in output
    assert len(checkout.installs()) == 4
    assert (checkout.root / ".venv" / "kept").exists()


def test_an_environment_made_by_hand_is_completed_and_not_replaced(checkout: Checkout) -> None:
    by_hand = checkout.root / ".venv"
    (by_hand / "bin").mkdir(parents=True)
    shutil.copy(checkout.bin / "python3.11", by_hand / "bin" / "python")
    (by_hand / "kept").touch()
    assert checkout.run()[0] == 0
    assert (by_hand / "kept").exists()
    assert len(checkout.installs()) == 2


def test_a_failed_install_says_why_and_is_done_again_from_nothing(checkout: Checkout) -> None:
    code, output = checkout.run(PIP_ERROR="ERROR: No space left on device")
    assert code == 1
    assert "No space left on device" in output
    assert ".venv/install.log" in output
    (checkout.root / ".venv" / "half-installed").touch()
    assert checkout.run()[0] == 0
    assert not (checkout.root / ".venv" / "half-installed").exists()


def test_a_killed_install_is_done_again(checkout: Checkout) -> None:
    process = checkout.start(PIP_SECONDS="60")
    while not checkout.installs():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, output = checkout.run()
    assert code == 0
    assert "making .venv" in output


def test_two_terminals_at_once_install_once(checkout: Checkout) -> None:
    processes = [checkout.start(PIP_SECONDS="0.3") for _ in range(2)]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    assert len(checkout.installs()) == 2  # torch, the rest


def test_without_a_usable_python_the_remedy_is_named(checkout: Checkout) -> None:
    code, output = checkout.run(PYTHON="/nowhere/python")
    assert code == 1
    assert "no Python >= 3.11" in output
    assert "apt install python3 python3-venv" in output
    assert not (checkout.root / ".venv").exists()


def test_scripts_can_be_executed() -> None:
    for script in (LAUNCH / "local.sh", LAUNCH / "test.sh", LAUNCH.parent / ".ci" / "run"):
        assert os.access(script, os.X_OK), script


@pytest.mark.parametrize("script", ["local.sh", "test.sh"])
def test_a_script_finds_its_checkout_from_anywhere(checkout: Checkout, tmp_path: Path, script: str) -> None:
    last = {"local.sh": "-m launch.local run.name=a b", "test.sh": "-m pytest -n 2 --dist loadfile run.name=a b"}[
        script
    ]
    (tmp_path / "trap/launch").mkdir(parents=True)
    (tmp_path / "link").symlink_to(checkout.root / "launch" / script)
    elsewhere = ("", f"relative paths start in {checkout.root}\n")[script == "local.sh"]
    for command, cwd, said in (
        (f"./launch/{script}", checkout.root, ""),
        (f"launch/{script}", checkout.root, ""),
        (f"{checkout.root}/launch/{script}", tmp_path, elsewhere),
        (f"{tmp_path}/link", tmp_path, elsewhere),
        (f"./{script}", checkout.root / "launch", elsewhere),
    ):
        call, stderr = checkout.call(command, "run.name=a b", cwd=cwd, CDPATH=f"{tmp_path}/trap:.")
        assert (call, stderr) == (last, said), command


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, "backend:cudaMallocAsync"),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, ""),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}, None),  # under its new name: the old one would outrank it
    ],
)
def test_ranks_get_segments_that_grow_unless_the_user_chose_an_allocator(
    given: dict[str, str], becomes: str | None
) -> None:
    command = ["bash", "-euo", "pipefail", "-c", 'source "$0"; env', LAUNCH / "environment.sh"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **given}, capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert variables.get("PYTORCH_CUDA_ALLOC_CONF") == becomes
    assert variables.get("PYTORCH_ALLOC_CONF") == given.get("PYTORCH_ALLOC_CONF")


@pytest.mark.parametrize("script", ["torchrun.sh", "slurm/job.sh"])
def test_every_launcher_of_ranks_sources_the_environment(script: str) -> None:
    assert 'source "$CODE/launch/environment.sh"' in (LAUNCH / script).read_text()
