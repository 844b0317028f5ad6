"""Measure codecs on pictures: real bytes, PSNR, MS-SSIM, LPIPS and time, picture by picture."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.data.pictures import to_array
from codecswap.entropy import bitstream
from codecswap.entropy.tables import LARGEST
from codecswap.errors import UserError
from codecswap.metrics import SMALLEST_SIDE, bits_per_pixel, ms_ssim, psnr, to_8_bits

Lpips = Callable[[Tensor, Tensor], float | None]
"""LPIPS of two pictures ``(1, 3, H, W)`` in [0, 1]; None where they are too small for it."""

_P = ParamSpec("_P")
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
    """The decoded picture against the original."""
    encoding_time: float
    """Seconds from the picture in memory to its bytes."""
    decoding_time: float
    """Seconds from the bytes to the 8-bit picture in memory."""
    against_teacher: Scores | None = None
    """The decoded picture against its teacher's, of students and exported folders; None where there is no teacher."""


@dataclass(frozen=True)
class CodecResult:
    """One codec on all pictures."""

    name: str
    """As tables show it."""
    kind: Literal["teacher", "student", "exported", "anchor"]
    same_latents: bool | None = None
    """A student's encoder and entropy model are its teacher's, bit for bit; None for all but students."""
    same_entropy: bool | None = None
    """Its entropy model is, whatever its encoder: either decodes the other's files."""
    coded: list[Coded] = field(default_factory=list)
    """One for each picture, in their order."""
    curve: str = ""
    """The rate-distortion curve that this codec is a point of; empty: one of its own."""

    def mean(self) -> dict[str, float]:
        """Means over the pictures.

        Returns: ``psnr`` (dB), ``ms_ssim``, ``bpp``, ``encoding_time`` and ``decoding_time`` (seconds); ``lpips`` where it
            was measured; where there is a teacher to compare with, ``psnr_to_teacher`` and ``ms_ssim_to_teacher``. Means
            are over the pictures on which a figure is defined and finite, ``ms_ssim_pictures`` says how many MS-SSIM is of;
            NaN where there are none, and an infinite PSNR only where all pictures are identical.
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
        if distances := [s.lpips for s in scores if s.lpips is not None]:
            means["lpips"] = _mean(distances)
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
    """A picture's strings and the sides of its latents.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size: padded to what the codec asks for by repeating its edge.

    Raises:
        UserError: latents are larger than any picture's; CompressAI's coder would never end.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % codec.multiple, 0, -height % codec.multiple), mode="replicate")
    y = codec.g_a(padded)
    if not (y.abs() < LARGEST).all():
        raise UserError(
            "The encoder gives latents that no bitstream can hold: its weights are damaged, name another codec."
        )
    return codec.compress_latents(y), y.shape[-2:]


def _bits(strings: list[bytes]) -> int:
    return 8 * sum(map(len, strings))


@torch.no_grad()
def code(codec: Codec, x: Tensor) -> tuple[float, Tensor]:
    """Compress a picture with the real entropy coder.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size.

    Returns: bits per pixel of the picture as it was, and the latents ``(1, M, H/16, W/16)`` read back from the bytes.
    """
    strings, sides = compress(codec, x)
    return bits_per_pixel(_bits(strings), x), codec.decompress_latents(strings, sides)


@torch.no_grad()
def show(codec: Codec, latents: Tensor, like: Tensor) -> Tensor:
    """Decode latents to an 8-bit picture cropped to the size of ``like``."""
    return to_8_bits(codec.g_s(latents)[..., : like.shape[-2], : like.shape[-1]])


class MeasuredCodecs(Protocol):
    """Codecs that `evaluate_all` measures together."""

    results: list[CodecResult]
    """One for each codec; filled by `evaluate_all`."""

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None) -> list[Coded]:
        """Code one picture ``(1, 3, H, W)`` with every codec, in the order of ``results``."""
        ...


@dataclass(frozen=True)
class Exported:
    """An exported codec to measure, and the one that encodes for it."""

    name: str
    """As tables show it."""
    codec: bitstream.Codec
    encoder: bitstream.Codec
    """The same, or where it has no encoder another codec with its entropy tables."""
    curve: str = ""


class ExportedCodecs:
    """Exported codecs, which write and read files as ``codecswap encode`` and ``decode`` do; the files' headers do not count.

    Args:
        exported: those with the same encoder get its file of each picture, encoded once.
    """

    def __init__(self, exported: Sequence[Exported]) -> None:
        self.exported = exported
        self.results = [CodecResult(each.name, "exported", curve=each.curve or each.name) for each in exported]

    def measure(
        self, picture: str, x: Tensor, lpips: Lpips | None = None, by_teacher: Tensor | None = None
    ) -> list[Coded]:
        """Code one picture ``(1, 3, H, W)``; ``by_teacher``: as the teacher decodes it.

        Raises:
            UserError: a codec cannot take a picture of that size.
        """
        original = to_image(x)
        files: dict[int, tuple[bytes, float]] = {}
        coded = []
        for each in self.exported:
            try:
                key = id(each.encoder)
                if key not in files:
                    files[key] = timed(x.device, bitstream.encode, each.encoder, original)
                file, encoding_time = files[key]
                decoded, decoding_time = timed(x.device, bitstream.decode, each.codec, file)
            except (UserError, bitstream.BadFile) as error:
                raise UserError(f"{each.name} cannot code {picture}: {error}") from error
            y = torch.from_numpy(to_array(decoded))[None].to(x.device)
            against = None if by_teacher is None else Scores.of(y, by_teacher)
            bpp = bits_per_pixel(8 * (len(file) - bitstream.overhead(file)), x)
            coded.append(Coded(picture, bpp, Scores.of(y, x, lpips), encoding_time, decoding_time, against))
        return coded


