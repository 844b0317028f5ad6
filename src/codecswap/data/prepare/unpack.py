"""Unpacking pictures from a zip: only complete and checked files, never outside their folder."""

import errno
import lzma
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile, ZipFile, ZipInfo

from codecswap.console import warn
from codecswap.data.discovery import ASIDE, COCO_TOP, ENDINGS
from codecswap.errors import UserError
from codecswap.files import atomic_write, one_name

TOP = COCO_TOP
"""The folder inside COCO's zip; it is removed from the members' paths."""
UTF_8 = 0x800
"""Flag of members whose names are said to be UTF-8."""
DRIVE = re.compile("[A-Za-z]:")
"""How a path begins that names a drive of Windows."""
NOT_ON_WINDOWS = set('<>:"|?*') | {chr(code) for code in range(32)}
"""Characters that names cannot have there; what follows a colon would be a hidden stream of a file."""
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


def pictures(
    archive: ZipFile, name: str, *, windows: bool = os.name == "nt", ignores_case: bool = False
) -> list[ZipInfo]:
    """The pictures to train on in a zip, in the order of their positions; macOS's and COCO's other folders are left out.

    Of members with one name the first is taken, and a warning counts the others.

    Args:
        archive: the zip.
        name: its path or address, for messages.
        windows: refuse names that Windows does not take.
        ignores_case: names that differ only in case are one file where they are unpacked to.

    Raises:
        UserError: there are none, a member (picture or not) would land outside the folder it is unpacked to, or they
            would take far more space than the zip; or, on Windows, a name that cannot be there.
    """
    found = []
    for info in archive.infolist():
        path = place(info)
        if path.is_absolute() or ".." in path.parts or DRIVE.match(str(path)) or "\0" in str(path):
            raise UserError(
                f"{name} has a member that would leave its folder ({_said(info.filename)}): nothing of it was unpacked; "
                "name another zip with --url."
            )
        if path.suffix.lower() not in ENDINGS or path.name[0] == "." or info.filename.endswith(("/", "\\")):
            continue
        if windows and (set(str(path)) & NOT_ON_WINDOWS or any(part.rstrip(". ") != part for part in path.parts)):
            raise UserError(
                f"{name} has a member with a name that Windows does not take ({_said(info.filename)}): nothing of it was "
                "unpacked; unpack it on another system, or name another zip with --url."
            )
        if not ASIDE & {part.lower() for part in path.parts[:-1]}:
            found.append(info)
    if not found:
        raise UserError(f"There are no pictures in {name}: name another zip with --url.")
    first: dict[str, ZipInfo] = {}
    for info in found:
        first.setdefault(one_name(place(info)) if ignores_case else str(place(info)), info)
    kept = {id(info) for info in first.values()}
    if again := [info for info in found if id(info) not in kept]:
        why = "another has, or that differs only in case" if ignores_case else "another has"
        which = _said(again[0].filename)
        warn(f"{len(again)} of {len(found)} pictures in {name} have a name that {why}, and are left out: {which}.")
        found = list(first.values())
    total = sum(info.file_size for info in found)
    if total > max(ALWAYS, EXPANSION * archive.start_dir):
        raise UserError(
            f"{name} would unpack to {total:,} bytes, more than {EXPANSION} times its own size, as no zip of pictures does: "
            "nothing of it was unpacked; name another zip with --url."
        )
    return sorted(found, key=lambda info: info.header_offset)


def place(info: ZipInfo) -> PurePosixPath:
    """Path of a member, relative to the folder that it is unpacked to: without COCO's top folder.

    Windows separates folders by backslashes; macOS writes UTF-8 without saying so, where a zip is read as code page 437.
    """
    name = info.filename
    if not info.flag_bits & UTF_8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    path = PurePosixPath(name.replace("\\", "/"))
    return path.relative_to(TOP) if path.is_relative_to(TOP) else path


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
