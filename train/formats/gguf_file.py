"""A model as one GGUF file that llama.cpp loads: keys, tokenizer and tensors of its `afmoe` architecture.

    config, tokenizer, shapes -> keys and tensor infos -> tensor data, a slice of a tensor at a time

Which keys and tensors llama.cpp asks for, of which shape and type, was learnt from its src/models/afmoe.cpp and its
converter of AfmoeForCausalLM. Its RoPE turns the halves of a head, as ours does, so that q and k stay as they are. Two
things it takes from no key: embeddings are multiplied by sqrt(dim), and each fourth layer is global without RoPE. A
model that differs there is refused: the file would load and be wrong. tests/train/formats/test_llama_cpp.py runs it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Literal, TypeAlias

import gguf
import numpy as np
import torch
from gguf import MODEL_TENSOR, GGMLQuantizationType, LlamaFileType
from torch import Tensor

from data_pipelines.base.errors import ConfigError
from data_pipelines.base.files import whole_file
from data_pipelines.base.progress import progress_bar
from train.afmoe.config import ModelConfig
from train.formats.gguf_tokenizer import add_tokenizer
from train.formats.tensors import Reader

Dtype: TypeAlias = Literal["float32", "bfloat16", "q8_0"]

SLICE_ELEMENTS = 2**28
"""Weights in memory at a time: 1 GiB of float32 and its encoding. The experts' stacks of Trinity Mini are one slice."""

_ENCODINGS: dict[Dtype, tuple[LlamaFileType, GGMLQuantizationType]] = {
    "float32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "bfloat16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
MARK = "trinity.export.file_bytes"
"""Key of our files alone, the second in each: how long the file is. What another program has made of one (quantised it,
edited its keys) may have kept the key, but is of another length."""
_MARK_ENTRY = struct.pack(f"<Q{len(MARK)}sI", len(MARK), MARK.encode(), gguf.GGUFValueType.UINT64)
"""As it lies in a file; the value follows, 8 bytes."""
_MARK_WITHIN = 256
"""Bytes from the start of a file that hold it."""
_GLOBAL_EVERY = 4  # llama.cpp: period of the sliding window (a key, in new versions) and of RoPE (none)

_OUTER = {
    "tok_embeddings.weight": MODEL_TENSOR.TOKEN_EMBD,
    "norm.weight": MODEL_TENSOR.OUTPUT_NORM,
    "lm_head.weight": MODEL_TENSOR.OUTPUT,
}
_LAYER = {
    "attention_norm.weight": MODEL_TENSOR.ATTN_NORM,
    "attention_post_norm.weight": MODEL_TENSOR.ATTN_POST_NORM,
    "ffn_norm.weight": MODEL_TENSOR.FFN_PRE_NORM,
    "ffn_post_norm.weight": MODEL_TENSOR.FFN_POST_NORM,
    "attention.qkv_linear.wq.weight": MODEL_TENSOR.ATTN_Q,
    "attention.qkv_linear.wk.weight": MODEL_TENSOR.ATTN_K,
    "attention.qkv_linear.wv.weight": MODEL_TENSOR.ATTN_V,
    "attention.wo.weight": MODEL_TENSOR.ATTN_OUT,
    "attention.gate.weight": MODEL_TENSOR.ATTN_GATE,
    "attention.q_norm.weight": MODEL_TENSOR.ATTN_Q_NORM,
    "attention.k_norm.weight": MODEL_TENSOR.ATTN_K_NORM,
    "feed_forward.w1.weight": MODEL_TENSOR.FFN_GATE,
    "feed_forward.w2.weight": MODEL_TENSOR.FFN_DOWN,
    "feed_forward.w3.weight": MODEL_TENSOR.FFN_UP,
    "moe.router.gate.weight": MODEL_TENSOR.FFN_GATE_INP,
    "moe.expert_bias_E": MODEL_TENSOR.FFN_EXP_PROBS_B,
    "moe.shared_experts.w1.weight": MODEL_TENSOR.FFN_GATE_SHEXP,
    "moe.shared_experts.w2.weight": MODEL_TENSOR.FFN_DOWN_SHEXP,
    "moe.shared_experts.w3.weight": MODEL_TENSOR.FFN_UP_SHEXP,
    # llama.cpp stacks the experts of a layer as we do
    "moe.routed_experts.inner_experts.w1_EFD": MODEL_TENSOR.FFN_GATE_EXP,
    "moe.routed_experts.inner_experts.w2_EDF": MODEL_TENSOR.FFN_DOWN_EXP,
    "moe.routed_experts.inner_experts.w3_EFD": MODEL_TENSOR.FFN_UP_EXP,
}


@dataclass(frozen=True)
class _Target:
    """A tensor of the file."""

    source: str
    """Name in our checkpoint."""
    name: str
    shape: tuple[int, ...]
    encoding: GGMLQuantizationType

    @property
    def nbytes(self) -> int:
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[self.encoding]
        return math.prod(self.shape) // block_size * block_bytes

    def slices(self) -> Iterator[slice | None]:
        """Rows to hold at a time; None where that is all of them."""
        step = max(1, SLICE_ELEMENTS // math.prod(self.shape[1:]))
        if step >= self.shape[0]:
            yield None
            return
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))


