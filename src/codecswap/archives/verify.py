"""Check an archive: every file against its index, and every shard that should be there."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from codecswap.archives.folder import Archive
from codecswap.archives.index import Row, checksum, read_index, read_summary, stored
from codecswap.data.sources import FILES
from codecswap.entropy import bitstream
from codecswap.errors import UserError


def verify(archive: Archive, codec: bitstream.Codec | None = None) -> Iterator[tuple[str, int, list[str]]]:
    """Check a finished or unfinished archive.

    Args:
        archive: what to check.
        codec: decode each coded picture with it, too.

    Yields: the name of a shard, its number of pictures, and what is wrong with it, in sentences.
    """
    count = 0
    for name in archive.shards_done():
        count += 1
        try:
            summary, rows = read_summary(archive.index_of(name)), read_index(archive.index_of(name))
        except UserError as error:
            yield name, 0, [str(error)]
            continue
        files = [row for row in rows if row.name is not None]
        try:
            if archive.recipe.layout == "tar":
                wrong = _tar(archive.tar_of(name), files, summary.sha256, codec)
            else:
                wrong = [words for row in files if (words := _single(archive.folder / FILES, row, codec))]
        except FileNotFoundError as error:
            wrong = [f"{error.filename} is missing."]
        except (OSError, tarfile.TarError) as error:
            wrong = [f"{archive.tar_of(name)} cannot be read ({error})."]
        if (len(rows), sum(row.error is not None for row in rows)) != (summary.pictures, summary.errors):
            wrong.append(f"{archive.index_of(name)} contradicts itself.")
        yield name, len(files), wrong
    listed = archive.listing()
    if listed is None:
        yield "", 0, ["No worker has seen the end of the source yet: repeat the command that made the archive."]
    elif count != listed[0]:
        yield "", 0, [f"{count:,} of {listed[0]:,} shards are there: repeat the command that made the archive."]


def _tar(path: Path, rows: list[Row], sha256: str | None, codec: bitstream.Codec | None) -> list[str]:
    """Check a tar file: whole by its SHA-256, and where that differs, or pictures are decoded, member by member."""
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        if whole and codec is None:
            return []
        file.seek(0)
        wrong = _members(path, file, {row.name: row for row in rows}, codec)
    return wrong if whole or wrong else [f"{path} was altered, but for its pictures."]


def _members(path: Path, file: IO[bytes], rows: dict[str | None, Row], codec: bitstream.Codec | None) -> list[str]:
    wrong = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if row := rows.pop(stored(member.name), None):
                    data = tar.extractfile(member)
                    if words := _compare(f"{path}: {row.name}", data.read() if data else b"", row, codec):
                        wrong.append(words)
    except (tarfile.TarError, EOFError) as error:
        wrong.append(f"{path} is a damaged tar ({error}).")
    return wrong + [f"{path}: {name} is missing." for name in rows]


def _single(folder: Path, row: Row, codec: bitstream.Codec | None) -> str | None:
    path = folder / str(row.name)
    try:
        return _compare(str(path), path.read_bytes(), row, codec)
    except FileNotFoundError:
        return f"{path} is missing."


def _compare(place: str, data: bytes, row: Row, codec: bitstream.Codec | None) -> str | None:
    """What is wrong with a file, a sentence."""
    if len(data) != row.bytes or checksum(data) != row.checksum:
        return f"{place} is not what the index says (its checksum or its size differs)."
    if codec is None:
        return None
    try:
        picture = bitstream.decode(codec, data)
    except bitstream.BadFile as error:
        return f"{place} {error}."
    if picture.size != (row.width, row.height):
        return f"{place} decodes to {picture.width}x{picture.height} pixels, not to {row.width}x{row.height}."
    return None


def advice(archive: Archive, name: str) -> str:
    """How to make a damaged shard again."""
    return f"Delete {archive.index_of(name)} and repeat the command that made the archive: it makes this shard again."
