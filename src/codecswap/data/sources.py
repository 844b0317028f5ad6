"""Sources of any number of files: folders, tar shards as WebDataset writes them, lists of paths, and fsspec's addresses.

A source is a stream of `Item` in a fixed order: files, and tar shards, whose members are read when it is their turn.
"""

import csv
import errno
import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from codecswap.data.walk import in_order, walk
from codecswap.errors import RunFailure, UserError, how_to_install

TARS = (".tar", ".tar.gz", ".tgz")
"""Extensions of tar shards."""
LISTS = (".txt", ".csv", ".parquet")
"""Extensions of lists of paths."""
COLUMNS = ("path", "file", "url", "name")
"""Column of a CSV or Parquet list that holds the paths: the first of these that it has, else its first column."""
ARCHIVE = "archive.json"
"""File by which a folder is known as an archive (`codecswap.archives`)."""
FILES, SHARDS = "files", "shards"
"""Folders of an archive that hold its files or its tar shards."""
MOST_BYTES = 1 << 29
"""Largest file or member that is read; no picture takes more."""
BLOCK = 10_000
"""Rows of a Parquet list that are read at once."""
OF_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR)
"""Errors that may concern a file alone, not the disk or the network that it is on."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a source, or a tar shard."""

    name: str
    """Its path inside the source, with slashes."""
    place: str
    """Its path, or its fsspec address."""

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar shard."""
        return self.name.lower().endswith(TARS)


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes, or why there are none."""

    name: str
    """Path of the file inside its source, or of the member inside its tar shard."""
    data: bytes
    error: str = ""
    """Why it cannot be read: a clause."""


def is_address(source: str) -> bool:
    """Whether fsspec reads this source: ``s3://...``, ``hf://...``."""
    return "://" in source


def is_stream(source: str) -> bool:
    """Whether a source is more than a file or a plain folder: a tar shard, a list, an archive or an address."""
    return is_address(source) or source.lower().endswith((*TARS, *LISTS)) or (Path(source) / ARCHIVE).is_file()


def holds_tars(folder: str) -> bool:
    """Whether there is a tar shard below a folder."""
    found = walk(Path(folder), (".tar", ".tgz", ".gz"), lambda why, name: None)
    return os.path.isdir(folder) and any(path.lower().endswith(TARS) for path in found)


def find_items(
    sources: Sequence[str], endings: Collection[str], left_out: Callable[[str, str], None]
) -> Iterator[Item]:
    """The files with one of the ``endings``, and the tar shards, of all sources, in order.

    Where there are several sources, names begin with the source's own name.

    Args:
        sources: folders, archives, files, tar shards, lists of paths, or addresses.
        endings: extensions in lower case, e.g. ``.jpg``.
        left_out: called with the reason and the name of everything else that is found in folders.

    Raises:
        UserError: a source is missing or of no known kind, or two have one name.
    """
    names = [PurePosixPath(Path(source).name or source).name for source in sources]
    if len(set(names)) < len(names):
        raise UserError("Two sources have the same name, so their files would, too: name a folder above them.")
    for source, own in zip(sources, names, strict=True):
        for item in _items(source, {*endings, ".tar", ".tgz", ".gz"}, left_out):
            if item.name.lower().endswith(".gz") and not item.is_tar:
                left_out("another ending", item.name)
                continue
            whole = len(sources) == 1 or item.name == own
            yield item if whole else Item(f"{own}/{item.name}", item.place)


def _items(source: str, endings: Collection[str], left_out: Callable[[str, str], None]) -> Iterator[Item]:
    lower = source.lower()
    if lower.endswith(LISTS):
        yield from _listed(source)
    elif is_address(source):
        yield from _remote(source, endings)
    elif os.path.isdir(source):
        folder = Path(source)
        if (folder / ARCHIVE).is_file():
            folder = next((folder / part for part in (SHARDS, FILES) if (folder / part).is_dir()), folder / SHARDS)
        for path in walk(folder, endings, left_out):
            yield Item(os.path.relpath(path, folder).replace(os.sep, "/"), path)
    elif os.path.exists(source):
        yield Item(os.path.basename(source), source)
    else:
        raise UserError(f"There is no file or folder {source}: check the path.")


def _listed(source: str) -> Iterator[Item]:
    """The paths in a list; relative ones are below the list's folder."""
    above = source.rpartition("/")[0] if is_address(source) else os.path.dirname(source)
    for line in _lines(source):
        relative = not is_address(line) and not os.path.isabs(line)
        place = f"{above}/{line}" if relative and above else line
        name = line.partition("://")[2] if is_address(line) else line
        yield Item(name.replace(os.sep, "/").lstrip("/").removeprefix("./"), place)


