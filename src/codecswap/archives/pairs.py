"""The pictures that an archive was made of, each with its coded file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codecswap.archives.folder import SECONDS, Archive
from codecswap.archives.index import Row, read_index, read_seconds, stored
from codecswap.archives.shards import Shard, cut
from codecswap.data.discovery import ENDINGS
from codecswap.data.sources import FILES, Content, Item, contents, find_items
from codecswap.errors import UserError


@dataclass(frozen=True)
class Pair:
    """A picture of a source and the file that an archive has of it."""

    original: Content
    """The picture's file."""
    coded: bytes
    """Content of the ``.csw`` file; empty where there is none."""
    row: Row
    """The picture's row of the index, with its ``seconds``."""


def pairs(archive: Archive, source: str, left_out: Callable[[str, str], None]) -> Iterator[Pair]:
    """All pictures of an archive's index, in order; one shard's files are in memory at a time.

    Args:
        archive: of coded pictures.
        source: what it was made of, as in `codecswap.data.sources.find_items`.
        left_out: as there.

    Raises:
        UserError: the source is another one, or a shard of it is not in the archive.
    """
    if archive.recipe.content != "csw":
        raise UserError(f"{archive.folder} holds decoded pictures: name it with --images.")
    for shard in cut(find_items([source], ENDINGS, left_out), archive.recipe.shard_size):
        if archive.done(shard) is None:
            raise UserError(
                f"{archive.folder} has no shard {shard.name} of {source}: name the source that it was made of with --images, "
                "or finish it with the command that made it."
            )
        index, seconds = archive.index_of(shard.name), archive.folder / SECONDS / f"{shard.name}.parquet"
        rows = {}
        for row, took in zip(read_index(index), read_seconds(seconds), strict=True):
            row.seconds = took
            rows[row.key] = row
        coded = dict(_coded(archive, shard, rows))
        for item in shard.items:
            for content in contents(item):
                if its_row := rows.get(stored(content.name)):
                    yield Pair(content, coded.get(its_row.name or "", b""), its_row)


def _coded(archive: Archive, shard: Shard, rows: dict[str, Row]) -> Iterator[tuple[str, bytes]]:
    """Files of a shard, by their names in the index."""
    if archive.recipe.layout == "tar":
        for content in contents(Item(f"{shard.name}.tar", str(archive.tar_of(shard.name)))):
            yield stored(content.name), content.data
        return
    for row in rows.values():
        if row.name is not None:
            path = archive.folder / FILES / row.name
            try:
                yield row.name, path.read_bytes()
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror}): `codecswap verify` says what else is missing."
                ) from None
