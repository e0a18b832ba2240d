"""The command goes on where it was stopped, and says in a line why it stopped."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.shards.finished import SUFFIX
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.writer import HashingWriter
from data_pipelines.tokenize import main


class Corpus:
    """Three texts in a folder, and the command on them."""

    def __init__(self, folder: Path, tokenizer: Path):
        self.folder, self.out = folder, folder / "out"
        (folder / "texts").mkdir()
        for name in "abc":
            self.write(name, f"text {name} " * 50)
        # A size that takes one of them, and no look into the input before the shards are written.
        each = ["--shard-size", "350", "--backend", "tokenizers"]
        self.arguments = [*each, "--input", f"{folder}/texts/*", "--tokenizer", str(tokenizer), "--out", str(self.out)]

    def write(self, name: str, text: str) -> None:
        (self.folder / f"texts/{name}.txt").write_text(text)

    def times(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.out.glob("*.ds")}

    def records(self) -> list[str]:
        return sorted(path.name.removesuffix(SUFFIX) for path in self.out.glob(f"*{SUFFIX}"))


@pytest.fixture
def corpus(tmp_path: Path, tokenizer_dir: Path) -> Corpus:
    return Corpus(tmp_path, tokenizer_dir)


def test_finished_shards_are_kept_and_give_the_same_folder(corpus: Corpus, tmp_path: Path) -> None:
    good = (corpus.folder / "texts/c.txt").read_bytes()
    corpus.write("c", "a\0b")
    assert main([*corpus.arguments, "--workers", "1"]) == 2
    before = corpus.times()
    assert corpus.records() == ["00000", "00001"]
    (corpus.folder / "texts/c.txt").write_bytes(good)
    assert main([*corpus.arguments, "--workers", "1"]) == 0
    after = corpus.times()
    assert {name: after[name] for name in ("00000.ds", "00001.ds")} == {
        name: before[name] for name in ("00000.ds", "00001.ds")
    }
    assert not corpus.records()
    again = [*corpus.arguments[:-1], str(tmp_path / "at_once")]
    assert main([*again, "--workers", "1"]) == 0
    assert Manifest.load(str(corpus.out)) == Manifest.load(str(tmp_path / "at_once"))
    assert {path.name for path in corpus.out.iterdir()} == {path.name for path in (tmp_path / "at_once").iterdir()}


def test_shards_that_no_such_command_wrote_are_not_written_over(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.out.mkdir()
    (corpus.out / "00000.ds").write_text("mine")
    assert main([*corpus.arguments, "--workers", "1"]) == 2
    assert "out has 00000.ds, which would be written over; choose another folder" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in corpus.out.iterdir()] == [("00000.ds", "mine")]


def test_a_command_that_was_killed_in_its_first_shard_begins_again(corpus: Corpus) -> None:
    corpus.write("a", "a\0b")
    assert main([*corpus.arguments, "--workers", "1"]) == 2
    assert not corpus.times()
    assert not corpus.records()
    (corpus.out / "00000.ds").write_text("half")  # as SIGKILL leaves it, which lets the command remove nothing
    corpus.write("a", "text")
    assert main([*corpus.arguments, "--workers", "1"]) == 0
    assert sorted({path.name.partition(".")[0] for path in corpus.out.iterdir()}) == [
        *("00000", "00001", "00002", "manifest", "report")
    ]


@pytest.mark.parametrize("change", ["text", "cut shard", "text key", "torn record"])
def test_a_shard_that_may_differ_is_made_anew(change: str, corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    corpus.write("c", "a\0b")
    assert main([*corpus.arguments, "--workers", "1"]) == 2
    before = corpus.times()
    corpus.write("c", "good")
    extra: list[str] = []
    if change == "text":
        corpus.write("a", "another text")
    elif change == "cut shard":
        os.truncate(corpus.out / "00000.ds", 10)
    elif change == "text key":
        extra = ["--text-key", "body"]
    else:
        (corpus.out / f"00000{SUFFIX}").write_text("{")
    assert main([*corpus.arguments, *extra, "--workers", "1"]) == 0
    assert corpus.times()["00000.ds"] != before["00000.ds"]
    assert not Manifest.load(str(corpus.out)).size_problems(str(corpus.out))


def test_a_full_disk_is_named_with_its_setting_and_no_half_shard_stays(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, left = HashingWriter.write, 800  # more than a shard takes, less than two

    def write_until_full(self: HashingWriter, data: bytes) -> None:
        nonlocal left
        if (left := left - len(data)) < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(HashingWriter, "write", write_until_full)
        assert main([*corpus.arguments, "--workers", "1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: --out={corpus.out}: no room is left on its disk (No space left on device); make some, or choose a "
        "place on another disk. Finished shards are kept; the same command goes on with the others."
    )
    assert corpus.records() == ["00000"]
    assert not list(corpus.out.glob("00001*"))
    assert main([*corpus.arguments, "--workers", "1"]) == 0


def test_ctrl_c_is_one_line_and_130(corpus: Corpus) -> None:
    code = (
        "import os, runpy, signal, data_pipelines.shards.writer as w; "
        "w.ShardWriter.add = lambda *_: os.kill(os.getpid(), signal.SIGINT); "
        "runpy.run_module('data_pipelines.tokenize', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *corpus.arguments, "--workers", "1"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 130
    last = ended.stderr.splitlines()[-1]
    assert last == "error: stopped by SIGINT. Finished shards are kept; the same command goes on with the others."
    assert "Traceback" not in ended.stderr


def test_a_killed_worker_ends_the_command_with_the_file_it_was_at(corpus: Corpus) -> None:
    """The worker hangs on a pipe that is put in the place of its file once the work is divided."""
    code = (
        "import sys, os, data_pipelines.tokenize as t, data_pipelines.corpora.tokenisation as e\n"
        "def jobs_of(*arguments, of=e.jobs_of):\n"
        "    jobs, path = of(*arguments), sys.argv[6].replace('*', 'b.txt')\n"
        "    os.unlink(path)\n"
        "    os.mkfifo(path)\n"
        "    return jobs\n"
        "e.jobs_of = jobs_of\n"
        "sys.exit(t.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *corpus.arguments, "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60.0
        while len(corpus.records()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [
            int(child)
            for child in children.read_text().split()
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        timer = threading.Timer(60.0, process.kill)
        timer.start()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate()
        timer.cancel()
    last = errors.splitlines()[-1]
    assert last.startswith("error: a worker process ended without an answer, at work on ")
    assert "b.txt" in last
    assert process.returncode == 3
    assert corpus.records() == ["00000", "00002"]
