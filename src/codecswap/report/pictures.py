"""The pictures of a report: lossless WebP inside the page, each once, and no more than fit."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from codecswap.console import track
from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.report.bench import Bench, Shown, Worst
from codecswap.report.run import Run
from codecswap.report.words import Text, text

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

ROOM = 19_000_000
"""Bytes of pictures, as base64: what is left of 20 MB for everything else is ample."""
FEW_PICTURES, FEW_TAGS = 4, 3
"""Pictures are given up down to this many before tags are, and tags down to this many before the last pictures."""


@dataclass
class Store:
    """Pictures as data URIs; equal pictures are stored once.

    Args:
        known: what was encoded for an earlier page, by content; a watched run adds to it.
    """

    known: dict[str, str] = field(default_factory=dict)
    uris: dict[str, int] = field(default_factory=dict)
    """URI -> its place on the page."""

    def add(self, pixels: Pixels) -> int:
        """Store a picture ``(H, W, 3)``; returns its place."""
        return self.uris.setdefault(self.encode(pixels), len(self.uris))

    def encode(self, pixels: Pixels) -> str:
        """A picture as a data URI of lossless WebP."""
        digest = f"{pixels.shape}{hashlib.sha256(pixels.tobytes()).hexdigest()}"
        if digest not in self.known:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=4)
            self.known[digest] = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
        return self.known[digest]

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return sum(map(len, self.uris))


@dataclass(frozen=True)
class Column:
    """One place on the slider through time."""

    run: int
    tag: str
    epochs: int
    """Finished epochs of this stage."""
    paths: Sequence[Path]


@dataclass
class Subject:
    """A picture through time."""

    name: str
    original: Pixels | None
    teacher: Pixels | None
    frames: list[tuple[Column, Path]]


@dataclass
class Gallery:
    """What the viewer shows."""

    pictures: list[dict[str, Any]]
    """As the page's script reads them; numbers are places in ``uris``."""
    uris: list[str]
    worst: list[dict[str, Any]]
    """The worst pictures, with their place among ``pictures``."""
    notes: list[Text]


def gallery(runs: list[Run], bench: Bench, worst: list[Worst], known: dict[str, str], room: int = ROOM) -> Gallery:
    """Choose, encode and describe the pictures; fewer pictures, then fewer tags, where they would not fit."""
    notes: list[Text] = []
    found = subjects(runs, bench)
    tags = max((len(subject.frames) for subject in found), default=0)
    store = Store(known)
    ugly: list[tuple[Worst, dict[str, int]]] = []
    for entry in worst:
        before = dict(store.uris)
        places = {role: store.add(to_pixels(x)) for role, x in entry.pixels.items()}
        if store.size > room // 2:  # the run's own pictures need room too
            store.uris = before
            notes.append(text("note_fewer_worst", kept=len(ugly), all=len(worst)))
            break
        ugly.append((entry, places))
    base, share = dict(store.uris), 1.0
    sample = [_pixels(subject.frames[place][1]) for subject in found[:4] for place in (0, -1)]
    sample += [pixels for subject in found[:4] for pixels in (subject.original, subject.teacher)]
    sizes = [len(store.encode(pixels)) for pixels in sample if pixels is not None]
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    while True:
        count, kept = plan(len(found), tags, mean, share * (room - sum(map(len, base))))
        store.uris = dict(base)
        described = [
            _describe(subject, store, _thin(subject.frames, kept))
            for subject in track("Encode reconstructions", found[:count], unit="pictures")
        ]
        if store.size <= room or not count:
            break
        share *= 0.9
    if count < len(found):
        notes.append(text("note_fewer_pictures", kept=count, all=len(found)))
    if kept < tags and count:
        notes.append(text("note_fewer_tags", kept=kept, all=tags))
    if lost := sum(frame["image"] is None for picture in described for frame in picture["frames"]):
        notes.append(text("note_unreadable_frames", count=lost))
    for picture in described:
        picture["frames"] = [frame for frame in picture["frames"] if frame["image"] is not None]
    described = [picture for picture in described if picture["frames"]]
    shown = [_describe_worst(entry, places, len(described) + index) for index, (entry, places) in enumerate(ugly)]
    described += [entry.pop("picture") for entry in shown]
    return Gallery(described, list(store.uris), shown, notes)


