"""Unpacking pictures from a zip: only complete and checked files, never outside their folder."""

import errno
import lzma
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile, ZipInfo

from codecswap.data.discovery import ENDINGS
from codecswap.errors import UserError
from codecswap.files import atomic_write

TOP = "train2017"
"""The folder inside COCO's zip; it is removed from the members' paths."""
EXPANSION, ALWAYS = 100, 1 << 26
"""A zip may unpack to 100 times its own size (pictures are compressed already), and any zip to 64 MiB."""


@contextmanager
def open_zip(source: Path | IO[bytes], name: str) -> Iterator[ZipFile]:
    """Open a zip; any error in it becomes a `UserError`.

    Args:
        source: the file.
        name: its path or address, for the sentence.

    Raises:
        UserError: it is no zip, damaged, or encrypted.
    """
    try:
        with ZipFile(source) as archive:
            yield archive
    except (BadZipFile, EOFError, ValueError, OverflowError, struct.error, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{name} is damaged or not a zip ({_said(error)}): if it is a local file, delete it and run the same command "
            "again; otherwise name another server with --url."
        ) from None
    except OSError as error:  # bzip2's has no number; EINVAL is a position before the file's start
        if error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{name} is damaged or not a zip ({_said(error)}): delete it if it is a local file.") from None
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(f"{name} cannot be unpacked ({_said(error)}): name another zip with --url.") from None


def pictures(archive: ZipFile, name: str) -> list[ZipInfo]:
    """The pictures in a zip, in the order of their positions.

    Raises:
        UserError: there are none, a member (picture or not) would land outside the folder it is unpacked to, or they
            would take far more space than the zip.
    """
    found = []
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or set(info.filename) & {"\\", ":", "\0"}:
            raise UserError(
                f"{name} has a member that would leave its folder ({_said(info.filename)}): nothing of it was unpacked; "
                "name another zip with --url."
            )
        if path.suffix.lower() in ENDINGS and path.name[0] != "." and not info.is_dir():
            found.append(info)
    if not found:
        raise UserError(f"There are no pictures in {name}: name another zip with --url.")
    total = sum(info.file_size for info in found)
    if total > max(ALWAYS, EXPANSION * archive.start_dir):
        raise UserError(
            f"{name} would unpack to {total:,} bytes, more than {EXPANSION} times its own size, as no zip of pictures does: "
            "nothing of it was unpacked; name another zip with --url."
        )
    return sorted(found, key=lambda info: info.header_offset)


def place(info: ZipInfo) -> Path:
    """Path of a member, relative to the folder that it is unpacked to."""
    path = PurePosixPath(info.filename)
    return Path(path.relative_to(TOP) if path.is_relative_to(TOP) else path)


def missing(members: Sequence[ZipInfo], folder: Path) -> list[ZipInfo]:
    """Members that are not in ``folder`` yet; those there are complete, since only complete files get their name."""
    return [info for info in members if _size(folder / place(info)) != info.file_size]


def unpack(archive: ZipFile, members: Sequence[ZipInfo], folder: Path, advance: Callable[[int], None]) -> None:
    """Write members below ``folder``; each gets its name after its CRC has been checked.

    Args:
        archive: the zip.
        members: what to unpack.
        folder: where to write them.
        advance: called with the bytes of each file written.

    Raises:
        zipfile.BadZipFile, zlib.error, EOFError: a member is damaged.
    """
    for info in members:
        target = folder / place(info)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as beside, open(beside, "wb") as file, archive.open(info) as member:
            shutil.copyfileobj(member, file, 1 << 20)
        advance(info.file_size)


def _said(words: object) -> str:
    """An error or a member's name as one short line of ASCII: names in a zip can contain anything."""
    return ascii(str(words)[:200])[1:-1]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
