"""The index of a shard: a Parquet file with a row for each picture. Once it is in its place, the shard is done."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from codecswap.data.sources import need_pyarrow
from codecswap.errors import UserError

METADATA = b"codecswap"
"""Key of a shard's `Summary` in the metadata of its index."""
TYPES = {
    "name": "string",
    "key": "string",
    "shard": "string",
    "width": "int32",
    "height": "int32",
    "bytes": "int64",
    "bpp": "float64",
    "psnr": "float64",
    "checksum": "string",
    "error": "string",
}
"""Columns of an index and their types in Arrow."""


@dataclass
class Row:
    """What an index tells about a picture; None where there is nothing to tell."""

    name: str | None
    """Path of the written file: in the shard's tar, or below ``files/``. None where nothing could be written."""
    key: str
    """Path of the picture in its source."""
    shard: str = ""
    """Name of the shard."""
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""
    bytes: int | None = None
    """Size of the file: coded, or decoded as PNG."""
    bpp: float | None = None
    """Bits per pixel of the coded picture."""
    psnr: float | None = None
    """PSNR in dB of the decoded picture, where it was measured."""
    checksum: str | None = None
    """First 16 digits of the file's SHA-256 (`checksum`)."""
    error: str | None = None
    """Why nothing could be written: a sentence."""
    seconds: float = 0.0
    """Wall time of coding; in a file of its own, since no two runs take the same."""


assert set(TYPES) | {"seconds"} == {field.name for field in fields(Row)}


@dataclass(frozen=True)
class Summary:
    """What is known of a shard that is done."""

    digest: str
    """`codecswap.archives.shards.Shard.digest`."""
    pictures: int
    """Rows of the index."""
    errors: int
    """Rows with an error."""
    bytes: int
    """Bytes of all coded or decoded pictures."""
    pixels: int
    sha256: str | None
    """SHA-256 of the shard's tar, in hexadecimal; None for single files."""


def checksum(data: bytes) -> str:
    """What the index keeps of a file's SHA-256. (The CRC-32 of all .csw files is the same: they end with their own.)"""
    return hashlib.sha256(data).hexdigest()[:16]


def write_index(path: Path, rows: Sequence[Row], summary: Summary) -> None:
    """Write the index of a shard; the same rows give the same bytes."""
    pyarrow = need_pyarrow()
    schema = pyarrow.schema(
        [(name, pyarrow.type_for_alias(kind)) for name, kind in TYPES.items()],
        metadata={METADATA: json.dumps(asdict(summary), sort_keys=True)},
    )
    columns = {name: [_text(getattr(row, name)) for row in rows] for name in TYPES}
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), path, compression="zstd")


def write_seconds(path: Path, rows: Sequence[Row]) -> None:
    """Write how long each picture of a shard took."""
    pyarrow = need_pyarrow()
    table = pyarrow.table({"key": [_text(row.key) for row in rows], "seconds": [row.seconds for row in rows]})
    pyarrow.parquet.write_table(table, path, compression="zstd")


def read_summary(path: Path) -> Summary:
    """The summary of a shard, from the end of its index.

    Raises:
        UserError: the file is damaged.
    """
    try:
        metadata = need_pyarrow().parquet.read_schema(path).metadata or {}
        return Summary(**json.loads(metadata[METADATA]))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error


def read_index(path: Path) -> list[Row]:
    """All rows of an index, with the text of names as Arrow holds it (see `stored`).

    Raises:
        UserError: the file is damaged.
    """
    try:
        table = need_pyarrow().parquet.read_table(path, partitioning=None)
        return [Row(**{name: row[name] for name in TYPES}) for row in table.to_pylist()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path) from error


def read_seconds(path: Path) -> list[float]:
    """How long each picture of a shard took, in the order of its index.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return need_pyarrow().parquet.read_table(path, columns=["seconds"], partitioning=None)["seconds"].to_pylist()
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path) from error


def stored(name: str) -> str:
    """A path as it stands in an index: bytes that are not UTF-8 become escapes (``\\xff``)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(value: Any) -> Any:
    return stored(value) if isinstance(value, str) else value


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: delete it, and the command that made the archive makes this shard again.")
