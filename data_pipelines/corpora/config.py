"""What every kind of `data` section has. A new kind is a file with its class, and a line in kinds.py.

DataOptions            any data
  CorpusOptions        text that is prepared here: its documents and their fingerprint
  (corpora/shards.py)  tokens that are there already
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from data_pipelines.corpora import Corpus
from data_pipelines.plan.budgets import WhenUsedUp

Weights = dict[str, float]
"""Source name -> weight, on any scale."""


@dataclass(kw_only=True, slots=True)
class DataOptions(ABC):
    """What every kind of data has."""

    mix: dict[str, Weights] | Literal["proportional"] | None = None
    """Phase name -> weights of the sources, or `proportional`: each by its size, in every phase. null, which is that
    too, is for one phase or one source: a curriculum whose weights were forgotten would be none."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """How often a source may be read over the whole run; null for no limit."""
    when_used_up: WhenUsedUp = "error"
    """What becomes of windows that a source cannot give by max_epochs: `error`, or `redistribute`, which takes them
    from the other sources of the phase by their weights, and says so."""
    skip: list[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]] = field(default_factory=list)
    """Windows [first, end) of the plan's order that are passed over, such as those around a spike of the loss. May grow
    while a run goes on, by windows that it has not trained yet; the run ends as many windows earlier."""
    edit: Literal["refuse", "append"] = "refuse"
    """What becomes of another `mix`, or other `schedule.phases`, in a run that has begun: refused, or used from its
    last checkpoint on (`append`). What was trained stays as it was; see python -m data_pipelines.diff."""
    intra_document: bool = True
    """Attention and positions restart at each document, and no label crosses an edge. A window that begins in the
    middle of a document starts at position 0 too. Trinity Large: on. Trinity Nano and Mini: off."""
    tokenizer_may_differ: bool = False
    """Whether a run may start at weights (checkpoint.initial_load_path) that were trained with another tokenizer."""

    read_ahead: Annotated[int, Field(ge=1, le=1024)] = 8
    """Microbatches that each rank reads before they are asked for, in the background. 8 of them outlast a pause of the
    storage of that many forward passes; of 8,192 tokens and two windows they are 3 MB."""
    readers: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads of each rank that read. One serves local disks at a hundred times the speed of a rank; storage with a
    delay of 100 ms and microbatches of 50 ms need several. What is served does not depend on it."""

    @abstractmethod
    def source_names(self) -> list[str]:
        """Names that `data.mix` may use, sorted; known before anything is prepared."""

    def new_vocab_size(self) -> int | None:
        """Most ids that the tokenizer which is still to be trained will have; None where one exists already."""
        return None


@dataclass(kw_only=True, slots=True)
class CorpusOptions(DataOptions):
    """Text that is prepared here, on first use."""

    dir: str
    """Folder for tokenizer and shards. Each combination of corpus and settings gets its own folder inside."""
    vocab_size: Annotated[int, Field(ge=260)] = 8192
    """Size of the byte-level BPE to train: 256 bytes, 4 special tokens, the rest merges."""
    tokenizer: str | None = None
    """Folder of an existing Hugging Face tokenizer to use instead of training one."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Share of each source's bytes that is kept for validation: whole documents, chosen by a hash of their names."""

    @abstractmethod
    def corpus(self) -> Corpus:
        """The documents of each source. Raises ValueError where there are none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes with the documents, computed without reading all of them where that takes long."""

    def new_vocab_size(self) -> int | None:
        return None if self.tokenizer else self.vocab_size
