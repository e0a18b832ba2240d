"""Ours: PlanLoader over shards of `tokenise`; every block's hash is checked, documents are masked from each other."""

from __future__ import annotations

from pathlib import Path

from data_pipelines.batches.loader import PlanLoader
from data_pipelines.plan.make_plan import make_plan
from data_pipelines.plan.plan import PlanSource
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.prepared import ShardSource
from data_pipelines.shards.reader import open_part
from data_pipelines.shards.writer import ShardWriter
from tests.bench_loader.corpus import BATCH, EOS, SEQ_LEN, VOCAB_SIZE, answer, documents, tokens_per_second


def write(folder: Path, num_tokens: int) -> None:
    with ShardWriter(str(folder), "00000", "uint16") as writer:
        for number, ids in enumerate(documents(num_tokens)):
            writer.add(str(number), ids.tolist())
    Manifest(dtype="uint16", eos_id=EOS, tokenizer="none", shards=(writer.record,)).save(str(folder))


def measure(folder: Path, readers: int, verb: str) -> float:
    source = open_part(ShardSource(train=str(folder)), str(folder))
    windows = source.num_windows(SEQ_LEN)
    plan = make_plan(
        {"all": windows},
        sources=[PlanSource(name="web", num_windows=windows)],
        mix=None,
        seed=0,
        seq_len=SEQ_LEN,
        block=64,
    )
    config = PlanLoader.Config(plan=plan, sources={"web": source}, vocab_size=VOCAB_SIZE, readers=max(1, readers))
    loader = config.build(dp_world_size=1, dp_rank=0, seq_len=SEQ_LEN, local_batch_size=BATCH)
    return tokens_per_second(loader, lambda batch: batch[1])


if __name__ == "__main__":
    answer(write, measure)
