"""data_pipelines/base/streams.py: a command does its work whether anybody reads what it says or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = """
import sys
from pathlib import Path
from tqdm import tqdm
from data_pipelines.base.command import run_command
from data_pipelines.base.errors import answers_errors, fail

@answers_errors({OSError: 3})
def main(arguments):
    print("first", flush=True)
    for _ in tqdm(range(2000)):
        print("x" * 100)
        print("y", file=sys.stderr)
    with open(arguments[0], "w") as file:
        file.write("whole")
    return fail(["this went wrong"], 5) if arguments[1:] else 0

run_command(main)
"""


@pytest.mark.parametrize("flags", ["", "-u"])
@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", ">&- 2>&-", "| head -0", "| head -1", "2>&1 | head -0", "2>&1 >/dev/null | head -1"]
)
def test_a_command_that_nobody_reads_does_its_work(streams: str, flags: str, tmp_path: Path) -> None:
    for more, code in (("", 0), ("fail", 5)):
        script = f'"$0" {flags} -c "$1" "$2" {more} {streams}; exit "${{PIPESTATUS[0]}}"'
        command = ["bash", "-c", script, sys.executable, COMMAND, str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Errno" not in done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / "out").read_text() == "whole"


def test_what_is_read_is_whole_and_in_order() -> None:
    script = "from data_pipelines.base.command import run_command\nrun_command(lambda _: print(*range(99999)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == " ".join(map(str, range(99999))) + "\n"