def plan(pictures: int, tags: int, size: float, room: float) -> tuple[int, int]:
    """How many pictures and tags fit into ``room`` bytes where a picture has ``size``, its original and teacher beside them."""

    def fits(count: int, kept: int) -> bool:
        return count * (kept + 2) * size <= room

    few = min(tags, FEW_TAGS)
    for least, kept in [(FEW_PICTURES, kept) for kept in range(tags, few - 1, -1)] + [(0, few)]:
        for count in range(pictures, min(least, pictures) - 1, -1):
            if fits(count, kept):
                return count, kept
    return 0, few


def subjects(runs: list[Run], bench: Bench) -> list[Subject]:
    """The reconstructed pictures, each through the time of all runs; runs that show the same pictures share them."""
    found: dict[str, Subject] = {}
    for number, run in enumerate(runs):
        shown = bench.shown(run) if run.tags else []
        for tag, epochs, paths in run.tags:
            column = Column(number, tag, epochs, paths)
            for path in paths:
                index = int(path.stem)
                picture = shown[index] if index < len(shown) else Shown(path.stem, path.stem, None, None)
                subject = found.setdefault(
                    picture.key, Subject(picture.name, _of(picture.original), _of(picture.teacher), [])
                )
                subject.frames.append((column, path))
    return list(found.values())


def _thin(frames: list[tuple[Column, Path]], count: int) -> list[tuple[Column, Path]]:
    """The first, the last, and evenly spaced ones between."""
    if count >= len(frames) or count < 2:
        return frames[-count:] if count else []
    return [frames[round(step * (len(frames) - 1) / (count - 1))] for step in range(count)]


def _describe(subject: Subject, store: Store, frames: list[tuple[Column, Path]]) -> dict[str, Any]:
    entries = []
    for column, path in frames:
        pixels = _pixels(path)
        same = pixels is not None and (subject.original is None or pixels.shape == subject.original.shape)
        entries.append(
            {
                "run": column.run,
                "tag": column.tag,
                "epochs": column.epochs,
                "image": store.add(pixels) if pixels is not None and same else None,
                "psnr": _psnr(pixels, subject.original) if same else None,
                "to_teacher": _psnr(pixels, subject.teacher) if same else None,
            }
        )
    sizes = [
        pixels.shape for pixels in (subject.original, _pixels(frames[0][1]) if frames else None) if pixels is not None
    ]
    return {
        "name": subject.name,
        "size": [sizes[0][1], sizes[0][0]] if sizes else [1, 1],
        "original": None if subject.original is None else store.add(subject.original),
        "teacher": None if subject.teacher is None else store.add(subject.teacher),
        "teacher_psnr": _psnr(subject.teacher, subject.original),
        "frames": entries,
    }


def _describe_worst(entry: Worst, places: dict[str, int], index: int) -> dict[str, Any]:
    """For the page's own list, and under ``picture`` for the viewer."""
    top, left, height, width = entry.region
    student, teacher, original = (to_pixels(entry.pixels[role]) for role in ("student", "teacher", "original"))
    frame: dict[str, Any] = {"run": None, "tag": "best", "epochs": None, "image": places["student"]}
    frame |= {"psnr": _psnr(student, original), "to_teacher": _psnr(student, teacher)}
    picture = {
        "name": entry.name,
        "size": [width, height],
        "original": places["original"],
        "teacher": places["teacher"],
    }
    picture |= {"teacher_psnr": _psnr(teacher, original), "frames": [frame], "worst": True}
    whole = (height, width) == entry.size
    return {"entry": entry, "places": places, "index": index, "picture": picture, "whole": whole, "at": (left, top)}


def to_pixels(x: Tensor) -> Pixels:
    """A picture ``(3, H, W)`` in [0, 1] as ``(H, W, 3)`` in 0 to 255."""
    return np.ascontiguousarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _of(x: Tensor | None) -> Pixels | None:
    return None if x is None else to_pixels(x)


def _pixels(path: Path) -> Pixels | None:
    try:
        return np.array(load_picture(path))
    except UNREADABLE:
        return None


def _psnr(a: Pixels | None, b: Pixels | None) -> float | None:
    """dB between two pictures; None where one is missing or they are equal."""
    if a is None or b is None:
        return None
    error = np.square(a.astype(np.float64) - b).mean()
    return round(float(10 * np.log10(255**2 / error)), 2) if error else None
