"""The codecs and pictures of a run, found again and measured; what cannot be found is said."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import Teacher, fingerprint
from codecswap.console import say, track
from codecswap.data.discovery import Pictures, find_pictures
from codecswap.data.pictures import UNREADABLE
from codecswap.data.transforms import first_readable, validation_crop, whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.anchors import anchors
from codecswap.evaluation.measure import CodecResult, code, evaluate, show
from codecswap.report.run import Run
from codecswap.report.words import Text, text
from codecswap.swaps import SWAPS
from codecswap.swaps.apply import swap
from codecswap.training.checkpoint import StudentCheckpoint, load_student

LARGEST = 1024
"""Of pictures with a longer side, the centre of this many pixels is measured."""
WORST, REGION = 5, 384
"""How many pictures are shown by dB lost, and the side of the region that is shown of them, in pixels."""
NOTHING = 0.005
"""dB that count as none lost."""
ANCHOR_QUALITIES = (10, 50, 90)
"""Of JPEG, WebP and AVIF: fewer than `codecswap eval` takes, since they are most of a report's time (docs/report.md)."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Shown:
    """One of the pictures that a run reconstructs again and again; None is what could not be found."""

    key: str
    """What tells it from the others; runs that show the same picture share it."""
    name: str
    original: Tensor | None
    """``(3, 224, 224)`` in [0, 1]."""
    teacher: Tensor | None
    """What the teacher makes of it, rounded to 8 bits."""


@dataclass(frozen=True)
class Worst:
    """One of the pictures that lose most, and where."""

    name: str
    lost: float
    """dB of PSNR, of the whole picture."""
    psnr: float
    teacher_psnr: float
    """dB against the picture, of the whole picture."""
    size: tuple[int, int]
    """Height and width of the whole picture."""
    region: tuple[int, int, int, int]
    """Top, left, height and width of what is shown: where the student loses most."""
    pixels: dict[str, Tensor]
    """``original``, ``teacher`` and ``student``, each ``(3, h, w)``."""


@dataclass(frozen=True)
class Verdict:
    """Teacher and student on held-out pictures, with real bytes."""

    teacher: CodecResult
    student: CodecResult
    exact: dict[str, CodecResult]
    """The teacher with each exact replacement that fits it; empty where the student's own is exact."""
    anchors: list[CodecResult]
    checkpoint: StudentCheckpoint
    held_out: int
    """Pictures that the run held out; the results are of some of them."""
    cropped: int
    """Pictures of which only the centre was measured."""
    worst: list[Worst]


