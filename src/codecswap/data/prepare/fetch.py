"""COCO's training pictures on this disk: all of them from the downloaded zip, or only the chosen ones."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from codecswap.config import PrepareOptions
from codecswap.console import amount, bar
from codecswap.data.discovery import ENDINGS, choose, coco_folder, scan
from codecswap.data.prepare.crop_folder import MANIFEST
from codecswap.data.prepare.crops import BYTES_PER_PIXEL
from codecswap.data.prepare.download import COCO, Archive, Remote, download
from codecswap.data.prepare.remote import RemoteFile, extents
from codecswap.data.prepare.unpack import TOP, missing, open_zip, pictures, place, unpack
from codecswap.errors import UserError
from codecswap.files import atomic_write, ignores_case, need_space

PICTURE_BYTES = 163_000
"""Mean size of a COCO picture, to estimate how many are in a zip before it is downloaded."""


class CocoFolder:
    """``coco_dir`` and the names in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = folder / TOP
        """All pictures; the folder gets this name when it is complete."""
        self.partial = folder / f"{TOP}.part"
        """Pictures unpacked so far, or only those that ``--max_images`` asked for."""
        self.chosen = folder / f"{TOP}.part.json"
        """Which pictures those are, written when all of them are there."""
        self.zip = folder / f"{TOP}.zip"
        """The zip, if it was there before or is to be kept."""
        self.own_zip = folder / f"{TOP}.tmp.zip"
        """The zip, if it is deleted after unpacking."""

    def there(self) -> Path | None:
        """Pictures that are on this disk already, as others lay them out; ``train/`` of prepared crops are none."""
        if found := coco_folder(self.folder):
            return found
        for base in (self.folder, self.folder / "images"):
            if (base / "train").is_dir() and not (base / MANIFEST).exists() and scan(base / "train"):
                return base / "train"
        return None

    def zips(self) -> list[Path]:
        """The zip, wherever it is on this disk: in the folder, beside it, or in folders that others put it in."""
        places = (self.folder.absolute().parent, *(self.folder / name for name in ("images", "zips", "downloads")))
        candidates = (self.zip, self.own_zip, *(place / self.zip.name for place in places))
        return [path for path in candidates if path.is_file()]


def fetch(options: PrepareOptions) -> Path | None:
    """Download COCO's pictures to ``coco_dir``, continuing where an earlier run stopped.

    Returns: the folder with the pictures; None with ``--download_only`` and no ``--max_images``.

    Raises:
        UserError: an error of the network, the zip or the disk.
    """
    coco = CocoFolder(Path(options.coco_dir or ""))
    if there := coco.there():
        if coco.own_zip.exists() and there == coco.pictures:  # a run was killed between unpacking and removing it
            coco.own_zip.unlink()
        return there
    if any(path.suffix.lower() in ENDINGS for path in coco.folder.iterdir()):
        raise UserError(
            f"{coco.folder} holds pictures but no {TOP}/: for pictures of your own use --images {coco.folder}, "
            "for COCO name an empty folder."
        )
    archive = _archive(options)
    if options.max_images is not None and not coco.zips():
        return _fetch_chosen(coco, archive, options)
    path = _fetch_zip(coco, archive, options)
    if options.download_only:
        return None
    with open_zip(path, str(path)) as opened:
        members = pictures(opened, str(path), ignores_case=ignores_case(coco.folder))
        _unpack_all(opened, members, coco, options)
    coco.partial.rename(coco.pictures)
    coco.chosen.unlink(missing_ok=True)
    coco.own_zip.unlink(missing_ok=True)
    return coco.pictures


def _archive(options: PrepareOptions) -> Archive:
    if options.url in (None, COCO.url):
        return Archive(COCO.url, COCO.length, options.md5 or COCO.md5)
    return Archive(str(options.url), md5=options.md5)


