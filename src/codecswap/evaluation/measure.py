"""What a codec makes of pictures: real bytes, PSNR, MS-SSIM, LPIPS and time, picture by picture."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.errors import UserError
from codecswap.inference.tables import LARGEST
from codecswap.metrics import SMALLEST_SIDE, bits_per_pixel, ms_ssim, psnr, to_8_bits

Lpips = Callable[[Tensor, Tensor], float | None]
"""LPIPS of two pictures ``(1, 3, H, W)`` in [0, 1]; None where they are too small for it."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Scores:
    """One picture, compared with another."""

    psnr: float
    """dB, on 8-bit pictures; infinite where they are identical."""
    ms_ssim: float
    """0 to 1; NaN where a side is too short for it (160 pixels or fewer)."""
    lpips: float | None = None
    """0 where they look the same; None where it was not asked for or is not defined."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor, lpips: Lpips | None = None) -> "Scores":
        """Compare two pictures ``(1, 3, H, W)`` in [0, 1] that are rounded to 8 bits."""
        similarity = ms_ssim(x, y).item() if min(x.shape[-2:]) >= SMALLEST_SIDE else math.nan
        return cls(psnr(x, y).item(), similarity, lpips(x, y) if lpips else None)


@dataclass(frozen=True)
class Coded:
    """One picture through one codec."""

    picture: str
    """The picture's name."""
    bpp: float
    """Bits per pixel, counted from the bytes."""
    scores: Scores
    """What came out, against the picture."""
    encoding_time: float
    """Seconds from the picture in memory to its bytes."""
    decoding_time: float
    """Seconds from the bytes to the 8-bit picture in memory."""
    against_teacher: Scores | None = None
    """What came out, against what the teacher makes of the picture; None for all but students."""


@dataclass(frozen=True)
class CodecResult:
    """What one codec made of all pictures."""

    name: str
    """As tables show it."""
    kind: Literal["teacher", "student", "anchor"]
    same_latents: bool | None = None
    """A student's encoder and entropy model are its teacher's, bit for bit; None for all but students."""
    coded: list[Coded] = field(default_factory=list)
    """One for each picture, in their order."""
    curve: str = ""
    """The rate-distortion curve that this codec is a point of; empty: one of its own."""

    def mean(self) -> dict[str, float]:
        """Means over the pictures.

        Returns: ``psnr`` (dB), ``ms_ssim``, ``bpp``, ``encoding_time`` and ``decoding_time`` (seconds); ``lpips`` where it
            was measured; for students ``psnr_to_teacher`` and ``ms_ssim_to_teacher``. Means are over the pictures on which a
            figure is defined and finite, ``ms_ssim_pictures`` says how many MS-SSIM is of; NaN where there are none, and
            an infinite PSNR only where all pictures are identical.
        """
        scores = [coded.scores for coded in self.coded]
        means = {
            "psnr": _mean([s.psnr for s in scores]),
            "ms_ssim": _mean([s.ms_ssim for s in scores]),
            "ms_ssim_pictures": sum(not math.isnan(s.ms_ssim) for s in scores),
            "bpp": _mean([coded.bpp for coded in self.coded]),
            "encoding_time": _mean([coded.encoding_time for coded in self.coded]),
            "decoding_time": _mean([coded.decoding_time for coded in self.coded]),
        }
        if perceived := [s.lpips for s in scores if s.lpips is not None]:
            means["lpips"] = _mean(perceived)
        if against := [coded.against_teacher for coded in self.coded if coded.against_teacher]:
            means["psnr_to_teacher"] = _mean([s.psnr for s in against])
            means["ms_ssim_to_teacher"] = _mean([s.ms_ssim for s in against])
        return means


def _mean(values: Sequence[float]) -> float:
    """The mean of what is finite; infinite where all is, NaN where nothing is defined."""
    known = [value for value in values if not math.isnan(value)]
    finite = [value for value in known if math.isfinite(value)]
    if not finite:
        return math.inf if known else math.nan
    return sum(finite) / len(finite)


