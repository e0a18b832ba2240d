"""Whatever happens to the command and however many processes work, the shards are those of an undisturbed one."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.shards.manifest import Manifest
from data_pipelines.tokenize import main

STAGES = {
    "sample": "data_pipelines.corpora.tokenisation.choose_backend",
    "division into jobs": "data_pipelines.corpora.tokenisation.jobs_of",
    "first document": "data_pipelines.shards.writer.ShardWriter.add",
    "end of a shard": "data_pipelines.shards.writer.ShardWriter.__exit__",
    "record of a shard": "data_pipelines.corpora.tokenisation.save_finished",
    "manifest": "data_pipelines.corpora.tokenisation.write_manifest",
    "report": "data_pipelines.corpora.tokenisation._report",
    "removal of the records": "data_pipelines.corpora.tokenisation.forget_finished",
}
"""Where the command is killed -> the function that it is killed before or behind."""
KILL = """
import os, pkgutil, signal, sys
place, when, number, *arguments = sys.argv[1:]
owner, _, name = place.rpartition(".")
holder = pkgutil.resolve_name(owner)
function, calls = getattr(holder, name), 0
def killed(*args, **kwargs):
    global calls
    calls += 1
    if when == "before" and calls == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    result = function(*args, **kwargs)
    if when == "behind" and calls == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(holder, name, killed)
from data_pipelines.tokenize import main
sys.exit(main(arguments))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL, packed and not, text, empty documents, documents that are no UTF-8."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    words = ["the", "cat", "1234567", "naïve", "工作", "\n", "x = 3", "<|end_of_text|>", ""]

    def line(number: int) -> bytes:
        if number % 17 == 0:
            return b'{"text": "broken \xff\xfe"}\n'
        text = " ".join(rng.choices(words, k=rng.randrange(60)))
        return json.dumps({"text": text}).encode() + b"\n"

    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(b"".join(line(number) for number in range(1, 120)))
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(b"".join(line(number) for number in range(1, 400)), mtime=0))
    (folder / "e.txt").write_text("a text of its own. " * 300)
    (folder / "f.txt").write_text("")
    return folder


def arguments(corpus: Path, tokenizer: Path, out: Path, workers: int = 1) -> list[str]:
    files = ["--input", f"{corpus}/*", "--tokenizer", str(tokenizer), "--out", str(out)]
    return [*files, "--undecodable", "skip", "--shard-size", "8K", "--workers", str(workers)]


def state(out: Path) -> dict[str, str]:
    """Name -> sha256 of everything in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def golden(corpus: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("golden") / "out"
    assert main(arguments(corpus, tokenizer_dir, out)) == 0
    assert len(Manifest.load(str(out)).shards) >= 5
    assert json.loads((out / "report.json").read_text())["undecodable"] == 3 * 7 + 23
    return state(out)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_processes_makes_no_difference(
    workers: int, corpus: Path, tokenizer_dir: Path, golden: dict[str, str], tmp_path: Path
) -> None:
    assert main(arguments(corpus, tokenizer_dir, tmp_path / "out", workers)) == 0
    assert state(tmp_path / "out") == golden


@pytest.mark.parametrize("stages", [("record of a shard",), pytest.param(tuple(STAGES), marks=pytest.mark.battery)])
def test_the_command_killed_at_each_stage_goes_on_to_the_same_folder(
    stages: tuple[str, ...], corpus: Path, tokenizer_dir: Path, golden: dict[str, str], tmp_path: Path
) -> None:
    cases = [point for point in kill_points() if point[0] in stages]
    for number, (stage, when, call) in enumerate(cases):
        out = tmp_path / str(number)
        command = [sys.executable, "-c", KILL, STAGES[stage], when, str(call)]
        done = subprocess.run([*command, *arguments(corpus, tokenizer_dir, out)], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, (stage, when, call, done.stderr)
        if not Manifest.exists(str(out)):
            assert main(arguments(corpus, tokenizer_dir, out, workers=1)) == 0
        committed = {name: hash_ for name, hash_ in state(out).items() if name in golden}
        assert committed == golden, (stage, when, call)
    print(f"killed and finished: {len(cases)} cases")


def kill_points() -> Iterator[tuple[str, str, int]]:
    for stage in STAGES:
        several = stage in ("first document", "end of a shard", "record of a shard")
        for when in ("before", "behind"):
            yield from ((stage, when, call) for call in ((1, 3) if several else (1,)))


@pytest.mark.battery
def test_processes_killed_at_random_times_leave_what_can_be_gone_on_from(
    corpus: Path, tokenizer_dir: Path, golden: dict[str, str], tmp_path: Path
) -> None:
    rng, out, kills = random.Random(0), tmp_path / "out", 0
    for _ in range(12):
        command = [sys.executable, "-m", "data_pipelines.tokenize", *arguments(corpus, tokenizer_dir, out, 2)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0.3, 2.5))
            kills += process.poll() is None
            process.kill()
        if Manifest.exists(str(out)):
            break
    if not Manifest.exists(str(out)):
        assert main(arguments(corpus, tokenizer_dir, out)) == 0
    assert {name: hash_ for name, hash_ in state(out).items() if name in golden} == golden
    print(f"killed at random: {kills} times")


@pytest.mark.battery
def test_one_document_of_100_mb_is_one_document(tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = "".join(random.Random(0).choices(["the cat ", "x = 3\n", "1234567 "], k=16_000_000))
    (tmp_path / "in/a.txt").write_text(text[:100_000_000])
    for workers in (1, 2):
        assert main([*arguments(tmp_path / "in", tokenizer_dir, tmp_path / str(workers), workers)]) == 0
    assert state(tmp_path / "1") == state(tmp_path / "2")
    manifest = Manifest.load(str(tmp_path / "1"))
    assert manifest.num_documents == 1
    assert json.loads((tmp_path / "1/report.json").read_text())["over_long"] == 1


def test_a_second_command_on_the_folder_is_refused(
    corpus: Path, tokenizer_dir: Path, golden: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = KILL.replace("SIGKILL", "SIGSTOP")
    command = [sys.executable, "-c", code, STAGES["record of a shard"], "before", "2"]
    with subprocess.Popen([*command, *arguments(corpus, tokenizer_dir, out)], stdout=subprocess.DEVNULL) as first:
        timer = threading.Timer(60.0, first.kill)
        timer.start()
        os.waitid(os.P_PID, first.pid, os.WSTOPPED)
        assert main(arguments(corpus, tokenizer_dir, out)) == 2
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0
        timer.cancel()
    assert state(out) == golden
