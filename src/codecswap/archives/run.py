"""Make an archive, or this worker's share of it."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from codecswap.archives.folder import Archive
from codecswap.archives.index import Summary
from codecswap.archives.shards import Shard, Share, cut
from codecswap.data.sources import find_items
from codecswap.errors import RunFailure, UserError

Engine = Callable[[Iterable[Shard]], Iterator[tuple[str, Summary]]]
"""Makes shards; yields the name and summary of each."""


@dataclass
class Totals:
    """What a run found and made."""

    shards: int = 0
    """Shards of the source."""
    before: int = 0
    """Shards of this share that were done already."""
    made: int = 0
    """Shards that this run made."""
    pictures: int = 0
    errors: int = 0
    bytes: int = 0
    pixels: int = 0
    """Sums over all shards of this share, as the three before."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Numbers of files in the source's folders that were not taken, by reason."""

    def add(self, summary: Summary) -> None:
        """Count a shard that is done."""
        for name in ("pictures", "errors", "bytes", "pixels"):
            setattr(self, name, getattr(self, name) + getattr(summary, name))


def make_archive(
    archive: Archive,
    sources: Sequence[str],
    endings: Iterable[str],
    share: Share,
    engine: Engine,
    report: Callable[[str, Summary, float], None] = lambda name, summary, seconds: None,
) -> Totals:
    """Make all shards of a share that are not done yet, in memory that does not depend on their number.

    Args:
        archive: where to.
        sources: as in `codecswap.data.sources.find_items`.
        endings: extensions of the files to take.
        share: this worker's part.
        engine: makes shards.
        report: called with each shard made, its summary, and the seconds since the run began.

    Raises:
        UserError: the source has no such files, or has changed since an earlier run.
        RunFailure: the source or the archive cannot be read or written any more; the same call goes on.
    """
    totals, began = Totals(), time.monotonic()
    digest = hashlib.sha256()

    def leave_out(why: str, name: str) -> None:
        if why.startswith("cannot"):  # its files would be missing, without a word
            raise RunFailure(f"The source's folder {name} {why}: put it right, then the same command goes on.")
        totals.left_out[why] += 1

    def missing() -> Iterator[Shard]:
        items = find_items(sources, frozenset(endings), leave_out)
        for shard in cut(items, archive.recipe.shard_size):
            totals.shards += 1
            digest.update(f"{shard.name}\0{shard.digest}\n".encode("utf-8", "surrogateescape"))
            if not share.takes(shard.name):
                continue
            if summary := archive.done(shard):
                totals.before += 1
                totals.add(summary)
            else:
                yield shard
        if not totals.shards:
            raise UserError(f"{', '.join(sources)} holds nothing to do: name another source with --input.")
        archive.write_listing(totals.shards, digest.hexdigest())

    for name, summary in engine(missing()):
        totals.made += 1
        totals.add(summary)
        report(name, summary, time.monotonic() - began)
    return totals