@dataclass
class Bench:
    """Finds and measures; remembers both, so that `--watch` does nothing twice.

    Args:
        limit: how many held-out pictures to measure on.
    """

    limit: int
    notes: list[Text] = field(default_factory=list)
    """What is missing or was done in another way; to be emptied for every page."""
    _known: dict[Any, tuple[Any, Any, list[Text]]] = field(default_factory=dict)

    def note(self, key: str, **values: str) -> None:
        """Say something that a reader must know, once."""
        self._take([text(key, **values)])

    def _take(self, notes: list[Text]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _once(self, key: Any, stamp: Any, make: Callable[[], _T]) -> _T:
        """What ``make`` returned for this key the last time, and what it noted, unless the stamp is another."""
        if key not in self._known or self._known[key][0] != stamp:
            before, self.notes = self.notes, []
            try:
                self._known[key] = (stamp, make(), self.notes)
            finally:
                self.notes = before
        _, value, notes = self._known[key]
        self._take(notes)
        return value

    def teacher(self, run: Run) -> Codec | None:
        """The run's teacher, if it is there and is the one."""
        options = run.codec or run.config
        named = Teacher(options.get("teacher"), options.get("quality", 8), options.get("metric", "mse"))
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

        return self._once(("teacher", named), expected, load)

    def held_out(self, run: Run) -> list[Path]:
        """The pictures that the run never trained on, if they are there; said where they are no longer the same."""
        found = self._pictures(run)
        return found.val if found else []

    def _pictures(self, run: Run) -> Pictures | None:
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

        return self._once(("pictures", folder), (options, recorded.get("sha256")), find)

    def shown(self, run: Run) -> list[Shown]:
        """The pictures that the run reconstructs, by their number."""
        teacher = self.teacher(run)

        def make() -> list[Shown]:
            shown = [
                Shown(str(path), path.name, x, None if x is None or teacher is None else _through(teacher, x))
                for path, x in self._originals(run)
            ]
            if not shown:
                self.note("note_no_originals", folder=str(run.folder))
            return shown

        return self._once(("shown", run.folder), run.record.get("shown"), make)

    def _originals(self, run: Run) -> Iterable[tuple[Path, Tensor | None]]:
        if "shown" not in run.record:  # an older run: the same pictures are found in the same way, but not proved
            found = self._pictures(run)
            if found:
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

    def verdict(self, run: Run) -> Verdict | None:
        """Measure the run's best checkpoint against its teacher; None, said in the notes, where something is missing.

        Raises:
            UserError: the checkpoint is damaged.
        """
        if self.limit == 0:
            return None
        if run.best is None:
            self.note("note_no_checkpoint", folder=str(run.folder))
            return None
        teacher, paths = self.teacher(run), self.held_out(run)
        if teacher is None or not paths:
            return None
        best, status = run.best, run.best.stat()
        return self._once(
            ("verdict", best),
            (status.st_mtime_ns, status.st_size),
            lambda: self._measure(teacher, load_student(best), paths),
        )

    def promise(self, run: Run) -> bool | None:
        """Whether encoder and entropy model are the teacher's, tensor by tensor; None where one of them is missing."""
        teacher = self.teacher(run)
        if teacher is None or run.best is None:
            return None
        return load_student(run.best).student.same_latents(teacher)

    def _measure(self, teacher: Codec, checkpoint: StudentCheckpoint, paths: list[Path]) -> Verdict | None:
        count = min(self.limit, len(paths))
        chosen = [paths[index * len(paths) // count] for index in range(count)]
        say(f"Measuring {checkpoint.path} and its teacher on {count} of {len(paths)} held-out pictures.")
        pictures, cropped = [], 0
        for path in chosen:
            try:
                whole = whole_picture(path)
            except UNREADABLE:
                self.note("note_picture_gone", path=str(path))
                continue
            pictures.append((path.name, _centre(whole)))
            cropped += whole.shape != pictures[-1][1].shape
        if not pictures:
            return None
        codec = checkpoint.student
        exact = {} if SWAPS[checkpoint.replacement].exact else _exact(teacher)
        measured = track("Measure teacher and student", pictures, unit="pictures")
        theirs, mine, *same = evaluate(teacher, {"student": codec, **exact}, measured)
        familiar = self._once("anchors", chosen, lambda: _familiar(pictures))
        lost = [t.scores.psnr - s.scores.psnr for t, s in zip(theirs.coded, mine.coded, strict=True)]
        order = sorted(range(len(pictures)), key=lambda index: -lost[index])[:WORST]
        worst = [
            _worst(teacher, codec, bool(mine.same_latents), *pictures[index], theirs.coded[index], mine.coded[index])
            for index in order
            if lost[index] > NOTHING
        ]
        return Verdict(
            theirs, mine, dict(zip(exact, same, strict=True)), familiar, checkpoint, len(paths), cropped, worst
        )


@torch.no_grad()
def _through(codec: Codec, x: Tensor) -> Tensor:
    """A picture ``(3, H, W)``, its sides multiples of 16, as a codec shows it."""
    return show(codec, encode(codec, x[None]), x[None])[0]


def _exact(teacher: Codec) -> dict[str, Codec]:
    """The teacher with each exact replacement; a kernel of even size has no masked one."""
    swapped = {}
    for exact in SWAPS.values():
        with contextlib.suppress(UserError):
            if exact.exact:
                swapped[exact.name] = swap(teacher, exact.name)[0]
    return swapped


def _familiar(pictures: list[tuple[str, Tensor]]) -> list[CodecResult]:
    return anchors(track("Measure JPEG, WebP and AVIF", pictures, unit="pictures"), ANCHOR_QUALITIES)


def _centre(x: Tensor) -> Tensor:
    """The centre of a picture, where it is larger than is measured."""
    top, left = (max(0, (side - LARGEST) // 2) for side in x.shape[-2:])
    return x[:, top : top + LARGEST, left : left + LARGEST]


def _worst(teacher: Codec, student: Codec, shared: bool, name: str, picture: Tensor, theirs: Any, mine: Any) -> Worst:
    """Decode a picture again, and find the region where the student's error exceeds the teacher's by most."""
    x = picture[None]
    _, latents = code(teacher, x)
    decoded = show(teacher, latents, x)
    ours = show(student, latents if shared else code(student, x)[1], x)
    loss = ((ours - x).square() - (decoded - x).square()).mean(1, keepdim=True)
    height, width = (min(REGION, side) for side in x.shape[-2:])
    step = 8
    pooled = F.avg_pool2d(loss, (height, width), stride=step)[0, 0]
    top, left = (int(place) * step for place in divmod(int(pooled.argmax()), pooled.shape[1]))
    window = (slice(top, top + height), slice(left, left + width))
    pixels = {
        role: image[0][:, window[0], window[1]]
        for role, image in (("original", x), ("teacher", decoded), ("student", ours))
    }
    return Worst(
        name,
        theirs.scores.psnr - mine.scores.psnr,
        mine.scores.psnr,
        theirs.scores.psnr,
        (x.shape[-2], x.shape[-1]),
        (top, left, height, width),
        pixels,
    )