def to_image(x: Tensor) -> Image.Image:
    """A picture ``(1, 3, H, W)`` in [0, 1] in 8 bits."""
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


class TeacherAndStudents:
    """A teacher and its students; students with the teacher's latents decode the teacher's bytes.

    Args:
        teacher, students: on one device, in eval mode, their entropy tables up to date.
        name: the teacher's in tables.
        curves: of the teacher and of each student; by default each its own.
        exported: exported codecs to compare with this teacher, too.
    """

    def __init__(
        self,
        teacher: Codec,
        students: dict[str, Codec],
        *,
        name: str = "teacher",
        curves: Sequence[str] | None = None,
        exported: Sequence[Exported] = (),
    ) -> None:
        self.codecs = [teacher, *students.values()]
        self.exported = ExportedCodecs(exported)
        curves = curves or [name, *students]
        self.results = [CodecResult(name, "teacher", curve=curves[0])]
        for (student, codec), curve in zip(students.items(), curves[1:], strict=True):
            self.results.append(
                CodecResult(student, "student", codec.same_latents(teacher), codec.same_entropy(teacher), curve=curve)
            )
        self.results += self.exported.results

    def measure(self, picture: str, x: Tensor, lpips: Lpips | None = None) -> list[Coded]:
        """Code one picture ``(1, 3, H, W)`` with the teacher, its students and the exported codecs."""
        teacher = self.codecs[0]
        x = x.to(next(teacher.parameters()).device)
        encoded = timed(x.device, compress, teacher, x)
        read = timed(x.device, teacher.decompress_latents, *encoded[0])
        coded: list[Coded] = []
        decoded_by_teacher = x
        for codec, result in zip(self.codecs, self.results, strict=False):  # the exported ones' follow
            (strings, sides), encoding_time = encoded
            latents, reading_time = read
            if result.same_latents is False:
                (strings, sides), encoding_time = timed(x.device, compress, codec, x)
                latents, reading_time = timed(x.device, codec.decompress_latents, strings, sides)
            decoded, showing_time = timed(x.device, show, codec, latents, x)
            if not coded:
                decoded_by_teacher = decoded
            against = Scores.of(decoded, decoded_by_teacher) if coded else None
            bpp, scores = bits_per_pixel(_bits(strings), x), Scores.of(decoded, x, lpips)
            coded.append(Coded(picture, bpp, scores, encoding_time, reading_time + showing_time, against))
        return coded + self.exported.measure(picture, x, lpips, decoded_by_teacher)


def timed(device: torch.device, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> tuple[_T, float]:
    """What a function returns, and the seconds it took, with the device's work done before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    returned = function(*args, **kwargs)
    wait()
    return returned, time.perf_counter() - began


def evaluate_all(
    measured: Sequence[MeasuredCodecs], pictures: Iterable[tuple[str, Tensor]], *, lpips: Lpips | None = None
) -> None:
    """Measure all codecs on named pictures ``(3, H, W)`` in [0, 1], picture by picture.

    A picture counts once every codec has coded it: after an interruption all results are of the same pictures.
    """
    try:
        for index, (name, picture) in enumerate(pictures):
            if index == 0:  # the first call of each codec is slower than the others
                for codecs in measured:
                    codecs.measure(name, picture[None], None)
            coded = [one for codecs in measured for one in codecs.measure(name, picture[None], lpips)]
            results = [result for codecs in measured for result in codecs.results]
            for result, one in zip(results, coded, strict=True):
                result.coded.append(one)
    finally:  # an interruption while appending leaves some codecs one picture ahead
        results = [result for codecs in measured for result in codecs.results]
        complete = min((len(result.coded) for result in results), default=0)
        for result in results:
            del result.coded[complete:]


def evaluate(
    teacher: Codec,
    students: dict[str, Codec],
    pictures: Iterable[tuple[str, Tensor]],
    *,
    lpips: Lpips | None = None,
) -> list[CodecResult]:
    """Measure a teacher and its students on named pictures ``(3, H, W)`` in [0, 1].

    Students with the teacher's latents decode the teacher's bytes; their encoding time is the teacher's.

    Returns: the teacher's result, then the students' in their order.
    """
    measured = TeacherAndStudents(teacher, students)
    evaluate_all([measured], pictures, lpips=lpips)
    return measured.results
