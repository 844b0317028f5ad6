"""What a run tells the person at the terminal; only the first of several processes speaks."""

import os
import sys
from collections.abc import Sequence


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes, of all that train together."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def say(text: str = "") -> None:
    """Print a line on standard output."""
    if is_first_process():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a warning of one line on standard error."""
    if is_first_process():
        print(f"warning: {text}", file=sys.stderr, flush=True)


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
    # a pipe has no width: wide enough that no figure is broken
    Console(width=None if sys.stdout.isatty() else 140).print(table)