def _lines(source: str) -> Iterator[str]:
    lower = source.lower()
    try:
        if lower.endswith(".parquet"):
            parquet = need_pyarrow().parquet
            with opened(source) as file:
                table = parquet.ParquetFile(file)
                column = next(
                    (name for name in COLUMNS if name in table.schema_arrow.names), table.schema_arrow.names[0]
                )
                for batch in table.iter_batches(BLOCK, columns=[column]):
                    yield from (str(value) for value in batch.column(0).to_pylist() if value)
            return
        with opened(source) as binary:
            lines = (line.decode("utf-8-sig", "surrogateescape").rstrip("\r\n") for line in binary)
            if not lower.endswith(".csv"):
                yield from (line for line in lines if line.strip())
                return
            rows = csv.reader(lines)
            header = next(rows, [])
            index = next((header.index(name) for name in COLUMNS if name in header), 0)
            yield from (row[index] for row in rows if len(row) > index and row[index])
    except (OSError, UserError):
        raise
    except Exception as error:  # pyarrow has exceptions of its own for damaged bytes
        raise UserError(f"{source} cannot be read as a list of paths ({error}): check the file.") from None


def _remote(source: str, endings: Collection[str]) -> Iterator[Item]:
    system, root = _file_system(source)

    def below(folder: str) -> Iterator[str]:
        entries = system.ls(folder, detail=True)
        kinds = {entry["name"].rstrip("/"): entry["type"] for entry in entries}
        for name in in_order(f"{name}/" if kind == "directory" else name for name, kind in kinds.items()):
            if name.rpartition("/")[2].startswith("."):
                continue
            if name.endswith("/"):
                yield from below(name[:-1])
            elif os.path.splitext(name)[1].lower() in endings:
                yield name

    with _remote_errors(source):
        if not system.isdir(root):
            yield Item(root.rpartition("/")[2], source)
            return
        for name in below(root.rstrip("/")):
            yield Item(name[len(root.rstrip("/")) + 1 :], system.unstrip_protocol(name))


def find_files(
    source: str, endings: Collection[str], left_out: Callable[[str, str], None]
) -> Iterator[tuple[str, Item]]:
    """Paths inside the source of its files with one of the ``endings``, each with the item that holds it.

    The path of a tar's member begins with the tar's; `contents` names the member without it. Arguments are those of
    `find_items`.

    Raises:
        UserError, RunFailure: the source is missing, or gone.
    """
    for item in find_items([source], endings, left_out):
        if not item.is_tar:
            yield item.name, item
            continue
        try:
            with opened(item.place) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
                for member in tar:
                    if member.isreg() and os.path.splitext(member.name)[1].lower() in endings:
                        yield f"{item.name}/{member.name}", item
        except (tarfile.TarError, EOFError, zlib.error):
            left_out("the rest of a damaged tar", item.name)
        except OSError as error:
            raise _gone(item, error) from error


def contents(item: Item) -> Iterator[Content]:
    """The content of a file, or of all files in a tar shard, in order.

    Raises:
        RunFailure: the source is gone; not where only this file cannot be read.
    """
    if not item.is_tar:
        yield read_file(item)
        return
    name = ""
    try:
        with opened(item.place) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                name = member.name
                if member.size > MOST_BYTES:
                    yield Content(name, b"", f"has {member.size:,} bytes, more than a picture")
                    continue
                data = tar.extractfile(member)
                content = data.read() if data else b""
                if len(content) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield Content(name, content, "" if is_inside(name) else "would be written outside of its folder")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        after = f" after {name}" if name else ""
        yield Content(item.name, b"", f"is a damaged tar{after} ({error})")
    except OSError as error:
        raise _gone(item, error) from error


def read_file(item: Item) -> Content:
    """The content of a file.

    Raises:
        RunFailure: as `contents`.
    """
    if not is_inside(item.name):
        return Content(item.name, b"", "would be written outside of its folder")
    try:
        with opened(item.place) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        if not is_address(item.place) and error.errno in OF_ONE_FILE and _can_be_listed(os.path.dirname(item.place)):
            return Content(item.name, b"", f"cannot be read ({error.strerror})")
        raise _gone(item, error) from error
    if len(data) > MOST_BYTES:
        return Content(item.name, b"", f"has more than {MOST_BYTES:,} bytes, more than a picture")
    return Content(item.name, data)


def is_inside(name: str) -> bool:
    """Whether a path of a source stays inside its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _can_be_listed(folder: str) -> bool:
    """Whether a folder is still there, with something in it: an unmounted disk leaves an empty one."""
    try:
        with os.scandir(folder or ".") as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _gone(item: Item, error: OSError) -> RunFailure:
    return RunFailure(
        f"The source can no longer be read at {item.place} ({error.strerror or error}): put it right, then the same command "
        "goes on."
    )


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """Open a path or an address for reading.

    Raises:
        OSError: it cannot be read.
    """
    if not is_address(place):
        with open(place, "rb") as file:
            yield file
        return
    system, path = _file_system(place)
    with _remote_errors(place), system.open(path, "rb") as file:
        yield file


@contextmanager
def _remote_errors(place: str) -> Iterator[None]:
    """Convert the exceptions of a store's client to an OSError; ours pass."""
    try:
        yield
    except (OSError, UserError, tarfile.TarError, EOFError, zlib.error):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", place) from error


def _file_system(place: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(place)
    except (ImportError, ValueError) as error:
        missing = getattr(error, "name", None) == "fsspec"
        reason = how_to_install("archive") if missing else f"install what fsspec asks for ({error})"
        raise UserError(f"{place} needs a package that is not installed: {reason}.") from None


def need_pyarrow() -> Any:
    """PyArrow, which reads and writes Parquet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"Parquet needs pyarrow, which is not installed: {how_to_install('archive')}.") from None
    return pyarrow
