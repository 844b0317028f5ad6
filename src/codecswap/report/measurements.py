"""Load the codecs and pictures of a run, and measure them."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import Teacher, fingerprint
from codecswap.config import ZOO
from codecswap.console import say, track
from codecswap.data.discovery import Pictures, find_pictures
from codecswap.data.pictures import UNREADABLE
from codecswap.data.transforms import first_readable, validation_crop, whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.evaluate import evaluate
from codecswap.evaluation.measure import code, show
from codecswap.evaluation.result import CodecResult
from codecswap.report.run import Run
from codecswap.report.texts import Text, text
from codecswap.students.checkpoint import StudentCheckpoint, read_student
from codecswap.swaps import SWAPS
from codecswap.swaps.apply import swap

MAX_SIDE = 1024
"""Larger pictures are cropped to at most this many pixels per side around their center."""
ERROR_COUNT, REGION = 5, 384
"""Number of pictures with the largest errors to show, and side of the shown region in pixels."""
SAMPLE = 128
"""Side in pixels of the part of a picture on which two replacements are found to be the same."""
NEGLIGIBLE = 0.005
"""Losses below this many dB are ignored."""
ANCHOR_QUALITIES = (10, 50, 90)
"""Qualities of JPEG, WebP and AVIF: fewer than in `codecswap eval`, since they take most of a report's time."""
ANCHOR_PICTURES = 8
"""Number of pictures for anchors, limited for the same reason."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Reference:
    """A picture that a run reconstructs repeatedly; None: not found."""

    key: str
    """Key of this picture, the same in all runs."""
    name: str
    original: Tensor | None
    """``(3, 224, 224)`` in [0, 1]."""
    teacher: Tensor | None
    """The teacher's reconstruction, rounded to 8 bits."""


@dataclass(frozen=True)
class LargestError:
    """A picture with one of the largest losses of the student, and the region of the largest error."""

    name: str
    psnr: float
    teacher_psnr: float
    """dB against the picture, of the whole picture."""
    size: tuple[int, int]
    """Height and width of the whole picture."""
    region: tuple[int, int, int, int]
    """Top, left, height and width of the region."""
    pixels: dict[str, Tensor]
    """The region of ``original``, ``teacher`` and ``student``, each ``(3, h, w)``."""

    @property
    def lost(self) -> float:
        """dB of PSNR below the teacher."""
        return self.teacher_psnr - self.psnr


@dataclass(frozen=True)
class Comparison:
    """Teacher and student on held-out pictures, with real bytes."""

    teacher: CodecResult
    student: CodecResult
    exact: dict[str, CodecResult]
    """The teacher with each exact replacement that fits it; empty if the student's own is exact."""
    anchors: list[CodecResult]
    """JPEG, WebP and AVIF, on fewer pictures (`beside_anchors`)."""
    on_anchors: list[int]
    """Indexes of these pictures among the measured ones."""
    checkpoint: StudentCheckpoint
    held_out: int
    """Number of held-out pictures of the run; some of them are measured."""
    cropped: int
    """Number of pictures of which only the center was measured."""
    errors: list[LargestError]

    def beside_anchors(self, result: CodecResult) -> dict[str, float]:
        """Means of a codec on the pictures of the anchors."""
        return replace(result, coded=[result.coded[index] for index in self.on_anchors]).mean()


