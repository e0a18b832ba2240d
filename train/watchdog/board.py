"""The store of the process group as a board on which ranks leave words. It may stop with the rank it lives in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

ANSWER_S = 5.0
"""How long an answer may take. torch's own timeouts do not hold where the process of the store is stopped: its client
waits for the answer to the end of its waiting. So a thread asks, and may never come back."""

Answer = TypeVar("Answer")


class Board:
    """Words by key. Where the store does not answer, nothing is there."""

    def __init__(self, store: Any):
        """store: torch's, which may be in use elsewhere; this takes a connection of its own."""
        self._store = store.clone()
        self._questions: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self.answers = True
        """Whether it did the last time."""
        Thread(target=self._ask_the_store, name="board", daemon=True).start()

    def put(self, key: str, word: str) -> None:
        self._ask(lambda: self._store.set(key, word), otherwise=None)

    def claim(self, key: str, word: str) -> str:
        """Puts the word where there is none. Returns the one that is there then."""
        return self._ask(lambda: self._store.compare_set(key, "", word).decode(), otherwise=word)

    def has(self, key: str) -> bool:
        return self._ask(lambda: self._store.check([key]), otherwise=False)

    def read(self, keys: Iterable[str]) -> dict[str, str]:
        """The words that are there."""
        return {key: self._ask(lambda key=key: self._store.get(key).decode(), "") for key in keys if self.has(key)}

    def _ask(self, question: Callable[[], Answer], otherwise: Answer) -> Answer:
        if not self.answers:
            return otherwise
        answer: Future[Answer] = Future()
        self._questions.put((question, answer))
        try:
            return answer.result(timeout=ANSWER_S)
        except (TimeoutError, RuntimeError):
            self.answers = False
            return otherwise

    def _ask_the_store(self) -> None:
        while True:
            question, answer = self._questions.get()
            try:
                answer.set_result(question())
                self.answers = True  # also after an answer that came late
            except RuntimeError as error:  # the connection is lost
                answer.set_exception(error)
