"""One progress bar per step; plain lines where the output is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

LINE_EVERY = 30.0
"""Seconds between two plain lines."""


def amount(number: float, unit: str) -> str:
    """``19.3 GB`` or ``118,287 pictures``."""
    return decimal(round(number)) if unit == "bytes" else f"{number:,.0f} {unit}"


def _amounts(done: float, total: float, speed: float, unit: str) -> str:
    """``1.2 GB of 19.3 GB, 60.1 MB/s`` or ``64 of 118,287 pictures, 404/s``."""
    if unit == "bytes":
        return f"{amount(done, unit)} of {amount(total, unit)}, {amount(speed, unit)}/s"
    return f"{done:,.0f} of {total:,.0f} {unit}, {speed:,.0f}/s"


class _Amounts(ProgressColumn):
    """Done, total and speed."""

    def __init__(self, unit: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(_amounts(task.completed, task.total or 0, task.speed or 0, self.unit))


@contextmanager
def bar(title: str, total: int, *, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a step's progress on stderr: done, total, speed and time left.

    Args:
        title: the step.
        total: how much there is to do, those already ``done`` included.
        unit: ``bytes``, or a plural noun.
        done: what an earlier run has done.

    Yields:
        A function to call with each further amount done.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(20), _Amounts(unit), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=total, completed=done)
            yield lambda step: progress.update(task, advance=step)
    else:
        lines = _Lines(title, total, unit, done)
        yield lines.advance
        lines.write()


class _Lines:
    """The same as a plain line now and then, for logs."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.done, self.first = title, total, unit, done, done
        self.start = self.written = time.monotonic()

    def advance(self, step: int) -> None:
        self.done += step
        if time.monotonic() - self.written > LINE_EVERY:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        speed = (self.done - self.first) / max(self.written - self.start, 1e-9)
        left = f", {(self.total - self.done) / speed:,.0f} s left" if speed > 0 and self.done < self.total else ""
        print(f"{self.title}: {_amounts(self.done, self.total, speed, self.unit)}{left}", flush=True)
