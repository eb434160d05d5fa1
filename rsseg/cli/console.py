"""What people see: progress on stderr, results on stdout."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)
stdout = Console(highlight=False, markup=False, emoji=False)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
"""What moves a terminal's cursor or changes its colours, should a name in a file hold it; lines may break."""

Advance = Callable[[str, int, int], None]
"""Takes what is under way, parts done, and parts in all."""


_BARS = 5
"""Bars of things before the latest one that stay on the screen."""


def say(line: str) -> None:
    """Shows a line of progress."""
    stderr.print(plain(line), markup=False, soft_wrap=True)


def show(line: str) -> None:
    """Shows a line of the result."""
    stdout.print(plain(line), markup=False, soft_wrap=True)


def show_json(content: Any) -> None:
    """Shows a result for machines."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


@contextmanager
def bar(*, quiet: bool, above: str = "") -> Iterator[Advance]:
    """Gives a function that moves a progress bar, one line per thing under way.

    Where stderr is no terminal, each thing is one plain line when it is done.

    Args:
        quiet: whether nothing is shown.
        above: a thing whose line stays on the screen until the end.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    if quiet or not stderr.is_terminal:
        yield _silent if quiet else _plain
        return
    with Progress(*columns, console=stderr) as progress:
        lines: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in lines:
                # more lines than the terminal has would hide the last
                for old in [task for name, task in lines.items() if name != above][:-_BARS]:
                    progress.update(old, visible=False)
                lines[what] = progress.add_task(plain(what), total=total)
            progress.update(lines[what], completed=done, total=total)

        yield advance


def _plain(what: str, done: int, total: int) -> None:
    if done == total:
        say(f"{what}: {done}/{total}")


def _silent(what: str, done: int, total: int) -> None:
    pass


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table whose first column is text and whose others are figures."""
    result = Table(title=plain(title), title_justify="left")
    for index, column in enumerate(columns):
        name = plain(column)
        result.add_column(name, justify="right" if index else "left", overflow="fold", no_wrap=not index)
    for row in rows:
        result.add_row(*map(plain, row))
    return result


def plain(text: str) -> str:
    r"""Returns text without control characters: class names come from files that anybody may have made.

    Example:
        >>> plain("a\x1b[31mb")
        'a [31mb'
    """
    return _CONTROL.sub(" ", text)


def percent(value: float | None) -> str:
    """Returns a share as people read it; a dash where there is none.

    Example:
        >>> percent(0.12345), percent(None)
        ('12.3', '–')
    """
    return "–" if value is None or value != value else f"{100 * value:.1f}"
