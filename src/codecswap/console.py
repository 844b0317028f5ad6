"""Messages, tables and progress on the terminal; only the first of several processes prints."""

import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

LINE_EVERY = 30.0
"""Seconds between two plain lines about a step's progress."""

T = TypeVar("T", covariant=True)


class Items(Sized, Iterable[T], Protocol[T]):
    """An iterable with a length, for `track`."""


def is_first_process() -> bool:
    """Whether this is the process that prints and writes files."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def show_any_name() -> None:
    """Print characters that the terminal cannot encode as escapes, so that no file name raises an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""What is printed for control characters, which names of files may contain and terminals obey."""


def say(text: str = "") -> None:
    """Print a line on standard output; control characters are escaped."""
    if is_first_process():
        print(text.translate(CONTROL), flush=True)


def one_line(text: str) -> str:
    """A message without control characters and line ends."""
    return text.translate(CONTROL | {ord("\n"): "\\n"})


class CodecswapWarning(UserWarning):
    """A warning of the package."""


def warn(text: str, *, everywhere: bool = False) -> None:
    """Issue a `CodecswapWarning` of one line, which Python programs can filter and commands print (`showing_warnings`).

    Args:
        everywhere: in every process, not only in the first.
    """
    if everywhere or is_first_process():
        warnings.warn(text, CodecswapWarning, stacklevel=2)


@contextmanager
def showing_warnings() -> Iterator[None]:
    """Print the package's warnings as single lines on standard error, each as often as it occurs."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, CodecswapWarning):
                print(f"warning: {one_line(str(message))}", file=sys.stderr, flush=True)
            else:
                show(message, category, *place, **more)

        warnings.simplefilter("always", CodecswapWarning)
        warnings.showwarning = show_line
        yield


def alarm(text: str) -> None:
    """Print a line in red on standard error: the result is there, but should not be used."""
    if is_first_process():
        from rich.console import Console

        Console(stderr=True).print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    if not is_first_process():
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # a pipe has no width: use one that never wraps numbers
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def amount(number: float, unit: str) -> str:
    """``19.3 GB`` or ``118,287 pictures``."""
    from rich.filesize import decimal

    return decimal(round(number)) if unit == "bytes" else f"{number:,.0f} {unit}"


@contextmanager
def bar(title: str, total: int | None, *, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a step's progress: on a terminal a bar with the time left, on stderr; elsewhere a plain line at the end.

    Elsewhere a long step also gets a line every 30 seconds. Bars do not nest.

    Args:
        title: the step.
        total: how much there is to do, those already ``done`` included; None: not known.
        unit: ``bytes``, or a plural noun.
        done: what an earlier run has done.

    Yields:
        A function to call with each further amount done.
    """
    if not is_first_process():
        yield lambda step: None
        return
    from rich.console import Console

    step = _Step(title, total, unit, done)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield step.advance_and_write
        step.write()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    amounts = TextColumn("{task.fields[amounts]}", table_column=Column(no_wrap=True))
    columns = (TextColumn("{task.description}"), BarColumn(20), amounts, TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, amounts=step.amounts())

        def advance(more: int) -> None:
            step.advance(more)
            progress.update(task, advance=more, amounts=step.amounts())

        yield advance


def track(title: str, items: Items[T], *, unit: str) -> Iterator[T]:
    """Go through ``items`` under a `bar`."""
    with bar(title, len(items), unit=unit) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def progress(title: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a step's progress, as `bar` does, from the first call of the function yielded, with what is done and of how much."""
    with ExitStack() as stack:
        bars: list[Callable[[int], None]] = []
        before = 0

        def show(done: int, total: int) -> None:
            nonlocal before
            if not bars:
                bars.append(stack.enter_context(bar(title, total, unit=unit)))
            bars[0](done - before)
            before = done

        yield show


class Track(Protocol):
    """Type of functions that show progress: `track` or `silent`."""

    def __call__(self, title: str, items: Items[T], *, unit: str) -> Iterator[T]:
        """Go through ``items``, plural nouns ``unit``, in the step ``title``."""


def silent(title: str, items: Items[T], *, unit: str) -> Iterator[T]:
    """Go through ``items`` and show nothing."""
    yield from items


class _Step:
    """How far a step is, in words."""

    def __init__(self, title: str, total: int | None, unit: str, done: int) -> None:
        self.title, self.total, self.unit, self.done, self.first = title, total, unit, done, done
        self.start = self.written = time.monotonic()

    def advance(self, more: int) -> None:
        self.done += more

    def speed(self) -> float:
        """Units a second, since the step began."""
        return (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)

    def amounts(self) -> str:
        """``1.2 GB of 19.3 GB, 60.1 MB/s`` or ``64 of 118,287 pictures, 404/s``."""
        speed = self.speed()
        of = "" if self.total is None else " of "
        if self.unit == "bytes":
            total = "" if self.total is None else amount(self.total, self.unit)
            return f"{amount(self.done, self.unit)}{of}{total}, {amount(speed, self.unit)}/s"
        total = "" if self.total is None else f"{self.total:,}"
        return f"{self.done:,}{of}{total} {self.unit}, {speed:,.{1 if speed < 10 else 0}f}/s"

    def advance_and_write(self, more: int) -> None:
        self.advance(more)
        if time.monotonic() - self.written > LINE_EVERY:
            self.write()

    def write(self) -> None:
        self.written, speed = time.monotonic(), self.speed()
        rest = 0 if self.total is None else self.total - self.done
        left = f", {rest / speed:,.0f} s left" if speed > 0 and rest > 0 else ""
        print(f"{self.title}: {self.amounts()}{left}", flush=True)
