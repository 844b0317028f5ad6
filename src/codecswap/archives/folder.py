"""The folder of an archive: what it holds, which shards are done, and how a shard gets there.

::

    archive.json         what made the archive; another codec or other options are refused
    shards.json          number of shards, once a worker has listed the whole source
    shards/NAME.tar      coded pictures (``tar``), or
    files/...            the same as single files (``tree``)
    index/NAME.parquet   a row for each picture; it is written last, so a shard that has one is done
    seconds/NAME.parquet how long each picture took
    .work/               shards in work; it stays, empty, since other workers may be about to use it

Any number of workers may write to it: each attempt at a shard has a folder of its own in ``.work``, files are renamed to
their place when they are complete, and all attempts at a shard give the same bytes.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from codecswap.archives.index import Row, Summary, read_summary, write_index, write_seconds
from codecswap.archives.shards import Shard, tree_folder
from codecswap.data.sources import ARCHIVE, FILES, SHARDS
from codecswap.errors import RunFailure, UserError
from codecswap.files import LONGEST_NAME

FORMAT, VERSION = "codecswap archive", 1
LISTING = "shards.json"
INDEX, SECONDS, WORK = "index", "seconds", ".work"

Layout = Literal["tar", "tree"]


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of an archive besides its source."""

    content: Literal["csw", "png"]
    """Extension of what it holds."""
    layout: Layout
    codec: str
    """Identity of the codec (`codecswap.coding.source.Source.identity`)."""
    shard_size: int
    """Files in a shard, where the source is not made of tar files."""
    psnr: bool = False
    """Whether the index has the PSNR of each picture."""
    rate: str = ""
    """Rate that was asked of a codec with variable rate."""
    region: str = ""
    """Part of the pictures that was decoded."""


class MadeElsewhere(Exception):
    """Another worker has made the shard that this one was at."""


