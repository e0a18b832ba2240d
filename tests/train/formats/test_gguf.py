"""train/formats/gguf_file.py: what is in it, read with gguf and compared with transformers' config and names.

Whether llama.cpp runs it: test_llama_cpp.py.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType, ReaderTensor
from torch import Tensor
from transformers import AfmoeConfig

from data_pipelines.base.errors import ConfigError
from tests.train.afmoe import build_model, to_hf
from tests.train.formats.gguf_files import SEQ_LEN, MemoryReader, small_config, small_tokenizer, write_small
from train.formats import gguf_file as train_gguf
from train.formats.gguf_file import Dtype, write_gguf
from train.formats.hf_names import hf_config

ROWS_OF_48 = ("ffn_down_exps.weight", "ffn_down_shexp.weight")  # small_config: no multiple of Q8_0's block


def by_published_names(reader: MemoryReader) -> Iterator[tuple[str, Tensor]]:
    """(name in llama.cpp, tensor) by way of the Hugging Face names, for which the gguf package has a map of its own."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.AFMOE, small_config().num_layers)
    stacks: dict[str, list[Tensor]] = {}
    for hf_name, tensor in to_hf((name, reader.read(name)) for name in reader.shapes):
        # the map knows a layer's experts as one tensor, and a bias by its ending
        stem = re.sub(r"experts\.\d+", "experts", hf_name).replace(".expert_bias", ".expert_bias.bias")
        name = names.get_name(stem, try_suffixes=(".weight", ".bias"))
        assert name is not None, hf_name
        if ".experts." in hf_name:
            stacks.setdefault(name, []).append(tensor)
        else:
            yield name, tensor
    yield from ((name, torch.stack(experts)) for name, experts in stacks.items())


def tensors_of(path: Path) -> dict[str, ReaderTensor]:
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def keys_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def values_of(tensor: ReaderTensor) -> Tensor:
    return torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())


def stays_float32(name: str) -> bool:
    return "norm" in name or "ffn_gate_inp" in name or name.endswith("exp_probs_b.bias")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Dtype, tuple[Path, dict[str, Tensor]]]:
    """Type of the matrices -> file, tensors that should be in it."""
    files = {}
    for dtype in ("float32", "bfloat16", "q8_0"):
        path, model = write_small(tmp_path_factory.mktemp(dtype), small_config(), dtype=dtype)
        files[dtype] = path, dict(by_published_names(MemoryReader(model)))
    return files


def test_names_and_shapes_are_those_that_the_gguf_package_maps_the_published_ones_to(written: Any) -> None:
    path, expected = written["float32"]
    shapes = {name: tensor.shape.tolist() for name, tensor in tensors_of(path).items()}
    assert shapes == {name: list(reversed(tensor.shape)) for name, tensor in expected.items()}  # fastest first
    kinds = {re.sub(r"blk\.\d+", "blk.{bid}", name).rpartition(".")[0] for name in shapes}
    assert kinds == {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.AFMOE]}


def test_float32_is_exact(written: Any) -> None:
    path, expected = written["float32"]
    for name, tensor in tensors_of(path).items():
        assert tensor.tensor_type == GGMLQuantizationType.F32
        assert torch.equal(values_of(tensor), expected[name]), name


def test_bfloat16_rounds_as_the_gguf_package_does_and_leaves_vectors_and_router(written: Any) -> None:
    path, expected = written["bfloat16"]
    for name, tensor in tensors_of(path).items():
        kind = GGMLQuantizationType.F32 if stays_float32(name) else GGMLQuantizationType.BF16
        assert tensor.tensor_type == kind, name
        assert np.array_equal(tensor.data, gguf.quantize(expected[name].numpy(), kind)), name


def test_q8_0_is_off_by_half_a_step_at_most_and_leaves_rows_that_are_no_whole_blocks(written: Any) -> None:
    path, expected = written["q8_0"]
    for name, tensor in tensors_of(path).items():
        if stays_float32(name) or name.endswith(ROWS_OF_48):
            assert tensor.tensor_type == GGMLQuantizationType.F32
            assert torch.equal(values_of(tensor), expected[name]), name
            continue
        assert tensor.tensor_type == GGMLQuantizationType.Q8_0
        blocks = expected[name].reshape(-1, 32)
        step = blocks.abs().amax(1, keepdim=True) / 127
        error = (values_of(tensor).reshape(-1, 32) - blocks).abs()
        # the step itself is stored in float16: 2^-11 of it, up to 127 times
        assert (error <= step * (0.5 + 127 * 2**-11)).all(), name


