"""data_pipelines/base/progress.py: what a terminal sees, and what a log keeps."""

from __future__ import annotations

import io

from data_pipelines.base.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_for_each_picture_and_none_twice() -> None:
    log = io.StringIO()
    with progress_bar(file=log, desc="export", total=4) as bar:
        bar.update(2)
        bar.refresh()
        bar.update(2)
    assert "\r" not in log.getvalue()
    assert [line.split("|")[0] for line in log.getvalue().splitlines()] == [
        "export:   0%",
        "export:  50%",
        "export: 100%",
    ]


def test_a_terminal_has_one_line_that_is_drawn_over() -> None:
    terminal = Terminal()
    with progress_bar(file=terminal, desc="export", total=4) as bar:
        bar.update(4)
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\rexport: ") == 2
