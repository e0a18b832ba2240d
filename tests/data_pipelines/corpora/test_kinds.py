"""The slot for a corpus kind: a class is enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from data_pipelines.corpora import Corpus
from data_pipelines.corpora.config import CorpusOptions
from data_pipelines.corpora.files import FilesData
from data_pipelines.corpora.preparation import open_prepared, prepare
from data_pipelines.corpora.shards import ShardsData
from data_pipelines.corpora.stdlib import StdlibData
from data_pipelines.documents import Document
from data_pipelines.shards.prepared import ShardSource


@dataclass(kw_only=True, slots=True)
class RhymesData(CorpusOptions):
    kind: Literal["rhymes"] = "rhymes"
    count: int = 30

    def source_names(self) -> list[str]:
        return ["rhymes"]

    def corpus(self) -> Corpus:
        return {"rhymes": lambda: (Document(f"rhyme {k}", f"cat {k} and mat {k * k}. ") for k in range(self.count))}

    def fingerprint(self) -> str:
        return str(self.count)


def test_a_new_kind_is_prepared_once_for_each_fingerprint(tmp_path: Path):
    opened = prepare(RhymesData(dir=str(tmp_path), vocab_size=300, held_out=0.1))
    train, held_out = opened.train["rhymes"], opened.held_out["rhymes"]
    assert train.manifest.num_documents + held_out.manifest.num_documents == 30
    assert open_prepared(RhymesData(dir=str(tmp_path), vocab_size=300, held_out=0.1)).prepared == opened.prepared
    more = prepare(RhymesData(dir=str(tmp_path), vocab_size=300, held_out=0.1, count=31))
    assert more.train["rhymes"].uri != opened.train["rhymes"].uri


def test_only_a_tokenizer_that_is_still_to_be_trained_has_a_size_to_choose():
    assert StdlibData(vocab_size=300).new_vocab_size() == FilesData(vocab_size=300).new_vocab_size() == 300
    assert StdlibData(tokenizer="tok").new_vocab_size() is None
    assert ShardsData(tokenizer="tok").new_vocab_size() is None


def test_shards_without_a_tokenizer_do_not_take_one_from_the_current_folder():
    with pytest.raises(ValueError, match=r"^data\.tokenizer is missing; name the folder"):
        ShardsData(sources={"web": ShardSource(train="web")}).open()
