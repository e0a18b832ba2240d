"""train/evaluate.py: which tokens are targets, what the command prints, and what it refuses."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_pipelines.base.errors import CONFIG_EXIT
from data_pipelines.settings.compose import compose
from train.afmoe.head import Loss
from train.config.check import check
from train.config.rundir import open_run_dir
from train.evaluate import main
from train.evaluation.tokens import mean_loss, read_sequences
from train.loss.config import LossConfig
from train.loss.sums import LossSums


class NextId(nn.Module):
    """Gives the id after each input e times the weight of any other of four."""

    def forward(self, ids_BL: Tensor, positions: Tensor, loss: Loss) -> LossSums:
        return loss(nn.functional.one_hot((ids_BL + 1) % 4, 4).float(), torch.eye(4))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npy"
    np.save(path, [[4, 5, 6], [7, 8, 9]])
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has no checkpoint yet."""
    folder = tmp_path / "run"
    open_run_dir(check(compose(["experiment=smoke", f"run.dir={folder}"])))
    return folder


def sequences_of(path: Path, ids: object, *, seq_len: int = 4) -> list[list[int]]:
    np.save(path, np.asarray(ids))
    return [sequence.tolist() for sequence in read_sequences(path, seq_len=seq_len, vocab_size=100)]


def refusal(run_dir: Path, tokens: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What the command says as it refuses."""
    assert main([str(run_dir), "--tokens", str(tokens), *more]) == CONFIG_EXIT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    return err


def test_rows_are_sequences_as_they_are(tmp_path: Path) -> None:
    assert sequences_of(tmp_path / "x.npy", [[1, 2, 3], [4, 5, 6]]) == [[1, 2, 3], [4, 5, 6]]


def test_in_a_stream_each_token_but_the_first_is_a_target_once(tmp_path: Path) -> None:
    # targets 1-4, 5-8 and 9: each window begins with the last target of the one before
    assert sequences_of(tmp_path / "x.npy", range(10)) == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9]]
    assert sequences_of(tmp_path / "x.npy", range(9)) == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert sequences_of(tmp_path / "x.npy", range(2)) == [[0, 1]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0, 2.0], r"got float64 \(2,\)"),
        ([1], r"\[tokens >= 2\] .* got int64 \(1,\)"),
        ([[1], [2]], r"got int64 \(2, 1\)"),
        (np.zeros((0, 3), dtype=int), r"got int64 \(0, 3\)"),
        (3, r"got int64 \(\)"),
        ([[[1, 2]]], r"got int64 \(1, 1, 2\)"),
        ([1, 100], "ids 1 to 100, expected 0 to model.vocab_size - 1 = 99"),
        ([-1, 5], "ids -1 to 5, expected 0"),
        (np.array([1, 2], "m8[s]"), r"got timedelta64\[s\] \(2,\)"),
        ([True, False], r"got bool \(2,\)"),
    ],
)
def test_what_are_no_tokens_of_the_model_is_refused(tmp_path: Path, ids: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"x\.npy: .*{message}"):
        sequences_of(tmp_path / "x.npy", ids)


@pytest.mark.parametrize("content", [b"", b"1 2 3\n", b"PK\x03\x04 an archive"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy: not an array as numpy\.save writes it"):
        read_sequences(tmp_path / "x.npy", seq_len=4, vocab_size=100)


def test_hand_worked_loss_is_a_mean_over_targets_not_over_sequences() -> None:
    # 1 follows 0, and 3 follows 2, but 3 does not follow 1: with z = ln(e + 3), two targets cost z - 1, one costs z
    loss, targets = mean_loss(NextId(), [np.array([0, 1, 3]), np.array([2, 3])], LossConfig())
    assert targets == 3
    assert loss == pytest.approx(math.log(math.e + 3) - 2 / 3, rel=1e-6)  # float32 logits


def test_the_command_prints_one_json_object(
    run_dir: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Uniform(nn.Module):
        def forward(self, ids_BL: Tensor, positions: Tensor, loss: Loss) -> LossSums:
            return loss(torch.ones(*ids_BL.shape, 2), torch.zeros(8, 2))

    np.save(tokens, [[4, 5, 6], [7, 0, 1]])
    for step in (3, 12):
        (run_dir / f"checkpoint/step-{step}").mkdir(parents=True)
    monkeypatch.setattr("train.checkpoint.reader.load_model", lambda *_, **__: Uniform())
    for step, arguments in ((12, []), (3, ["--step", "3"])):
        assert main([str(run_dir), "--tokens", str(tokens), *arguments]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "loss": pytest.approx(math.log(8)),
            "perplexity": pytest.approx(8),
            "tokens": 4,
            "step": step,
        }


def test_a_folder_without_a_run_is_refused(tmp_path: Path, tokens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} is no run directory: it has no config.yaml" in refusal(tmp_path, tokens, capsys)


def test_a_run_without_checkpoint_is_refused(run_dir: Path, tokens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{run_dir}/checkpoint has no complete checkpoint yet" in refusal(run_dir, tokens, capsys)


def test_a_step_without_checkpoint_is_refused_with_those_there_are(
    run_dir: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "checkpoint/step-3").mkdir(parents=True)
    assert "no complete checkpoint step-4; there are: step-3" in refusal(run_dir, tokens, capsys, "--step", "4")


def test_rows_longer_than_the_sequence_are_refused(
    run_dir: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tokens, np.zeros((1, 258), dtype=np.int64))  # 257 targets
    assert "rows of more than training.seq_len=256 targets; cut them" in refusal(run_dir, tokens, capsys)


def test_a_file_that_is_not_there_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.npy" in refusal(run_dir, Path("nowhere.npy"), capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN, --tokens"),
        (["runs/x"], "the following arguments are required: --tokens"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == CONFIG_EXIT  # argparse's own, 2
    assert message in capsys.readouterr().err


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2**46,)})
    with pytest.raises(
        ValueError, match=r"x\.npy: .*its header says int64 \(70368744177664,\), 562,949,953,421,312 bytes"
    ):
        read_sequences(tmp_path / "x.npy", seq_len=4, vocab_size=100)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (True, 50)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 50",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-2, 50)}",
        "{'descr': ['<i8'], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<i8', 'fortran_order': False, [1]: (2,)}",
        "{'descr': ('<i8', (2, 'x')), 'fortran_order': False, 'shape': (2,)}",
        "(" * 5000,
        "'\0'",
        "'x",
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    text = f"{header}\n".encode()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(800))
    with pytest.raises(ValueError, match=r"x\.npy: (not an array as numpy\.save writes it|expected whole numbers)"):
        read_sequences(tmp_path / "x.npy", seq_len=4, vocab_size=100)


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"x\.npy: is no file"):
        read_sequences(tmp_path / "x.npy", seq_len=4, vocab_size=100)