@dataclass
class Measurements:
    """Finds a run's codecs and pictures and measures them; results are cached for ``--watch``.

    Args:
        limit: largest number of held-out pictures to measure on.
    """

    limit: int
    notes: list[Text] = field(default_factory=list)
    """Notes on missing files or deviations; reset for each page."""
    _cache: dict[Any, tuple[Any, Any, list[Text]]] = field(default_factory=dict)

    def note(self, key: str, **values: str) -> None:
        """Add a note for the reader, once."""
        self._add([text(key, **values)])

    def _add(self, notes: list[Text]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _cached(self, key: Any, stamp: Any, make: Callable[[], _T]) -> _T:
        """The result of ``make`` and its notes, from the cache while the stamp is the same."""
        if key not in self._cache or self._cache[key][0] != stamp:
            before, self.notes = self.notes, []
            try:
                self._cache[key] = (stamp, make(), self.notes)
            finally:
                self.notes = before
        _, value, notes = self._cache[key]
        self._add(notes)
        return value

    def teacher(self, run: Run) -> Codec | None:
        """The run's teacher; None, with a note, if it is missing or a different codec."""
        options = run.codec or run.config
        names = (options.get("teacher"), options.get("quality", 8), options.get("metric", "mse"))
        named = Teacher(*names, options.get("model", ZOO))
        expected = options.get("teacher_sha256")

        def load() -> Codec | None:
            try:
                codec = named.load()
            except UserError as error:
                self.note("note_no_teacher", reason=str(error))
                return None
            if expected and fingerprint(codec) != expected:
                self.note("note_other_teacher", name=named.name, expected=expected[:12])
                return None
            return codec

        return self._cached(("teacher", named), expected, load)

    def _pictures(self, run: Run) -> Pictures | None:
        """The run's pictures; None, with a note, if they are missing."""
        recorded, config = run.record.get("pictures") or {}, run.config
        folder = str(recorded.get("folder") or config.get("coco_dir") or "")
        options = {
            "val_ratio": config.get("val_ratio", 0.02),
            "use_prepared": bool(config.get("use_prepared")),
            "max_images": config.get("max_images"),
        }

        def find() -> Pictures | None:
            try:
                found = find_pictures(folder or None, **options)
                if recorded.get("sha256") not in (None, found.identity(folder)["sha256"]):
                    self.note("note_pictures_changed", folder=folder)
                return found
            except (UserError, OSError) as error:
                self.note("note_no_pictures", reason=str(error))
                return None

        return self._cached(("pictures", folder), (options, recorded.get("sha256")), find)

    def references(self, run: Run) -> list[Reference]:
        """The pictures that the run reconstructs, by their number."""
        teacher = self.teacher(run)

        @torch.no_grad()
        def reconstruct(x: Tensor) -> Tensor | None:
            return None if teacher is None else show(teacher, encode(teacher, x[None]), x[None])[0]

        def make() -> list[Reference]:
            references = [
                Reference(str(path), path.name, x, None if x is None else reconstruct(x))
                for path, x in self._originals(run)
            ]
            if not references:
                self.note("note_no_originals", folder=str(run.folder))
            return references

        return self._cached(("references", run.folder), run.record.get("shown"), make)

    def _originals(self, run: Run) -> Iterable[tuple[Path, Tensor | None]]:
        if "shown" not in run.record:  # older runs have no hashes: the pictures are found again from the options
            if found := self._pictures(run):
                self.note("note_unproved", folder=str(run.folder))
                crops, paths = first_readable(found.val, max(1, int(run.config.get("recon_count", 16))))
                yield from zip(paths, crops, strict=True)
            return
        for entry in run.record["shown"]:
            path = Path(entry["path"])
            try:
                if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
                    self.note("note_picture_changed", path=str(path))
                    yield path, None
                else:
                    yield path, validation_crop(path)
            except UNREADABLE:
                self.note("note_picture_gone", path=str(path))
                yield path, None

    def compare(self, run: Run) -> Comparison | None:
        """Measure the run's best checkpoint against its teacher; None, with a note, if something is missing.

        Raises:
            UserError: the checkpoint is damaged.
        """
        if self.limit == 0:
            return None
        if run.best is None:
            self.note("note_no_checkpoint", folder=str(run.folder))
            return None
        teacher, pictures = self.teacher(run), self._pictures(run)
        if teacher is None or pictures is None:
            return None
        best, status, paths = run.best, run.best.stat(), pictures.val
        stamp = (status.st_mtime_ns, status.st_size)
        return self._cached(("compare", best), stamp, lambda: self._measure(teacher, read_student(best), paths))

    def same_latents(self, run: Run) -> bool | None:
        """Whether encoder and entropy model are the teacher's, tensor by tensor; None if one of them is missing."""
        teacher = self.teacher(run)
        if teacher is None or run.best is None:
            return None
        return read_student(run.best).student.same_latents(teacher)

    def same_entropy(self, run: Run) -> bool | None:
        """Whether the entropy model is the teacher's; None if one of them is missing."""
        teacher = self.teacher(run)
        if teacher is None or run.best is None:
            return None
        return read_student(run.best).student.same_entropy(teacher)

    def _measure(self, teacher: Codec, checkpoint: StudentCheckpoint, paths: list[Path]) -> Comparison | None:
        chosen = [paths[index] for index in evenly(len(paths), self.limit)]
        say(f"Measuring {checkpoint.path} and its teacher on {len(chosen)} of {len(paths)} held-out pictures.")
        pictures, cropped = [], 0
        for path in chosen:
            try:
                x = whole_picture(path)
            except UNREADABLE:
                self.note("note_picture_gone", path=str(path))
                continue
            top, left = (max(0, (side - MAX_SIDE) // 2) for side in x.shape[-2:])
            pictures.append((path.name, x[:, top : top + MAX_SIDE, left : left + MAX_SIDE]))
            cropped += x.shape != pictures[-1][1].shape
        if not pictures:
            return None
        student = checkpoint.student
        exact, same = _exact_replacements(teacher, checkpoint, pictures[0][1])
        tracked = track("Measure teacher and student", pictures, unit="pictures")
        by_teacher, by_student, *by_exact = evaluate(tracked, {"student": student, **exact}, teacher=teacher)
        few = evenly(len(pictures), ANCHOR_PICTURES)
        anchor_results = self._cached("anchors", chosen, lambda: _anchors([pictures[index] for index in few]))
        scores = [(t.scores["psnr"], s.scores["psnr"]) for t, s in zip(by_teacher.coded, by_student.coded, strict=True)]
        order = sorted(range(len(pictures)), key=lambda index: scores[index][1] - scores[index][0])[:ERROR_COUNT]
        errors = [
            _largest_error(teacher, student, bool(by_student.same_latents), *pictures[index], *scores[index])
            for index in order
            if scores[index][0] - scores[index][1] > NEGLIGIBLE
        ]
        measured = dict(zip(exact, by_exact, strict=True))
        exact_results = {name: replace(measured[other], name=name) for name, other in same.items()}
        return Comparison(
            by_teacher, by_student, exact_results, anchor_results, few, checkpoint, len(paths), cropped, errors
        )


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` indexes below ``count``, evenly spread."""
    kept = min(count, most)
    return [index * count // kept for index in range(kept)]


def _anchors(pictures: list[tuple[str, Tensor]]) -> list[CodecResult]:
    """JPEG, WebP and AVIF."""
    return evaluate(track("Measure JPEG, WebP and AVIF", pictures, unit="pictures"), anchors=ANCHOR_QUALITIES)


@torch.no_grad()
def _exact_replacements(
    teacher: Codec, checkpoint: StudentCheckpoint, picture: Tensor
) -> tuple[dict[str, Codec], dict[str, str]]:
    """The teacher with each exact replacement; equivalent ones only once.

    In PyTorch ``masked`` is folded to the same convolutions as ``subpixel``. If two replacements decode a picture
    ``(3, H, W)`` to the same floats, one is measured for both.

    Returns: the codecs to measure, and for each replacement the one that it is measured by; empty if the student's own
        replacement is exact.
    """
    codecs: dict[str, Codec] = {}
    same: dict[str, str] = {}
    _, latents = code(teacher, picture[None, :, :SAMPLE, :SAMPLE])
    decoded: dict[str, Tensor] = {}
    for candidate in SWAPS.values() if not checkpoint.exact else ():
        with contextlib.suppress(UserError):  # masked does not support kernels of even size
            if candidate.exact:
                codec = swap(teacher, candidate.name)[0]
                y = codec.g_s(latents)
                found = next((name for name, other in decoded.items() if torch.equal(y, other)), candidate.name)
                same[candidate.name] = found
                if found == candidate.name:
                    codecs[found], decoded[found] = codec, y
    return codecs, same


def _largest_error(
    teacher: Codec,
    student: Codec,
    same_latents: bool,
    name: str,
    picture: Tensor,
    teacher_psnr: float,
    psnr: float,
) -> LargestError:
    """Decode a picture again, and find the region where the student's squared error exceeds the teacher's most."""
    x = picture[None]
    _, latents = code(teacher, x)
    by_teacher = show(teacher, latents, x)
    by_student = show(student, latents if same_latents else code(student, x)[1], x)
    difference = ((by_student - x).square() - (by_teacher - x).square()).mean(1, keepdim=True)
    height, width = (min(REGION, side) for side in x.shape[-2:])
    step = 8
    pooled = F.avg_pool2d(difference, (height, width), stride=step)[0, 0]
    top, left = (int(place) * step for place in divmod(int(pooled.argmax()), pooled.shape[1]))
    pixels = {
        role: y[0, :, top : top + height, left : left + width]
        for role, y in (("original", x), ("teacher", by_teacher), ("student", by_student))
    }
    size = (x.shape[-2], x.shape[-1])
    return LargestError(name, psnr, teacher_psnr, size, (top, left, height, width), pixels)
