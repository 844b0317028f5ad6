"""The pictures of a report: lossless WebP inside the page, each once, limited in total size."""

import base64
import hashlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from codecswap.console import track
from codecswap.data.pictures import UNREADABLE
from codecswap.data.transforms import whole_picture
from codecswap.metrics import psnr
from codecswap.report.measurements import LargestError, Measurements, Reference
from codecswap.report.run import Run
from codecswap.report.texts import Text, text

SIZE_LIMIT = 19_000_000
"""Bytes of pictures as base64; the rest of a page needs less than the remaining megabyte of 20 MB."""
EFFORT: dict[str, int] = {"method": 2, "quality": 20}
"""Options of lossless WebP: five times as fast as the default, for 1 to 6 % more bytes."""
MIN_PICTURES, MIN_TAGS = 4, 3
"""Pictures are dropped down to this many first, then tags down to this many, then the remaining pictures."""


@dataclass
class PictureStore:
    """Pictures as data URIs, equal ones once.

    Args:
        encoded: data URIs by content, from earlier pages; added to.
    """

    encoded: dict[str, str] = field(default_factory=dict)
    uris: dict[str, int] = field(default_factory=dict)
    """URI -> its index on the page."""

    def add(self, x: Tensor) -> int:
        """Store a picture ``(3, H, W)`` in [0, 1]; returns its index."""
        return self.uris.setdefault(self.encode(x), len(self.uris))

    def encode(self, x: Tensor) -> str:
        """A picture ``(3, H, W)`` in [0, 1] as a data URI of lossless WebP."""
        pixels = to_pixels(x)
        digest = f"{pixels.shape}{hashlib.sha256(pixels.tobytes()).hexdigest()}"
        if digest not in self.encoded:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "WEBP", lossless=True, **EFFORT)
            self.encoded[digest] = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
        return self.encoded[digest]

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return sum(map(len, self.uris))


@dataclass(frozen=True)
class Frame:
    """One reconstruction."""

    run: int
    tag: str
    epochs: int
    """Finished epochs of its stage."""
    path: Path


@dataclass(frozen=True)
class Gallery:
    """The viewer's pictures."""

    pictures: list[dict[str, Any]]
    """Entries for the page's script; numbers are indexes of ``uris``."""
    uris: list[str]
    errors: list[dict[str, Any]]
    """The largest errors, with their index among ``pictures``."""
    notes: list[Text]


def make_gallery(
    runs: list[Run],
    measurements: Measurements,
    errors: list[LargestError],
    encoded: dict[str, str],
    limit: int = SIZE_LIMIT,
) -> Gallery:
    """Choose, encode and describe the pictures; with fewer pictures or fewer tags if they would exceed ``limit`` bytes."""
    notes: list[Text] = []
    found = _frames(runs, measurements)
    tags = max((len(frames) for _, frames in found), default=0)
    store = PictureStore(encoded)
    kept_errors: list[tuple[LargestError, dict[str, int]]] = []
    for error in errors:
        before = dict(store.uris)
        indices = {role: store.add(x) for role, x in error.pixels.items()}
        if store.size > limit // 2:  # the other half is for the run's own pictures
            store.uris = before
            notes.append(text("note_fewer_worst", kept=len(kept_errors), all=len(errors)))
            break
        kept_errors.append((error, indices))
    base, share = dict(store.uris), 1.0
    sample = [_read(frames[index].path) for _, frames in found[:4] for index in (0, -1)]
    sample += [x for reference, _ in found[:4] for x in (reference.original, reference.teacher)]
    sizes = [len(store.encode(x)) for x in sample if x is not None]
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    while True:
        count, kept = plan(len(found), tags, mean, share * (limit - sum(map(len, base))))
        store.uris = dict(base)
        pictures = [
            _describe(reference, _thin(frames, kept), store)
            for reference, frames in track("Encode reconstructions", found[:count], unit="pictures")
        ]
        if store.size <= limit or not count:
            break
        share *= 0.9
    if count < len(found):
        notes.append(text("note_fewer_pictures", kept=count, all=len(found)))
    if kept < tags and count:
        notes.append(text("note_fewer_tags", kept=kept, all=tags))
    if unreadable := sum(frame["picture"] is None for picture in pictures for frame in picture["frames"]):
        notes.append(text("note_unreadable_frames", count=unreadable))
    for picture in pictures:
        picture["frames"] = [frame for frame in picture["frames"] if frame["picture"] is not None]
    pictures = [picture for picture in pictures if picture["frames"]]
    described = []
    for error, indices in kept_errors:
        top, left, *sides = error.region
        entry = {"error": error, "places": indices, "index": len(pictures), "at": (left, top)}
        described.append(entry | {"whole": tuple(sides) == error.size})
        pictures.append(_describe_error(error, indices))
    return Gallery(pictures, list(store.uris), described, notes)


