from __future__ import annotations

import pytest

from data_pipelines.corpora.holdout import rank_of, split_documents
from data_pipelines.documents import Document


def documents(*sizes: int) -> list[Document]:
    return [Document(f"d{k}", "x" * size) for k, size in enumerate(sizes)]


def test_held_out_documents_have_the_lowest_ranks_and_the_sample_the_highest():
    corpus = documents(*[100] * 50)
    result = split_documents("s", iter(corpus), held_out=0.1, sample_chars=450)
    ranks = sorted(map(rank_of, corpus))
    assert result.held_out == frozenset(ranks[:5])
    assert result.sample_from == ranks[-5]  # 4 documents are too little, 5 are enough
    assert result.num_chars == 5000


def test_a_document_larger_than_the_held_out_part_stays_in_training():
    corpus = documents(1_000_000, *[100] * 20)
    result = split_documents("s", iter(corpus), held_out=0.0005, sample_chars=10)
    assert 1 <= len(result.held_out) <= 5
    assert rank_of(corpus[0]) not in result.held_out


def test_something_is_held_out_of_few_large_documents():
    corpus = documents(1000, 900, 800)
    assert split_documents("s", iter(corpus), held_out=0.01, sample_chars=10).held_out == {rank_of(corpus[2])}


def test_one_document_cannot_be_divided():
    with pytest.raises(ValueError, match=r"source 's' has 1 non-empty document\(s\), too few .* data\.held_out=0"):
        split_documents("s", iter(documents(500, 0)), held_out=0.1, sample_chars=10)
    assert split_documents("s", iter(documents(500)), held_out=0, sample_chars=10).held_out == frozenset()


def test_the_sample_and_the_held_out_part_never_meet():
    corpus = documents(*[100] * 50)
    split = split_documents("s", iter(corpus), held_out=0.2, sample_chars=10**6)
    assert [split.is_held_out(document) for document in corpus].count(True) == 10
    assert all(split.is_sampled(document) != split.is_held_out(document) for document in corpus)


def test_100k_documents_take_no_quadratic_time():
    corpus = (Document(str(k), "x") for k in range(100_000))
    split = split_documents("s", corpus, held_out=0.5, sample_chars=1000)
    assert len(split.held_out) == 50_000
