"""Atomic writes, locks of directories, and checks of disk space."""

import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from rich.filesize import decimal

from codecswap.errors import UserError

LONGEST_NAME = 255
"""Most bytes of a file's name, on common file systems."""


@contextmanager
def atomic_write(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and rename it to ``path`` at the end: no reader sees a partial file.

    The temporary name is fixed, so the next run overwrites what a killed process leaves.

    Args:
        sync: flush to disk first, so that a power failure does not replace the old file by an empty one.

    Raises:
        UserError: ``path`` is a folder, a pipe or a device.
    """
    beside = path.with_name(f".{path.name}.part")
    if len(os.fsencode(beside.name)) > LONGEST_NAME:
        beside = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file but {'a folder' if path.is_dir() else 'a pipe or a device'}: name a file.")
    try:
        yield beside
        if sync:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def ignores_case(folder: Path) -> bool:
    """Whether ``a`` and ``A`` are one file there, as usual on Windows and macOS; ``folder`` need not exist yet."""
    while not folder.is_dir():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".Case", dir=folder) as file:
            return Path(file.name).with_name(Path(file.name).name.swapcase()).exists()
    except OSError:  # nothing can be written there
        return False


def one_name(path: PurePath) -> str:
    """The same text for all paths that are one file where `ignores_case`."""
    return unicodedata.normalize("NFC", str(path)).casefold()


@contextmanager
def directory_lock(folder: Path) -> Iterator[None]:
    """Create ``folder`` and lock it against other runs; the lock ends with the process.

    Raises:
        UserError: another run uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: two runs at once are then the user's to avoid
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"Another run is at work in {folder}: wait for it, or stop it.") from None
    except OSError:  # network disks without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def need_space(needs: Sequence[tuple[str, Path, int]]) -> None:
    """Check that the disks have room before anything is written.

    Args:
        needs: purpose, folder (may not exist yet) and number of bytes; folders on one disk add up.

    Raises:
        UserError: a disk has less; the sentence has the numbers.
    """
    disks = defaultdict(list)
    for what, folder, size in needs:
        while not folder.exists():
            folder = folder.parent
        disks[folder.stat().st_dev].append((what, folder, size))
    for parts in disks.values():
        folder, needed = parts[0][1], sum(size for _, _, size in parts)
        free = shutil.disk_usage(folder).free
        if needed > free:
            listing = ", ".join(f"{what} {decimal(size)}" for what, _, size in parts if size)
            raise UserError(
                f"The disk of {folder.resolve()} has {decimal(free)} free and {decimal(needed)} are needed "
                f"({listing}): free some, name folders on another disk, or take fewer pictures with --max_images."
            )