@torch.no_grad()
def compress(codec: Codec, x: Tensor) -> tuple[list[bytes], torch.Size]:
    """A picture's bytes and the sides of its latents.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size: padded to multiples of 16 by repeating its edge.

    Raises:
        UserError: latents are larger than any picture's; CompressAI's coder would never end.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % codec.factor, 0, -height % codec.factor), mode="replicate")
    y = codec.g_a(padded)
    if not (y.abs() < LARGEST).all():
        raise UserError(
            "The encoder gives latents that no bitstream can hold: its weights are damaged, name another codec."
        )
    return codec.compress_latents(y), y.shape[-2:]


@torch.no_grad()
def code(codec: Codec, x: Tensor) -> tuple[float, Tensor]:
    """Compress a picture with the real entropy coder.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size: padded to multiples of 16 by repeating its edge.

    Returns: bits per pixel of the picture as it was, and the latents ``(1, M, H/16, W/16)`` read back from the bytes.
    """
    strings, sides = compress(codec, x)
    return bits_per_pixel(8 * len(strings[0]), x), codec.decompress_latents(strings, sides)


@torch.no_grad()
def show(codec: Codec, latents: Tensor, like: Tensor) -> Tensor:
    """Decode latents to an 8-bit picture cropped to the size of ``like``."""
    return to_8_bits(codec.g_s(latents)[..., : like.shape[-2], : like.shape[-1]])


class Contender(Protocol):
    """What `evaluate_all` measures: some codecs, each with its result."""

    results: list[CodecResult]
    """One for each codec; filled by `evaluate_all`."""

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None) -> list[Coded]:
        """One picture ``(1, 3, H, W)`` through every codec, in the order of ``results``."""
        ...


class Family:
    """A teacher and its students: those that share its latents decode its bytes.

    Args:
        teacher, students: on one device, in eval mode, their entropy tables up to date.
        name: the teacher's in tables.
        curves: of the teacher and of each student; by default each its own.
    """

    def __init__(
        self,
        teacher: Codec,
        students: dict[str, Codec],
        *,
        name: str = "teacher",
        curves: Sequence[str] | None = None,
    ) -> None:
        self.teacher, self.students = teacher, students
        names = curves or [name, *students]
        self.results = [CodecResult(name, "teacher", curve=names[0])]
        for (student, codec), curve in zip(students.items(), names[1:], strict=True):
            self.results.append(CodecResult(student, "student", codec.same_latents(teacher), curve=curve))
        self._warm = False

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None = None) -> list[Coded]:
        """One picture through the teacher and its students; the first one twice, to warm them up."""
        x = x.to(next(self.teacher.parameters()).device)
        if not self._warm:
            self._warm = True
            self.measure(picture, x)
        packed = _pack(self.teacher, x)
        theirs, seconds = _unpack(self.teacher, packed, x)
        coded = [Coded(picture, packed.bpp, Scores.of(theirs, x, lpips), packed.seconds, seconds)]
        for student, result in zip(self.students.values(), self.results[1:], strict=True):
            own = packed if result.same_latents else _pack(student, x)
            mine, seconds = _unpack(student, own, x)
            scores = Scores.of(mine, x, lpips)
            coded.append(Coded(picture, own.bpp, scores, own.seconds, seconds, Scores.of(mine, theirs)))
        return coded


@dataclass(frozen=True)
class _Packed:
    """A picture's bytes, the sides of its latents, bits per pixel, and the seconds they took."""

    strings: list[bytes]
    sides: torch.Size
    bpp: float
    seconds: float


def _pack(codec: Codec, x: Tensor) -> _Packed:
    (strings, sides), seconds = timed(lambda: compress(codec, x), x.device)
    return _Packed(strings, sides, bits_per_pixel(8 * len(strings[0]), x), seconds)


def _unpack(codec: Codec, packed: _Packed, like: Tensor) -> tuple[Tensor, float]:
    """The 8-bit picture, and the seconds that it took."""
    return timed(lambda: show(codec, codec.decompress_latents(packed.strings, packed.sides), like), like.device)


def timed(work: Callable[[], _T], device: torch.device | None = None) -> tuple[_T, float]:
    """What ``work`` returns, and the seconds it took; a GPU is waited for."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else None
    if wait:
        wait()
    began = time.perf_counter()
    made = work()
    if wait:
        wait()
    return made, time.perf_counter() - began


def evaluate_all(
    contenders: Sequence[Contender], pictures: Iterable[tuple[str, Tensor]], *, lpips: Lpips | None = None
) -> None:
    """Measure all codecs on named pictures ``(3, H, W)`` in [0, 1], picture by picture.

    A picture counts only once every codec is done with it: whenever this is interrupted, all results are of the same
    pictures.
    """
    try:
        for name, picture in pictures:
            rows = [contender.measure(name, picture[None], lpips) for contender in contenders]
            for contender, coded in zip(contenders, rows, strict=True):
                for result, one in zip(contender.results, coded, strict=True):
                    result.coded.append(one)
    finally:  # between two of these lines, an interruption would leave some codecs one picture ahead
        results = [result for contender in contenders for result in contender.results]
        whole = min((len(result.coded) for result in results), default=0)
        for result in results:
            del result.coded[whole:]


def evaluate(
    teacher: Codec,
    students: dict[str, Codec],
    pictures: Iterable[tuple[str, Tensor]],
    *,
    lpips: Lpips | None = None,
) -> list[CodecResult]:
    """Measure a teacher and its students on named pictures ``(3, H, W)`` in [0, 1].

    Students that share the teacher's latents are not encoded again: they decode its bytes, and their encoding time is its.

    Returns: the teacher's result, then the students' in their order.
    """
    family = Family(teacher, students)
    evaluate_all([family], pictures, lpips=lpips)
    return family.results
