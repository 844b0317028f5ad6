"""Encode and decode a picture with codecs: real bytes, the decoded picture, and times."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from codecswap.codecs.float32 import full_float32
from codecswap.codecs.protocol import Codec, analyze
from codecswap.data.pictures import to_array
from codecswap.entropy import bitstream
from codecswap.entropy.tables import LARGEST
from codecswap.errors import UserError
from codecswap.evaluation.result import CodecResult
from codecswap.metrics import bits_per_pixel, to_8_bits

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Decoded:
    """A picture encoded and decoded by one codec, before metrics are computed."""

    y: Tensor
    """``(1, 3, H, W)`` in [0, 1], rounded to 8 bits."""
    bpp: float
    """Bits per pixel, counted from the bytes."""
    encoding_time: float
    decoding_time: float
    by_teacher: Tensor | None = None
    """The picture decoded by the teacher; None without a teacher."""


@torch.no_grad()
def compress(codec: Codec, x: Tensor) -> tuple[list[bytes], torch.Size]:
    """Compress a picture to strings; also returns the height and width of its latents.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size; padded to the codec's multiple by repeating its edge.

    Raises:
        UserError: latents are implausibly large; CompressAI's coder would not terminate.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % codec.multiple, 0, -height % codec.multiple), mode="replicate")
    y = analyze(codec, padded)
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

    Returns: bits per pixel of the unpadded picture, and the latents ``(1, M, H/16, W/16)`` read back from the bytes.
    """
    strings, sides = compress(codec, x)
    return bits_per_pixel(_bits(strings), x), codec.decompress_latents(strings, sides)


@torch.no_grad()
def show(codec: Codec, latents: Tensor, like: Tensor) -> Tensor:
    """Decode latents, in full float32, to an 8-bit picture cropped to the size of ``like``."""
    with full_float32(latents.device):
        return to_8_bits(codec.g_s(latents)[..., : like.shape[-2], : like.shape[-1]])


class MeasuredCodecs(Protocol):
    """Codecs that are measured together."""

    results: list[CodecResult]
    """One per codec, filled while pictures are measured (`codecswap.evaluation.evaluate`)."""

    def decode(self, picture: str, x: Tensor) -> list[Decoded]:
        """Encode and decode one picture ``(1, 3, H, W)`` with every codec, in the order of ``results``."""
        ...


@dataclass(frozen=True)
class Exported:
    """An exported codec to measure, with its encoder."""

    name: str
    """Name in tables."""
    codec: bitstream.Codec
    encoder: bitstream.Codec
    """The same codec, or if it has no encoder, another one with its entropy tables."""
    curve: str = ""
    gain: float | None = None
    """Gain of a codec with variable rate."""

    def at_gains(self) -> "list[Exported]":
        """A codec with variable rate at each of its gains, as one curve; another codec as it is."""
        rates = self.codec.entropy.rates
        if not rates:
            return [self]
        curve = self.curve or self.name
        return [replace(self, name=at_gain(self.name, gain), curve=curve, gain=gain) for gain in rates.gains]


def at_gain(name: str, gain: float | None) -> str:
    """Name in tables of a codec at a gain; None: it has one rate."""
    return name if gain is None else f"{name}, gain {gain:.3g}"


class ExportedCodecs:
    """Exported codecs, measured with files as of ``codecswap encode`` and ``decode``, without their headers.

    Args:
        exported: the codecs; those with the same encoder share one file per picture.
        file: gives the file of a picture by its name, and the seconds that coding it took; by default codecs encode.
    """

    def __init__(self, exported: Sequence[Exported], file: Callable[[str], tuple[bytes, float]] | None = None) -> None:
        self.exported, self.file = exported, file
        self.results = [CodecResult(each.name, "exported", curve=each.curve or each.name) for each in exported]

    def decode(self, picture: str, x: Tensor, by_teacher: Tensor | None = None) -> list[Decoded]:
        """Encode and decode one picture ``(1, 3, H, W)``; ``by_teacher``: the picture decoded by the teacher.

        Raises:
            UserError: a codec cannot take a picture of that size.
        """
        original = to_image(x)
        files: dict[tuple[int, float | None], tuple[bytes, float]] = {}
        found = []
        for each in self.exported:
            try:
                key = id(each.encoder), each.gain
                if self.file:
                    files[key] = self.file(picture)
                elif key not in files:
                    files[key] = timed(x.device, bitstream.encode, each.encoder, original, gain=each.gain)
                file, encoding_time = files[key]
                decoded, decoding_time = timed(x.device, bitstream.decode, each.codec, file)
            except (UserError, bitstream.BadFile) as error:
                raise UserError(f"{each.name} cannot code {picture}: {error}") from error
            y = torch.from_numpy(to_array(decoded))[None].to(x.device)
            bpp = bits_per_pixel(8 * (len(file) - bitstream.overhead(file)), x)
            found.append(Decoded(y, bpp, encoding_time, decoding_time, by_teacher))
        return found


def to_image(x: Tensor) -> Image.Image:
    """Convert a picture ``(1, 3, H, W)`` in [0, 1] to 8 bits."""
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy())


class TeacherAndStudents:
    """A teacher and its students; students with the teacher's latents decode the teacher's bytes.

    Args:
        teacher, students: on one device, in eval mode, their entropy tables up to date.
        name: name of the teacher in tables.
        curves: curve of the teacher and of each student; by default each has its own.
        exported: exported codecs to compare with this teacher, too.
        gain: gain of codecs with variable rate.
    """

    def __init__(
        self,
        teacher: Codec,
        students: Mapping[str, Codec],
        *,
        name: str = "teacher",
        curves: Sequence[str] | None = None,
        exported: Sequence[Exported] = (),
        gain: float | None = None,
    ) -> None:
        self.codecs = [teacher, *students.values()]
        self.exported, self.gain = ExportedCodecs(exported), gain
        curves = curves or [name, *students]
        self.results = [CodecResult(at_gain(name, gain), "teacher", curve=curves[0])]
        for (student, codec), curve in zip(students.items(), curves[1:], strict=True):
            same = codec.same_latents(teacher), codec.same_entropy(teacher)
            self.results.append(CodecResult(at_gain(student, gain), "student", *same, curve=curve))
        self.results += self.exported.results

    def decode(self, picture: str, x: Tensor) -> list[Decoded]:
        """Encode and decode one picture ``(1, 3, H, W)`` with the teacher, its students and the exported codecs."""
        if self.gain is not None:
            for codec in self.codecs:
                codec.gain = self.gain
        teacher = self.codecs[0]
        x = x.to(next(teacher.parameters()).device)
        encoded = timed(x.device, compress, teacher, x)
        read = timed(x.device, teacher.decompress_latents, *encoded[0])
        found: list[Decoded] = []
        by_teacher: Tensor | None = None
        for codec, result in zip(self.codecs, self.results, strict=False):  # results of exported codecs follow
            (strings, sides), encoding_time = encoded
            latents, reading_time = read
            if result.same_latents is False:
                (strings, sides), encoding_time = timed(x.device, compress, codec, x)
                latents, reading_time = timed(x.device, codec.decompress_latents, strings, sides)
            y, showing_time = timed(x.device, show, codec, latents, x)
            bpp = bits_per_pixel(_bits(strings), x)
            found.append(Decoded(y, bpp, encoding_time, reading_time + showing_time, by_teacher))
            by_teacher = found[0].y
        return found + self.exported.decode(picture, x, by_teacher)


def timed(device: torch.device, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> tuple[_T, float]:
    """The result of a function, and its time in seconds; the device is synchronized before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    returned = function(*args, **kwargs)
    wait()
    return returned, time.perf_counter() - began
