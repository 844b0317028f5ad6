"""Discovery, sharding and index of an archive with millions of pictures, without the pictures: seconds and peak memory.

python -m benchmarks.archive_entries [--entries 10000000] [--real 200000]

One folder lists ``--entries`` names in random order. The names are made up; the listing of ``--real`` files on disk is measured
beside them. They go through the archive's walk, sorting, sharding, index and markers (`codecswap.archives.run.make_archive`);
only reading and coding pictures is left out. Then the same command again, which finds everything done.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from codecswap.archives.folder import Archive, Recipe
from codecswap.archives.index import Row, Summary, checksum
from codecswap.archives.run import make_archive
from codecswap.archives.shards import Shard, Share
from codecswap.console import say, show_table
from codecswap.data import walk

SCRAMBLE = 2_654_435_761
"""Odd: numbers times it, modulo 2**32, are the same numbers in another order."""


class Entry:
    """A file that os.scandir would find."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_dir(self) -> bool:  # noqa: D102
        return False

    def is_file(self) -> bool:  # noqa: D102
        return True


@contextmanager
def made_up(count: int) -> Iterator[None]:
    """Let every folder list ``count`` files in random order."""

    @contextmanager
    def scandir(_: str) -> Iterator[Iterator[Entry]]:
        yield (Entry(f"{number * SCRAMBLE % 2**32:08x}_{number}.jpg") for number in range(count))

    walk.os = SimpleNamespace(scandir=scandir, stat=os.stat, path=os.path)
    try:
        yield
    finally:
        walk.os = os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--real", type=int, default=200_000)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "source").mkdir()
        with measured(rows, "import and start"):
            archive = Archive.start(root / "archive", Recipe("csw", "tree", "none", 1000))
        source, engine = [str(root / "source")], partial(index, archive)
        with made_up(options.entries):
            for step in ("discovery, sharding, index", "the same again, all done"):
                with measured(rows, step):
                    totals = make_archive(archive, source, {".jpg"}, Share(0, 1), engine)
                say(f"{step}: {totals.made:,} shards made, {totals.before:,} there, {totals.pictures:,} pictures")
        size = sum(path.stat().st_size for path in (root / "archive" / "index").iterdir())
        (root / "real").mkdir()
        for number in range(options.real):
            (root / "real" / f"{number * SCRAMBLE % 2**32:08x}_{number}.jpg").touch()
        with measured(rows, f"walk of {options.real:,} files on disk"):
            found = sum(1 for _ in walk.walk(root / "real", {".jpg"}, lambda why, name: None))
        assert (totals.pictures, found) == (options.entries, options.real)
    show_table(f"{options.entries:,} entries", ["step", "processor seconds", "wall", "peak memory so far, MiB"], rows)
    say(f"The index has {size / options.entries:.1f} bytes per picture.")


@contextmanager
def measured(rows: list[list[str]], step: str) -> Iterator[None]:
    processor, wall = time.process_time(), time.perf_counter()
    yield
    seconds = time.process_time() - processor, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append([step, *(f"{each:,.1f}" for each in seconds), f"{peak:,.0f}"])
    say(" ".join(rows[-1]))


def index(archive: Archive, shards: Iterable[Shard]) -> Iterator[tuple[str, Summary]]:
    """Shards as an engine makes them, with invented figures."""
    for shard in shards:
        names = [item.name for item in shard.items]
        with archive.attempt(shard) as attempt:
            rows = [
                Row(f"{name}.csw", name, shard.name, 640, 480, 40_000, 1.04, None, checksum(name.encode()))
                for name in names
            ]
            summary = attempt.finish(rows)
        yield shard.name, summary


if __name__ == "__main__":
    main()
