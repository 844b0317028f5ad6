"""Find pictures and split them by a hash of their names, without PyTorch.

The split of a picture (training or validation) depends only on its base name.
"""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecswap.console import warn
from codecswap.data.pictures import UNREADABLE, picture_size
from codecswap.data.walk import walk
from codecswap.errors import UserError
from codecswap.identify import no_folder

CROP = 224
"""Side of a training picture, in pixels."""
ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"})
"""File extensions, in lower case, of the formats in `codecswap.data.pictures.FORMATS`."""
COCO_TOP = "train2017"
"""The folder with COCO's training pictures."""
ASIDE = frozenset({"annotations", "labels", "val2017", "test2017", "__macosx"})
"""Folders, in lower case, whose pictures are not used for training unless the user names the folder itself."""
_COPY = re.compile(r"~\d+$")
"""``name~2.jpg`` is the second picture of that name among prepared crops; both are in the same split."""


def base_name(path: str | Path) -> str:
    """The name that decides a picture's split: without folder, extension and ``~2``."""
    return _COPY.sub("", Path(path).stem)


def normal(name: str) -> str:
    """Unicode-normalized name for hashing: macOS stores accents separately from their letters."""
    return unicodedata.normalize("NFC", name)


def position(path: str | Path) -> float:
    """A picture's hash as a number in [0, 1), from the SHA-256 of its base name.

    Positions below ``val_ratio`` are the validation split, the others the training split.
    """
    name = normal(base_name(path))
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def choose(
    paths: Sequence[Path], *, val_ratio: float, max_images: int | None = None, held_out: Sequence[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """Split pictures into a training split (by ascending hash) and a validation split (by file name).

    Args:
        paths: the pictures; where ``held_out`` is given, all of them are for training.
        val_ratio: share of the validation split.
        max_images: keep the N training pictures with the lowest hashes and, of the validation pictures with the lowest
            hashes, the share that belongs to N (at least one), whatever else is in the folder.
        held_out: validation pictures of a folder that is already split.
    """
    ranked = sorted(((position(path), normal(path.name), path) for path in paths), key=lambda entry: entry[:2])
    held = sorted(((position(path), normal(path.name), path) for path in held_out), key=lambda entry: entry[:2])
    train = [path for place, _, path in ranked if held or place >= val_ratio]
    val = [path for _, _, path in held] or [path for place, _, path in ranked if place < val_ratio]
    if max_images is not None:
        train = train[:max_images]
        val = val[: max(1, round(max_images * val_ratio / (1 - val_ratio)))]
    return train, sorted(val, key=lambda path: (normal(path.name), normal(str(path))))


def scan(folder: str | Path, endings: Collection[str] = ENDINGS) -> list[Path]:
    """All pictures below a folder, sorted by path; a warning names files that are left out.

    Links are followed, each folder is read once, and hidden files (``.name``) are skipped.

    Args:
        folder: where to look.
        endings: extensions of the files to find, in lower case.
    """
    found, left_out = _look(Path(folder), endings)
    if found and left_out:
        warn(f"left out of {folder}: {counted(left_out)}.")
    return found


def coco_folder(root: Path) -> Path | None:
    """COCO's training pictures below ``root``, as people lay them out; None where there are none."""
    for base in (root, root / "images", root / "coco", root / "coco" / "images"):
        if (base / COCO_TOP).is_dir():
            return base / COCO_TOP
    return None


def to_train_on(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The pictures below ``folder`` but for those in folders named in `ASIDE`, which a warning counts.

    Raises:
        UserError: there are no others.
    """
    aside = [path for path in paths if ASIDE & {part.lower() for part in path.relative_to(folder).parts[:-1]}]
    if not aside:
        return list(paths)
    names = sorted({part for path in aside for part in path.relative_to(folder).parts if part.lower() in ASIDE})
    if len(aside) == len(paths):
        raise UserError(f"{folder} holds no pictures but those in {', '.join(names)}: name that folder to take them.")
    warn(f"{len(aside)} pictures in {', '.join(names)} are not taken: name that folder to take them.")
    return sorted(set(paths) - set(aside))


def list_pictures(folder: str | Path, option: str) -> list[Path]:
    """All pictures below a folder, sorted by path; ``option`` is the option that named it, for the error.

    Raises:
        UserError: no such folder, or no pictures in it.
    """
    if not Path(folder).is_dir():
        raise no_folder(folder, f"name the folder that holds the pictures with {option}")
    if not (found := scan(folder)):
        raise no_pictures(folder, option)
    return found


def no_pictures(folder: str | Path, option: str, endings: Collection[str] = ENDINGS) -> UserError:
    """The error if `scan` finds nothing."""
    left_out = _look(Path(folder), endings)[1]
    words = f"; left out: {counted(left_out)}" if left_out else ""
    return UserError(f"There are no pictures in {folder} ({', '.join(sorted(endings))}{words}): check {option}.")


def _look(folder: Path, endings: Collection[str]) -> tuple[list[Path], dict[str, list[str]]]:
    """Files with one of the ``endings`` below a folder, and the names of everything else but hidden files, by reason."""
    left_out: dict[str, list[str]] = defaultdict(list)
    found = walk(folder, endings, lambda why, name: left_out[why].append(name))
    return sorted(map(Path, found)), {why: sorted(names) for why, names in sorted(left_out.items())}


def counted(left_out: Mapping[str, Sequence[str]]) -> str:
    """Names of files left out, by reason, in words: ``notes.txt (another ending), sub and 2 more (a folder read already)``."""
    return ", ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({why})"
        for why, names in left_out.items()
    )


@dataclass(frozen=True)
class Pictures:
    """The pictures that a run uses, found in one folder."""

    layout: str
    """``coco`` (train2017/), ``prepared`` (224x224 crops in train/, val/) or ``folder`` (any other pictures)."""
    train: list[Path]
    """Training split, by ascending hash."""
    val: list[Path]
    """Validation split, by file name."""

    @property
    def prepared(self) -> bool:
        """Whether pictures are used unchanged, neither cropped nor flipped."""
        return self.layout == "prepared"

    def identity(self, root: str | Path) -> dict[str, Any]:
        """Counts and a hash that identify this data set, independent of where its folder ``root`` is.

        Returns: ``folder``, ``layout``, ``train``, ``val`` (numbers of pictures) and ``sha256`` of sides, paths relative to
            ``root`` and sizes in bytes. Contents are not read, which would take minutes for COCO.
        """
        digest = hashlib.sha256()
        for side, paths in (("train", self.train), ("val", self.val)):
            for path in paths:
                place = normal(os.path.relpath(path, root).replace(os.sep, "/"))
                digest.update(f"{side}/{place}/{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return {
            "folder": str(Path(root).resolve()),
            "layout": self.layout,
            "train": len(self.train),
            "val": len(self.val),
            "sha256": digest.hexdigest(),
        }


def find_pictures(
    root: str | Path | None, *, val_ratio: float = 0.02, use_prepared: bool = False, max_images: int | None = None
) -> Pictures:
    """Find the pictures below ``root``, detect the layout and split them.

    Args:
        root: raw COCO (``train2017/``, ``images/train2017/``), prepared crops (``train/``, ``val/``, sub-folders too) or any
            folder of pictures; if it has ``train/`` or ``images/train/``, these, and ``val/`` beside it is held out.
        val_ratio: share of pictures in the validation split, in (0, 1); not used if there is a ``val/``.
        use_prepared: accept only prepared crops.
        max_images: take the N training pictures with the lowest hashes, and their share of validation pictures.

    Raises:
        UserError: no such folder, no pictures, no prepared crops with ``use_prepared``, or an empty split.
    """
    if root is None:
        raise UserError(
            "No pictures given: name a folder of pictures (or COCO's, with train2017/ in it) with --coco_dir."
        )
    root = Path(root)
    if not root.is_dir():
        raise no_folder(root, "name the folder that holds the pictures with --coco_dir")
    base = root / "images" if (root / "images" / "train").is_dir() and not (root / "train").is_dir() else root
    split = (base / "train").is_dir()
    coco = None if use_prepared else coco_folder(root)
    where = coco or (base / "train" if split else root)
    found = to_train_on(scan(where), where)
    layout = "coco" if coco else "prepared" if split and _are_crops(found) else "folder"
    if not found:
        raise no_pictures(where, "--coco_dir")
    if use_prepared and layout != "prepared":
        raise UserError(
            f"--use_prepared needs {CROP}x{CROP} crops in {root / 'train'} and there are none: "
            "make them with `codecswap prepare`, or omit --use_prepared."
        )
    held_out = scan(base / "val") if split and not coco and (base / "val").is_dir() else []
    train, val = choose(found, val_ratio=val_ratio, max_images=max_images, held_out=held_out)
    if not train:
        raise UserError(
            f"All {len(found)} pictures of {where} fall on the validation side: lower --val_ratio ({val_ratio})."
        )
    if not val:
        raise UserError(
            f"None of the {len(found)} pictures of {where} falls on the validation side: raise --val_ratio ({val_ratio})."
        )
    return Pictures(layout, train, val)


def _are_crops(paths: list[Path]) -> bool:
    """Whether the first picture that opens has the size of a prepared crop."""
    for path in paths:
        try:
            return picture_size(path) == (CROP, CROP)
        except UNREADABLE:
            continue
    return False