def write_gguf(
    path: Path, model: ModelConfig, reader: Reader, tokenizer_dir: Path, *, dtype: Dtype, max_positions: int
) -> None:
    """Write `path`, whole or not at all: it is written beside its place and renamed.

    dtype: of the matrices; see `encoding` for what stays float32. max_positions: the context length that it states.
    Raises ConfigError for a model or tokenizer that llama.cpp would run otherwise than we do, and for a `path` that is
    anything but a file which this function wrote; ValueError where `tokenizer_dir` has no tokenizer; OSError where
    `path` cannot be written.
    """
    _check(path, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.AFMOE])
        writer.add_uint64(MARK, 0)
        _add_keys(writer, model, dtype=dtype, max_positions=max_positions)
        add_tokenizer(writer, tokenizer_dir, vocab_size=model.vocab_size)
        targets = [_target(source, tuple(shape), dtype) for source, shape in reader.shapes.items()]
        for target in targets:
            writer.add_tensor_info(
                target.name, target.shape, np.dtype(np.float32), target.nbytes, raw_dtype=target.encoding
            )
        with closing(writer):
            _write(writer, reader, targets)
        _write_mark(partial)
        _check(path, model)  # again: it took a while


def encoding(name: str, shape: tuple[int, ...], dtype: Dtype) -> GGMLQuantizationType:
    """How the file has tensor `name`: as `dtype` says, but float32 for three kinds.

    Vectors (gains, expert bias) and the router's gate, as in llama.cpp's converter; under `q8_0` also matrices whose
    rows are no multiple of its block of 32 weights.
    """
    wanted = _ENCODINGS[dtype][1]
    block_size, _ = gguf.GGML_QUANT_SIZES[wanted]
    is_router = name.endswith(".ffn_gate_inp.weight")
    return GGMLQuantizationType.F32 if len(shape) < 2 or is_router or shape[-1] % block_size else wanted


def _check(path: Path, model: ModelConfig) -> None:
    problems = []
    if not model.scale_embedding:
        problems.append("model.scale_embedding=false: in llama.cpp it is always true; use --format hf")
    if model.global_every != _GLOBAL_EVERY:
        problems.append(
            f"model.global_every={model.global_every}: in llama.cpp it is always {_GLOBAL_EVERY}; use --format hf"
        )
    if path.is_dir():
        problems.append(f"{path} is a folder; --format gguf makes a file, such as {path / 'model.gguf'}")
    elif path.exists() and not is_ours(path):
        problems.append(
            f"{path} exists and is not as an export of this program wrote it; choose another name, or remove it"
        )
    if problems:
        raise ConfigError(problems)


def is_ours(path: Path) -> bool:
    """Whether `write_gguf` wrote the file, and nobody has made another of it since."""
    with path.open("rb") as file:
        head = file.read(_MARK_WITHIN)
    place = _mark_place(head)
    return place > 0 and int.from_bytes(head[place : place + 8], "little") == path.stat().st_size


def _write_mark(path: Path) -> None:
    with path.open("r+b") as file:
        place = _mark_place(file.read(_MARK_WITHIN))
        assert place > 0, path
        file.seek(place)
        file.write(path.stat().st_size.to_bytes(8, "little"))


def _mark_place(head: bytes) -> int:
    """Where the value of MARK lies in the first bytes of a file, or -1."""
    place = head.find(_MARK_ENTRY)
    return place + len(_MARK_ENTRY) if head.startswith(b"GGUF") and place > 0 else -1


def _target(source: str, shape: tuple[int, ...], dtype: Dtype) -> _Target:
    name = _name(source)
    return _Target(source, name, shape, encoding(name, shape, dtype))


def _name(source: str) -> str:
    """llama.cpp's name of our tensor. Raises KeyError for one that has no counterpart."""
    prefix, _, rest = source.partition(".")
    layer_id, _, inner = rest.partition(".")
    kind = _LAYER[inner] if prefix == "layers" else _OUTER[source]
    suffix = "bias" if kind == MODEL_TENSOR.FFN_EXP_PROBS_B else "weight"
    return f"{gguf.TENSOR_NAMES[kind].format(bid=layer_id)}.{suffix}"


def _add_keys(writer: gguf.GGUFWriter, model: ModelConfig, *, dtype: Dtype, max_positions: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    writer.add_file_type(_ENCODINGS[dtype][0])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(max_positions)
    writer.add_embedding_length(model.dim)
    writer.add_block_count(model.num_layers)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    _add_attention_keys(writer, model)
    _add_feed_forward_keys(writer, model)


def _add_attention_keys(writer: gguf.GGUFWriter, model: ModelConfig) -> None:
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_sliding_window(model.sliding_window)
    writer.add_sliding_window_pattern(model.global_every)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_theta)


def _add_feed_forward_keys(writer: gguf.GGUFWriter, model: ModelConfig) -> None:
    writer.add_leading_dense_block_count(model.num_dense_layers)
    writer.add_feed_forward_length(model.dense_hidden_dim)
    writer.add_expert_feed_forward_length(model.expert_hidden_dim)
    writer.add_expert_count(model.num_experts)
    writer.add_expert_used_count(model.top_k)
    writer.add_expert_shared_count(model.num_shared_experts)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_norm(model.route_norm)
    writer.add_expert_weights_scale(model.route_scale)


def _write(writer: gguf.GGUFWriter, reader: Reader, targets: list[_Target]) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    (file,) = writer.fout
    writer.write_padding(file, file.tell())
    with progress_bar(desc="export", total=sum(target.nbytes for target in targets), unit="B", unit_scale=True) as bar:
        for target in targets:
            # not by the writer's own write_tensor_data, which takes a tensor whole
            written = sum(_write_slice(file, reader.read(target.source, rows), target) for rows in target.slices())
            assert written == target.nbytes, (target, written)
            writer.write_padding(file, written)
            bar.update(written)


def _write_slice(file: BufferedWriter, rows: Tensor, target: _Target) -> int:
    """Returns the number of bytes."""
    if target.encoding == GGMLQuantizationType.BF16:
        data = rows.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    else:
        data = gguf.quantize(rows.contiguous().numpy(), target.encoding)
    return file.write(data.data)