def _fetch_zip(coco: CocoFolder, archive: Archive, options: PrepareOptions) -> Path:
    """The zip, downloaded unless it is there."""
    keep = options.keep_zip or options.download_only
    if keep and coco.own_zip.exists():
        coco.own_zip.rename(coco.zip)
    for path in coco.zips():
        if archive.length not in (None, path.stat().st_size):
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes where {archive.url} has {archive.length:,}: "
                "remove it, or name its address with --url."
            )
        return path
    remote = Remote.look(archive)
    path = coco.zip if keep else coco.own_zip
    # a part begun with or without --keep_zip is continued either way
    for other in (coco.zip, coco.own_zip):
        begun = other.with_name(f"{other.name}.part")
        if other != path and begun.exists():
            begun.rename(path.with_name(f"{path.name}.part"))
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.exists() else 0
    needs = [("zip", coco.folder, remote.length - have)]
    if not options.download_only:
        needs += _needs(coco, options, remote.length - _size(coco.partial), remote.length // PICTURE_BYTES)
    need_space(needs)
    print(f"{archive.url}: {amount(remote.length, 'bytes')}", flush=True)
    download(archive, path, remote)
    return path


def _unpack_all(opened: ZipFile, members: Sequence[ZipInfo], coco: CocoFolder, options: PrepareOptions) -> None:
    """Unpack every picture that is not there yet."""
    total, todo = sum(info.file_size for info in members), missing(members, coco.partial)
    size = sum(info.file_size for info in todo)
    need_space(_needs(coco, options, size, len(members)))
    with bar("Unpacking", total, unit="bytes", done=total - size) as advance:
        unpack(opened, todo, coco.partial, advance)


def _fetch_chosen(coco: CocoFolder, archive: Archive, options: PrepareOptions) -> Path:
    """Only the pictures chosen by ``--max_images``, from the zip on the server."""
    wish = {"url": archive.url, "val_ratio": options.val_ratio, "max_images": options.max_images}
    if _covers(coco.chosen, wish):
        return coco.partial
    remote = Remote.look(archive)
    if not remote.ranges:
        raise UserError(
            f"{archive.url} is on a server without byte ranges, so --max_images cannot fetch single pictures: name another "
            f"server with --url, or get the whole zip ({amount(remote.length, 'bytes')}) with --download_only first."
        )
    print(f"Reading the list of pictures in {archive.url}", flush=True)
    file = RemoteFile(remote)
    with open_zip(io.BufferedReader(file), archive.url) as opened:
        members = {
            Path(place(info)): info for info in pictures(opened, archive.url, ignores_case=ignores_case(coco.folder))
        }
        train, val = choose(sorted(members), val_ratio=options.val_ratio, max_images=options.max_images)
        chosen = sorted((members[path] for path in train + val), key=lambda info: info.header_offset)
        todo = missing(chosen, coco.partial)
        need_space(_needs(coco, options, sum(info.file_size for info in todo), len(chosen)))
        with (
            bar("Fetching pictures", len(chosen), unit="pictures", done=len(chosen) - len(todo)) as advance,
            file.expect(extents(opened, todo)),
        ):
            unpack(opened, todo, coco.partial, lambda size: advance(1))
    with atomic_write(coco.chosen) as beside:
        beside.write_text(json.dumps(wish) + "\n", "utf-8")
    return coco.partial


def _covers(path: Path, wish: dict[str, Any]) -> bool:
    """Whether an earlier run has fetched all of ``wish``: the N lowest hashes include those of any smaller N."""
    try:
        had = json.loads(path.read_text("utf-8"))
        same = all(had[key] == wish[key] for key in ("url", "val_ratio"))
        return bool(same and had["max_images"] >= wish["max_images"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _needs(coco: CocoFolder, options: PrepareOptions, size: int, count: int) -> list[tuple[str, Path, int]]:
    """Disk space for pictures of ``size`` bytes and, with ``--out_dir``, for ``count`` crops."""
    needs = [("pictures", coco.folder, max(size, 0))]
    if options.out_dir is not None and not options.download_only:
        if options.max_images is not None:
            count = min(count, math.ceil(options.max_images / (1 - options.val_ratio)))
        crops = round(count * options.size**2 * BYTES_PER_PIXEL[options.format])
        needs.append(("crops", Path(options.out_dir), crops))
    return needs


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
