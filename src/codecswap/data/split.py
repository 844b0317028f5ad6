"""Training or validation: decided by a hash of a picture's base name, the same on every machine."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

_COPY = re.compile(r"~\d+$")
"""``name~2.jpg`` is the second picture called ``name`` where a folder may hold only one; both stand on one side."""


def base_name(path: str | Path) -> str:
    """The name that decides on a picture's side: without folder, extension and ``~2``."""
    return _COPY.sub("", Path(path).stem)


def position(path: str | Path) -> float:
    """Where a picture stands in [0, 1), from the SHA-256 of its base name without extension (and without ``~2``).

    Positions below ``val_ratio`` are the validation side, the others the training side.
    """
    name = base_name(path)
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def choose(
    paths: Sequence[Path], *, val_ratio: float, max_images: int | None = None, held_out: Sequence[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """Split pictures into a training side (by ascending hash) and a validation side (by file name).

    Args:
        paths: the pictures; where ``held_out`` is given, all of them are for training.
        val_ratio: share of the validation side.
        max_images: keep the N training pictures with the lowest hashes and, of the validation pictures with the lowest
            hashes, the share that belongs to N (at least one), whatever else is in the folder.
        held_out: the validation pictures of a folder that is split already.
    """
    ranked = sorted(((position(path), path.name, path) for path in paths), key=lambda entry: entry[:2])
    held = sorted(((position(path), path.name, path) for path in held_out), key=lambda entry: entry[:2])
    train = [path for place, _, path in ranked if held or place >= val_ratio]
    val = [path for _, _, path in held] or [path for place, _, path in ranked if place < val_ratio]
    if max_images is not None:
        train = train[:max_images]
        val = val[: max(1, round(max_images * val_ratio / (1 - val_ratio)))]
    return train, sorted(val, key=lambda path: (path.name, str(path)))
