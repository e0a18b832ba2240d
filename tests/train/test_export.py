"""train/export.py and train/formats/safetensors_file.py: which files, which bytes, and what a failure leaves behind."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_pipelines.base.errors import CONFIG_EXIT
from tests import bench_export
from tests.train.afmoe import to_hf
from tests.train.small import SEQ_LEN, small_settings, write_run
from train.checkpoint.commits import name_milestones
from train.checkpoint.reader import CheckpointReader
from train.export import export, main, parse_bytes
from train.formats.hf_write import _read_parts
from train.formats.safetensors_file import Entry, index_of, plan_shards, write_shard


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small_settings(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run_dir(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def state(small: list[str], run_dir: Path) -> dict[str, Tensor]:
    """What the run's checkpoint holds, under published names."""
    return dict(to_hf(write_run(small, run_dir).items()))


def load_folder(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def entries_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> which file it is, and when it was written; of links and folders too."""
    return {entry.name: (entry.lstat().st_ino, entry.lstat().st_mtime_ns) for entry in folder.iterdir()}


def entry(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Entry:
    return Entry(name, shape, dtype, source=None)


# Shards


def test_a_shard_takes_tensors_in_order_until_one_does_not_fit() -> None:
    # 40, 40 | 40, 30 | 200: 200 is more than any shard may have, so it has its own | 4
    sizes = {"a": 10, "b": 10, "c": 10, "d": 7, "e": 50, "f": 1}
    shards = plan_shards([entry(name, size) for name, size in sizes.items()], shard_bytes=100)
    assert {file: [tensor.name for tensor in shard] for file, shard in shards.items()} == {
        "model-00001-of-00004.safetensors": ["a", "b"],
        "model-00002-of-00004.safetensors": ["c", "d"],
        "model-00003-of-00004.safetensors": ["e"],
        "model-00004-of-00004.safetensors": ["f"],
    }


def test_the_index_is_known_before_a_byte_is_read() -> None:
    shards = plan_shards([entry("a", 2, 3), entry("b", 4, dtype=torch.bfloat16)], shard_bytes=24)
    assert index_of(shards) == {
        "metadata": {"total_size": 24 + 8},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }


def test_a_file_is_what_safetensors_reads_whatever_the_parts(tmp_path: Path) -> None:
    # 5 bfloat16 would leave the float32 after them at an odd place: the wider dtype comes first
    tensors = {"odd": torch.randn(5).bfloat16(), "matrix": torch.randn(6, 4), "row": torch.randn(1, 3)}
    shard = [Entry(name, tuple(tensor.shape), tensor.dtype, source=tensor) for name, tensor in tensors.items()]
    written: list[int] = []

    def read(entry: Entry) -> Iterator[Tensor]:
        yield from entry.source.float().split(2)

    write_shard(tmp_path / "x.safetensors", shard, read=read, progress=written.append)
    loaded = load_file(tmp_path / "x.safetensors")
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {name: t.dtype for name, t in tensors.items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert sum(written) == sum(tensor.nbytes for tensor in tensors.values())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    header_bytes = int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little")
    assert header_bytes % 8 == 0


@pytest.mark.parametrize(
    ("text", "expected"), [("5GB", 5 * 10**9), ("1.5MB", 1_500_000), ("200 KB", 200_000), ("1TB", 10**12)]
)
def test_sizes_are_decimal(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["5", "GB", "5gb", "0GB", "-1GB", "5GiB", ""])
def test_a_size_without_meaning_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"got '{text}', expected a number and KB, MB, GB or TB"):
        parse_bytes(text)


# The folder


def test_the_shards_hold_the_checkpoint_and_the_index_says_where(run_dir: Path, state: dict, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "hf", step=None, dtype="float32", shard_bytes=10_000)
    index = json.loads((tmp_path / "hf/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 5
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "hf" / file, framework="pt") as tensors:
            assert torch.equal(tensors.get_tensor(name), state[name])
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())


def test_bfloat16_is_rounding_and_spares_the_selection_biases(run_dir: Path, state: dict, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "hf", step=1, dtype="bfloat16")
    loaded = load_folder(tmp_path / "hf")
    assert loaded.keys() == state.keys()
    for name, tensor in loaded.items():
        dtype = torch.float32 if name.endswith("expert_bias") else torch.bfloat16
        assert tensor.dtype == dtype
        assert torch.equal(tensor, state[name].to(dtype))
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_checkpoint_is_asked_for_by_its_step_or_by_the_phase_that_it_ends(
    run_dir: Path, state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").symlink_to(run_dir / "config.yaml")
    shutil.copytree(run_dir / "checkpoint/step-1", tmp_path / "run/checkpoint/step-7")
    shutil.copytree(run_dir / "checkpoint/step-1", tmp_path / "run/checkpoint/step-9.tmp")  # was not completed
    name_milestones(tmp_path / "run/checkpoint", {7: "general", 9: "stem"})
    for step in ("7", "phase-general"):
        assert main([str(tmp_path / "run"), str(tmp_path / "hf"), "--step", step]) == 0
    for step, name in {"9": "step-9", "9.tmp": "9.tmp", "step-9.tmp": "step-9.tmp", "phase-stem": "phase-stem"}.items():
        assert main([str(tmp_path / "run"), str(tmp_path / "hf"), "--step", step]) == CONFIG_EXIT
        expected = f"has no complete checkpoint {name}; there are: step-7, phase-general"
        assert expected in capsys.readouterr().err


def test_a_run_of_a_gpu_machine_is_exported_on_one_without(run_dir: Path, state: dict, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = OmegaConf.load(run_dir / "config.yaml")
    config.model.attention, config.loss.kernel = "flex", "liger"
    OmegaConf.save(config, tmp_path / "run/config.yaml")
    (tmp_path / "run/checkpoint").symlink_to(run_dir / "checkpoint")
    assert main([str(tmp_path / "run"), str(tmp_path / "hf")]) == 0


def test_a_tensor_is_read_in_blocks_of_rows_and_an_expert_alone(
    run_dir: Path, state: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.formats.hf_write.BLOCK_BYTES", 640)
    reader = CheckpointReader(run_dir / "checkpoint/step-1")
    head = Entry("lm_head.weight", (288, 16), torch.float32, source=("lm_head.weight", None))
    parts = list(_read_parts(reader, head))
    assert [len(part) for part in parts] == [10] * 28 + [8]  # 640 bytes are ten rows of 16 float32
    assert torch.equal(torch.cat(parts), state["lm_head.weight"])
    expert = Entry("", (12, 16), torch.float32, source=("layers.2.moe.routed_experts.inner_experts.w1_EFD", 3))
    (matrix,) = _read_parts(reader, expert)
    assert torch.equal(matrix[0], state["model.layers.2.mlp.experts.3.gate_proj.weight"])


def test_of_the_tokenizers_folder_only_the_tokenizer_is_copied(run_dir: Path, state: dict, tmp_path: Path) -> None:
    tokenizer = tmp_path / "published"
    (tokenizer / "original").mkdir(parents=True)
    config = (run_dir / "config.yaml").read_text()
    source = Path(next(line.split()[1] for line in config.splitlines() if line.strip().startswith("tokenizer:")))
    for file in source.iterdir():
        (tokenizer / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "model-00001-of-00061.safetensors", "README.md"):
        (tokenizer / name).write_text("another model's")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(config.replace(str(source), str(tokenizer)))
    (tmp_path / "run/checkpoint").symlink_to(run_dir / "checkpoint")
    export(tmp_path / "run", tmp_path / "hf", step=None, dtype="float32")
    assert sorted(file.name for file in (tmp_path / "hf").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / "hf/config.json").read_text())["max_position_embeddings"] == SEQ_LEN
    assert json.loads((tmp_path / "hf/generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "do_sample": True,
    }


def test_a_model_of_1_17_billion_parameters_is_exported_in_three_times_its_largest_file(
    tables: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.disk_usage(tmp_path).free < 10 * 10**9:
        pytest.skip("needs 10 GB of disk")
    exceeded = bench_export.main(["--folder", str(tmp_path)])
    tables["export of a model of Mini's layers"] = capsys.readouterr().out.splitlines()
    assert not exceeded


# Failures


def fail_in_the_second_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    write, files = write_shard, []

    def write_once(path: Path, *args, **kwargs) -> None:
        files.append(path)
        if len(files) == 2:
            raise OSError(28, "No space left on device")
        write(path, *args, **kwargs)

    monkeypatch.setattr("train.formats.safetensors_file.write_shard", write_once)


def test_an_export_that_fails_leaves_nothing(
    run_dir: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_the_second_shard(monkeypatch)
    assert main([str(run_dir), str(tmp_path / "hf"), "--shard-size", "10KB"]) == CONFIG_EXIT
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_one_before(
    run_dir: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run_dir, tmp_path / "hf", step=None, dtype="bfloat16")
    before = files_of(tmp_path / "hf")
    fail_in_the_second_shard(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        export(run_dir, tmp_path / "hf", step=None, dtype="float32", shard_bytes=10_000)
    assert files_of(tmp_path / "hf") == before
    assert [folder.name for folder in tmp_path.iterdir()] == ["hf"]


def test_a_killed_export_looks_like_none_and_is_no_obstacle(
    run_dir: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL runs no `finally`: what lies there then is what lies there while the last file is being written."""
    seen: list[list[str]] = []
    write = write_shard

    def write_and_look(path: Path, *args, **kwargs) -> None:
        write(path, *args, **kwargs)
        seen.append(sorted(file.name for file in path.parent.iterdir()))
        assert path.parent != tmp_path / "hf"

    monkeypatch.setattr("train.formats.safetensors_file.write_shard", write_and_look)
    (tmp_path / "hf.tmp").mkdir()
    (tmp_path / "hf.tmp/model-00001-of-00099.safetensors").write_text("left by a killed export")
    export(run_dir, tmp_path / "hf", step=None, dtype="float32", shard_bytes=10_000)
    assert seen
    assert all(name.startswith("model-") for names in seen for name in names)  # no config.json, no index: not a model
    assert "model-00001-of-00099.safetensors" not in files_of(tmp_path / "hf")
    assert load_folder(tmp_path / "hf").keys() == state.keys()


def test_an_export_replaces_the_one_before_and_nothing_else(run_dir: Path, state: dict, tmp_path: Path) -> None:
    for _ in range(2):
        export(run_dir, tmp_path / "hf", step=None, dtype="float32")
    assert [folder.name for folder in tmp_path.iterdir()] == ["hf"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").touch()
    assert main([str(run_dir), str(tmp_path / "precious")]) == CONFIG_EXIT
    assert [file.name for file in (tmp_path / "precious").iterdir()] == ["thesis.txt"]


def add(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")

    return change


def save_tuned_weights(folder: Path) -> None:
    """Somebody trained them on and saved them, of another dtype, under the same name."""
    (file,) = folder.glob("*.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("README.md"), "README.md"),
        (add("adapter/adapter_model.bin"), "adapter/"),
        (add("generation_config.json"), "generation_config.json"),
        (add("model.safetensors"), "model.safetensors"),
        (save_tuned_weights, "model-00001-of-00001.safetensors"),
        (lambda folder: (folder / "notes").symlink_to("nowhere"), "notes"),
    ],
    ids=["readme", "adapter", "edited", "weights", "tuned", "link"],
)
def test_what_a_user_added_to_an_export_or_changed_in_it_is_not_replaced(
    change: Callable[[Path], object],
    named: str,
    run_dir: Path,
    state: dict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(run_dir, tmp_path / "hf", step=None, dtype="float32")
    change(tmp_path / "hf")
    before = entries_of(tmp_path / "hf")
    assert main([str(run_dir), str(tmp_path / "hf")]) == CONFIG_EXIT
    assert f"in which {named} was added or changed since; move that away" in capsys.readouterr().err
    assert entries_of(tmp_path / "hf") == before


def test_what_appears_while_an_export_is_written_is_not_replaced(
    run_dir: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_add(path: Path, *args, **kwargs) -> None:
        write_shard(path, *args, **kwargs)
        add("hf/thesis.txt")(tmp_path)

    monkeypatch.setattr("train.formats.safetensors_file.write_shard", write_and_add)
    assert main([str(run_dir), str(tmp_path / "hf")]) == CONFIG_EXIT
    assert files_of(tmp_path / "hf") == {"thesis.txt": b"mine"}


def test_an_export_to_a_link_or_an_empty_folder_goes_there(run_dir: Path, state: dict, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "hf").symlink_to("disk")
    for _ in range(2):
        export(run_dir, tmp_path / "hf", step=None, dtype="float32")
    assert (tmp_path / "hf").is_symlink()
    assert load_folder(tmp_path / "disk").keys() == state.keys()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "hf"]


def test_a_checkpoint_of_another_model_is_refused(
    run_dir: Path, state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    config = (run_dir / "config.yaml").read_text().replace("  num_experts: 8", "  num_experts: 4")
    (tmp_path / "run/config.yaml").write_text(config)
    (tmp_path / "run/checkpoint").symlink_to(run_dir / "checkpoint")
    assert main([str(tmp_path / "run"), str(tmp_path / "hf")]) == CONFIG_EXIT
    message = "layers.1.moe.expert_bias_E: got shape [8], expected [4]"
    assert message in capsys.readouterr().err


def test_a_truncated_checkpoint_is_refused_by_the_file(run_dir: Path, state: dict, tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    for file in (run_dir / "checkpoint/step-1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[: None if file.name == ".metadata" else 20_000])
    reader = CheckpointReader(folder)
    with pytest.raises(OSError, match=r"__0_0\.distcp.*the checkpoint is damaged"):
        list(map(reader.read, reader.shapes))


# GGUF


def test_a_gguf_file_is_made_of_the_same_checkpoint(run_dir: Path, state: dict, tmp_path: Path) -> None:
    assert main([str(run_dir), str(tmp_path / "new/x.gguf"), "--format", "gguf"]) == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.gguf"]
    reader = GGUFReader(tmp_path / "new/x.gguf")
    head = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    assert torch.equal(torch.from_numpy(np.array(head.data)), state["lm_head.weight"])


def test_a_gguf_export_that_fails_leaves_the_file_before(
    run_dir: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(writer: GGUFWriter, *args) -> None:
        writer.write_header_to_file()
        raise OSError(28, "No space left on device")

    assert main([str(run_dir), str(tmp_path / "x.gguf"), "--format", "gguf"]) == 0
    before = files_of(tmp_path)
    monkeypatch.setattr("train.formats.gguf_file._write", fail)
    assert main([str(run_dir), str(tmp_path / "x.gguf"), "--format", "gguf", "--dtype", "q8_0"]) == CONFIG_EXIT
    assert files_of(tmp_path) == before


def write_gguf_of_somebody(path: Path) -> None:
    writer = GGUFWriter(path, "afmoe")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(32))


def rewrite(path: Path) -> None:
    """As a tool that edits or quantises does: every key is kept, and one comes on top."""
    reader = GGUFReader(path)
    writer = GGUFWriter(path.with_suffix(".new"), "afmoe")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_string("general.description", "mine")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize(
    "change", [lambda path: path.write_text("mine"), write_gguf_of_somebody, append, rewrite], ids=lambda f: f.__name__
)
def test_a_gguf_export_replaces_nothing_but_its_own(
    change: Callable[[Path], object],
    run_dir: Path,
    state: dict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.gguf"
    for _ in range(2):
        assert main([str(run_dir), str(path), "--format", "gguf"]) == 0
    change(path)
    before = files_of(tmp_path)
    assert main([str(run_dir), str(path), "--format", "gguf"]) == CONFIG_EXIT
    assert f"{path} exists and is not as an export of this program wrote it" in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_q8_0_needs_gguf(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(run_dir), str(tmp_path / "hf"), "--dtype", "q8_0"])
    assert stop.value.code == CONFIG_EXIT
    assert "argument --dtype: q8_0 needs --format gguf; hf takes float32 and bfloat16" in capsys.readouterr().err


def test_gguf_into_a_folder_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir), str(tmp_path), "--format", "gguf"]) == CONFIG_EXIT
    assert f"{tmp_path} is a folder; --format gguf makes a file" in capsys.readouterr().err