def test_the_keys_say_what_transformers_reads_in_our_config(written: Any) -> None:
    path, _ = written["float32"]
    config: Any = AfmoeConfig(
        **hf_config(small_config(), max_positions=SEQ_LEN, speed=1e-3, token_ids={}, dtype="float32")
    )
    expected = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "leading_dense_block_count": config.num_dense_layers,
        "feed_forward_length": config.intermediate_size,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_norm": True,  # transformers normalises always
        "expert_weights_scale": pytest.approx(config.route_scale),  # float32, as the two below
        "expert_gating_func": gguf.ExpertGatingFuncType.SIGMOID,  # transformers knows no other
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": pytest.approx(config.rms_norm_eps),
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": 1 + config.layer_types.index("full_attention"),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": pytest.approx(config.rope_parameters["rope_theta"]),
    }
    keys = keys_of(path)
    assert {key: value for key, value in keys.items() if key.startswith("afmoe.")} == {
        f"afmoe.{key}": value for key, value in expected.items()
    }
    assert keys["general.architecture"] == "afmoe"


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float32", LlamaFileType.ALL_F32),
        ("bfloat16", LlamaFileType.MOSTLY_BF16),
        ("q8_0", LlamaFileType.MOSTLY_Q8_0),
    ],
)
def test_the_file_says_its_type(written: Any, dtype: Dtype, kind: LlamaFileType) -> None:
    assert keys_of(written[dtype][0])["general.file_type"] == kind


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "q8_0"])
def test_the_same_bytes_whatever_is_held_at_a_time(
    written: Any, dtype: Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_gguf, "SLICE_ELEMENTS", 4000)  # one expert (3,072) of eight; 62 of the 320 embeddings
    config = small_config()
    reader, path = MemoryReader(build_model(config, seq_len=SEQ_LEN)), tmp_path / "model.gguf"
    write_gguf(path, config, reader, small_tokenizer(tmp_path / "tokenizer"), dtype=dtype, max_positions=SEQ_LEN)
    assert max(reader.reads) <= 4000
    assert path.read_bytes() == written[dtype][0].read_bytes()


KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
from train.formats.gguf_file import write_gguf
from train.afmoe.config import ModelConfig

class Reader:
    shapes = {"tok_embeddings.weight": torch.Size([320, 64]), "lm_head.weight": torch.Size([320, 64])}

    def read(self, name, rows=None):
        if name == "lm_head.weight":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(320, 64)

path, tokenizer_dir, config = sys.argv[1:]
model = ModelConfig(**json.loads(config))
write_gguf(Path(path), model, Reader(), Path(tokenizer_dir), dtype="float32", max_positions=64)
"""


def test_a_killed_write_leaves_no_file(tmp_path: Path) -> None:
    path, tokenizer_dir = tmp_path / "out" / "model.gguf", small_tokenizer(tmp_path / "tokenizer")
    config = json.dumps(asdict(small_config()))
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(tokenizer_dir), config])
    assert done.returncode == -signal.SIGKILL
    (left,) = path.parent.iterdir()
    assert re.fullmatch(r"model\.gguf\..+\.tmp", left.name)


def test_a_failed_write_leaves_what_was_there(written: Any, tmp_path: Path) -> None:
    class Failing(MemoryReader):
        def read(self, name: str, rows: slice | None = None) -> Tensor:
            raise OSError("the disk is gone")

    config, path = small_config(), tmp_path / "model.gguf"
    path.write_bytes(before := written["float32"][0].read_bytes())
    reader, tokenizer_dir = Failing(build_model(config, seq_len=SEQ_LEN)), small_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(OSError, match="the disk is gone"):
        write_gguf(path, config, reader, tokenizer_dir, dtype="float32", max_positions=SEQ_LEN)
    assert path.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"model.gguf", "tokenizer"}


def test_what_llama_cpp_takes_from_no_key_is_refused_at_once(tmp_path: Path) -> None:
    config, unread = small_config(scale_embedding=False, global_every=2), cast(Any, None)
    with pytest.raises(ConfigError) as refused:
        write_gguf(tmp_path, config, unread, tmp_path, dtype="float32", max_positions=SEQ_LEN)
    message = str(refused.value)
    assert "model.scale_embedding=false" in message
    assert "model.global_every=2" in message
    assert "--format hf" in message
    assert f"{tmp_path} is a folder" in message


def test_a_file_that_is_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (path := tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not as an export of this program wrote it"):
        write_gguf(path, small_config(), cast(Any, None), tmp_path, dtype="float32", max_positions=SEQ_LEN)
    assert path.read_text() == "mine"