@dataclass(frozen=True)
class Archive:
    """An archive's folder."""

    folder: Path
    recipe: Recipe

    @classmethod
    def start(cls, folder: Path, recipe: Recipe) -> Self:
        """Begin an archive, or go on with the one that is there.

        Raises:
            UserError: the folder holds something else, or an archive of another codec or other options.
        """
        archive = cls(folder, recipe)
        others = folder.is_file() or (folder.is_dir() and any(entry.name != WORK for entry in folder.iterdir()))
        if (folder / ARCHIVE).exists():  # looked at last: another worker may be starting, and writes it first
            before = cls.open(folder).recipe
            for name, value in asdict(recipe).items():
                if (had := getattr(before, name)) != value:
                    raise UserError(
                        f"{folder} is an archive made with {name} {had}, not {value}: name another --output, or "
                        "make it with the same options as before."
                    )
            return archive
        if others:
            raise UserError(f"{folder} is there and is no archive: name another --output, or a new folder.")
        archive._write_once(ARCHIVE, {"format": FORMAT, "version": VERSION, **asdict(recipe)})
        return archive

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open an archive.

        Raises:
            UserError: there is none.
        """
        try:
            content = json.loads((folder / ARCHIVE).read_bytes())
            if content.pop("format") != FORMAT:
                raise ValueError(content)
            if (version := content.pop("version")) != VERSION:
                raise UserError(
                    f"{folder} is an archive of version {version}, this program reads {VERSION}: update codecswap."
                )
            return cls(folder, Recipe(**content))
        except FileNotFoundError:
            raise UserError(f"{folder} is no archive (it has no {ARCHIVE}): check the path.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / ARCHIVE} is damaged: copy it again.") from error

    def index_of(self, name: str) -> Path:
        """Index of a shard."""
        return self.folder / INDEX / f"{name}.parquet"

    def tar_of(self, name: str) -> Path:
        """Tar file of a shard."""
        return self.folder / SHARDS / f"{name}.tar"

    def done(self, shard: Shard) -> Summary | None:
        """The summary of a shard that is done, else None.

        Raises:
            UserError: it was made of other files.
        """
        index = self.index_of(shard.name)
        if not index.exists():
            return None
        summary = read_summary(index)
        if summary.digest != shard.digest:
            raise UserError(
                f"The source has changed since {index} was made (other files are in this shard): name another --output."
            )
        return summary

    def shards_done(self) -> Iterator[str]:
        """Names of the shards that have an index, in order."""
        found = sorted((self.folder / INDEX).rglob("*.parquet"))
        yield from (path.relative_to(self.folder / INDEX).with_suffix("").as_posix() for path in found)

    def write_listing(self, shards: int, digest: str) -> None:
        """Record how many shards there are, and a digest of their names and files.

        Raises:
            UserError: another worker has listed others.
        """
        if (before := self.listing()) and before != (shards, digest):
            raise UserError(
                f"The source has changed: it has {shards} shards now and had {before[0]}, or other files in them: name "
                "another --output."
            )
        self._write_once(LISTING, {"shards": shards, "digest": digest})

    def listing(self) -> tuple[int, str] | None:
        """What `write_listing` recorded; None if no worker has seen the end of the source yet."""
        try:
            content = json.loads((self.folder / LISTING).read_bytes())
            return content["shards"], content["digest"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.folder / LISTING} is damaged: delete it, and repeat the command.") from error

    @contextmanager
    def attempt(self, shard: Shard) -> Iterator["Attempt"]:
        """Work on a shard; what is not finished leaves nothing.

        Raises:
            RunFailure: something cannot be written.
            MadeElsewhere: another worker has made the shard in the meantime, and removed this attempt.
        """
        place = self.folder / WORK / f"{_token(shard.name)}.{uuid.uuid4().hex}"
        try:
            place.mkdir(parents=True)
            attempt = Attempt(self, shard, place)
            try:
                yield attempt
            finally:
                attempt.close()
        except OSError as error:
            if self.index_of(shard.name).exists():
                raise MadeElsewhere from error
            raise RunFailure(
                f"The archive {self.folder} cannot be written ({error.strerror or error}): put the disk right, then the same "
                "command goes on."
            ) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def clean(self, shard: Shard) -> None:
        """Remove what killed attempts at a finished shard have left."""
        for place in (self.folder / WORK).glob(f"{_token(shard.name)}.*"):
            shutil.rmtree(place, ignore_errors=True)

    def _write_once(self, name: str, content: object) -> None:
        place = self.folder / WORK / uuid.uuid4().hex
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        place.replace(self.folder / name)


class Attempt:
    """Files of a shard in work; `add` them in order, then `finish`."""

    def __init__(self, archive: Archive, shard: Shard, place: Path) -> None:
        self.archive, self.shard, self.place = archive, shard, place
        self._tar = None
        self._names: set[str] = set()
        self._tree = "" if archive.recipe.layout == "tar" else tree_folder(shard)
        if archive.recipe.layout == "tar":
            self._tar = tarfile.open(place / "tar", "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - closed in `close`

    def name_for(self, name: str) -> str:
        """Name of a file in the archive: that of the index.

        Raises:
            ValueError: another file of the shard has it, or it is too long for a file system; a clause.
        """
        full = self._tree + name
        if full in self._names:
            raise ValueError(f"would become {name}, which another picture became: rename one of them")
        if not self._tar and max(len(os.fsencode(part)) for part in full.split("/")) > LONGEST_NAME:
            raise ValueError("has too long a name for a file")
        self._names.add(full)
        return full

    def add(self, name: str, data: bytes) -> None:
        """Write a file of a name that `name_for` gave."""
        if self._tar:
            info = tarfile.TarInfo(name)  # owner, group and time are 0
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        else:
            beside, target = self.place / "file", self.archive.folder / FILES / name
            beside.write_bytes(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            beside.replace(target)

    def finish(self, rows: list[Row]) -> Summary:
        """Move the shard to its place, its index last."""
        sha256 = None
        if self._tar:
            self._tar.close()
            with (self.place / "tar").open("rb") as file:
                os.fsync(file.fileno())
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        summary = Summary(
            digest=self.shard.digest,
            pictures=len(rows),
            errors=sum(row.error is not None for row in rows),
            bytes=sum(row.bytes or 0 for row in rows),
            pixels=sum((row.width or 0) * (row.height or 0) for row in rows),
            sha256=sha256,
        )
        archive, name = self.archive, self.shard.name
        write_index(self.place / "index", rows, summary)
        write_seconds(self.place / "seconds", rows)
        with (self.place / "index").open("rb") as file:
            os.fsync(file.fileno())
        moves = {"seconds": archive.folder / SECONDS / f"{name}.parquet", "index": archive.index_of(name)}
        if self._tar:
            moves = {"tar": archive.tar_of(name), **moves}
        for part, target in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.place / part).replace(target)
        return summary

    def close(self) -> None:
        """Close the files."""
        if self._tar:
            with suppress(OSError):  # the disk may be full
                self._tar.close()


def _token(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