def plan(pictures: int, tags: int, size: float, limit: float) -> tuple[int, int]:
    """How many pictures and tags fit into ``limit`` bytes if each picture has ``size``, with original and teacher."""
    few = min(tags, MIN_TAGS)
    for least, kept in [(MIN_PICTURES, kept) for kept in range(tags, few - 1, -1)] + [(0, few)]:
        for count in range(pictures, min(least, pictures) - 1, -1):
            if count * (kept + 2) * size <= limit:
                return count, kept
    return 0, few


def _frames(runs: list[Run], measurements: Measurements) -> list[tuple[Reference, list[Frame]]]:
    """The reconstructed pictures and their reconstructions over all runs."""
    found: dict[str, tuple[Reference, list[Frame]]] = {}
    for number, run in enumerate(runs):
        references = measurements.references(run) if run.tags else []
        for tag, epochs, paths in run.tags:
            for path in paths:
                index = int(path.stem)
                known = index < len(references)
                reference = references[index] if known else Reference(path.stem, path.stem, None, None)
                found.setdefault(reference.key, (reference, []))[1].append(Frame(number, tag, epochs, path))
    return list(found.values())


def _thin(frames: list[Frame], count: int) -> list[Frame]:
    """The first, the last, and evenly spaced ones between."""
    if count >= len(frames) or count < 2:
        return frames[-count:] if count else []
    return [frames[round(step * (len(frames) - 1) / (count - 1))] for step in range(count)]


def _describe(reference: Reference, frames: list[Frame], store: PictureStore) -> dict[str, Any]:
    original, teacher = reference.original, reference.teacher
    shape, entries = None if original is None else original.shape, []
    for frame in frames:
        x = _read(frame.path)
        shape = x.shape if shape is None and x is not None else shape
        x = x if x is not None and (original is None or x.shape == original.shape) else None
        entries.append(
            {
                "run": frame.run,
                "tag": frame.tag,
                "epochs": frame.epochs,
                "picture": None if x is None else store.add(x),
                "psnr": _psnr(x, original),
                "to_teacher": _psnr(x, teacher),
            }
        )
    return {
        "name": reference.name,
        "size": [shape[2], shape[1]] if shape else [1, 1],
        "original": None if original is None else store.add(original),
        "teacher": None if teacher is None else store.add(teacher),
        "teacher_psnr": _psnr(teacher, original),
        "frames": entries,
    }


def _describe_error(error: LargestError, indices: dict[str, int]) -> dict[str, Any]:
    student, teacher, original = (error.pixels[role] for role in ("student", "teacher", "original"))
    frame: dict[str, Any] = {"run": None, "tag": "best", "epochs": None, "picture": indices["student"]}
    frame |= {"psnr": _psnr(student, original), "to_teacher": _psnr(student, teacher)}
    return {
        "name": error.name,
        "size": [error.region[3], error.region[2]],
        "original": indices["original"],
        "teacher": indices["teacher"],
        "teacher_psnr": _psnr(teacher, original),
        "frames": [frame],
        "worst": True,
    }


def to_pixels(x: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture ``(3, H, W)`` in [0, 1] as ``(H, W, 3)`` in 0 to 255."""
    return np.ascontiguousarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _read(path: Path) -> Tensor | None:
    try:
        return whole_picture(path)
    except UNREADABLE:
        return None


def _psnr(x: Tensor | None, y: Tensor | None) -> float | None:
    """dB between two 8-bit pictures ``(3, H, W)``; None if one is missing or they are equal."""
    value = math.inf if x is None or y is None else psnr(x[None], y[None]).item()
    return round(value, 2) if math.isfinite(value) else None
