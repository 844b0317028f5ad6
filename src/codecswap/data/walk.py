"""Walk through a folder in the order of names, in memory that does not depend on how many files it holds."""

import heapq
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

RUN = 200_000
"""Names that are sorted in memory at once, some 30 MB; sorted runs of a larger folder are merged from temporary files."""
BLOCK = 1_000
"""Names that are read back from a temporary file at once."""


def walk(folder: Path, endings: Collection[str], left_out: Callable[[str, str], None]) -> Iterator[str]:
    """Paths of the files with one of the ``endings`` below a folder, in the order of these paths as text.

    Links are followed, each folder is read once, and hidden files (``.name``) are skipped.

    Args:
        folder: where to look.
        endings: extensions of the files to find, in lower case.
        left_out: called with the reason and the name of everything else but hidden files.
    """
    return _below(str(folder), endings, left_out, set())


def _below(
    here: str, endings: Collection[str], left_out: Callable[[str, str], None], seen: set[tuple[int, int]]
) -> Iterator[str]:
    name = os.path.basename(here)
    try:
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            left_out("a folder read already", name)
            return
        seen.add((place.st_dev, place.st_ino))
        entries = in_order(_entries(here, endings, left_out))
        first = next(entries, None)
    except OSError as error:
        left_out(f"cannot be read ({error.strerror})", name)
        return
    while first is not None:
        path = os.path.join(here, first)
        if first[-1] == "/":
            yield from _below(path[:-1], endings, left_out, seen)
        else:
            yield path
        first = next(entries, None)


def _entries(here: str, endings: Collection[str], left_out: Callable[[str, str], None]) -> Iterator[str]:
    """Names of the files and folders to take, folders with a slash, which sorts them as their files' paths are sorted."""
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder:
                yield f"{entry.name}/"
            elif os.path.splitext(entry.name)[1].lower() not in endings:
                left_out("another ending", entry.name)
            elif not is_file:
                left_out("a link that leads nowhere" if entry.is_symlink() else "no file", entry.name)
            else:
                yield entry.name


def in_order(names: Iterable[str], run: int = RUN) -> Iterator[str]:
    """Sort any number of names in the memory of ``run`` of them."""
    rest = iter(names)
    first = sorted(islice(rest, run))
    if len(first) < run:
        yield from first
        return
    with ExitStack() as files:
        runs = []
        while first:
            file = files.enter_context(TemporaryFile("w+"))
            for start in range(0, len(first), BLOCK):
                file.write(json.dumps(first[start : start + BLOCK]) + "\n")
            file.seek(0)
            runs.append(_lines(file))
            first = sorted(islice(rest, run))
        yield from heapq.merge(*runs)


def _lines(file: IO[str]) -> Iterator[str]:
    for line in file:
        yield from json.loads(line)
