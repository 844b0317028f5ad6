"""Measure a compiled network: its file and the vendor's simulator against the float codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile.toolchain import Run
from codecswap.console import Track, silent
from codecswap.data.samples import held_out_pictures
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.tiles import in_tiles
from codecswap.metrics import psnr, to_8_bits
from codecswap.quantize.loss import Loss

HIGHEST = 150.0
"""PSNR in dB that stands for equal pictures."""


@dataclass(frozen=True)
class Quality:
    """Means over held-out pictures, in dB. PSNR against the picture is of 8-bit values, the others of what is not rounded."""

    pictures: int
    float32: float
    """PSNR of the float codec against the picture."""
    file: float
    """PSNR of the folder's decoder.onnx against the picture."""
    file_to_float: float
    """PSNR of decoder.onnx against the float codec: what quantization changes."""
    compiled: float | None = None
    """PSNR of the compiled decoder, in the simulator, against the picture; as the following, None without a simulator."""
    to_file: float | None = None
    """PSNR of the compiled decoder against decoder.onnx: what the compiler and the NPU's arithmetic change."""
    to_float: float | None = None
    """PSNR of the compiled decoder against the float codec."""

    @property
    def loss(self) -> Loss:
        """What the NPU loses, or without a simulator what the file loses."""
        return Loss(self.float32 - (self.file if self.compiled is None else self.compiled))

    @property
    def reason(self) -> str:
        """Where most of the loss comes from, as a clause."""
        own = self.float32 - self.file
        if self.compiled is None or not own < (self.float32 - self.compiled) / 2:
            return f"the file itself loses {own:.2f} dB by its rounding"
        return f"the file loses {own:.2f} dB, the compiler's scales and arithmetic the rest"


@dataclass(frozen=True)
class EncoderQuality:
    """Means over held-out pictures: PSNR in dB of what the float decoder shows, and bits per pixel."""

    pictures: int
    float32: float
    float32_bits: float
    file: float
    """PSNR with the folder's encoder.onnx."""
    file_bits: float
    compiled: float | None = None
    """PSNR with the compiled encoder, in the simulator; None without one."""
    compiled_bits: float | None = None

    @property
    def loss(self) -> Loss:
        """What the NPU loses, or without a simulator what the file loses."""
        if self.compiled is None or self.compiled_bits is None:
            return Loss(self.float32 - self.file, self.file_bits / self.float32_bits - 1)
        return Loss(self.float32 - self.compiled, self.compiled_bits / self.float32_bits - 1)

    @property
    def reason(self) -> str:
        """Where the loss comes from, as a clause."""
        file = Loss(self.float32 - self.file, self.file_bits / self.float32_bits - 1)
        return f"the file itself {file} by its rounding"


def measure_decoder(
    codec: Codec,
    folder: Path,
    run: Run | None,
    size: tuple[int, int],
    images: str | None = None,
    track: Track = silent,
    most: int | None = None,
) -> Quality:
    """Measure the folder's decoder.onnx and the compiled decoder, on pictures of a folder (None: the package's).

    Pictures larger than the compiled size are computed in tiles, here and in `measure_encoder`.
    """
    teacher = TorchCodec(codec)
    written = OnnxCodec(folder).with_entropy(teacher.entropy)
    tile = (size[0] // codec.factor, size[1] // codec.factor)
    found = islice(held_out_pictures(images, None, codec.multiple), most)
    scores: list[list[float]] = []
    for picture in track("Measure", [_at_least(one, size) for one in found], unit="pictures"):
        quantized = written.entropy.quantize(teacher.analyze(picture), teacher.hyper_analyze)
        given = written.decoder_input(quantized.symbols, quantized.means)
        decoded = [teacher.synthesize(quantized.symbols, quantized.means), written.run_decoder(given)]
        if run:
            decoded.append(in_tiles(run, given, tile, codec.margin, scale_in=1, scale_out=codec.factor))
        x, y, file, *there = (torch.from_numpy(one)[None] for one in (picture, *decoded))
        pairs = [(to_8_bits(y), x), (to_8_bits(file), x), (file, y)]
        pairs += [pair for z in there for pair in ((to_8_bits(z), x), (z, file), (z, y))]
        scores.append([min(psnr(*pair).item(), HIGHEST) for pair in pairs])
    return Quality(len(scores), *np.mean(scores, axis=0).tolist())


def measure_encoder(
    codec: Codec,
    folder: Path,
    run: Run | None,
    size: tuple[int, int],
    images: str | None = None,
    track: Track = silent,
    most: int | None = None,
) -> EncoderQuality:
    """Measure the folder's encoder.onnx and the compiled encoder: bits, and PSNR of what the float decoder shows.

    Arguments as in `measure_decoder`.
    """
    teacher = TorchCodec(codec)
    written = OnnxCodec(folder).with_entropy(teacher.entropy)
    tile = (size[0] // codec.factor, size[1] // codec.factor)
    found = islice(held_out_pictures(images, None, codec.multiple), most)
    scores: list[list[float]] = []
    for picture in track("Measure", [_at_least(one, size) for one in found], unit="pictures"):
        latents = [teacher.analyze(picture), written.analyze(picture)]
        if run:
            latents.append(in_tiles(run, picture, tile, codec.margin, scale_in=codec.factor, scale_out=1))
        row = []
        for one in latents:
            quantized = written.entropy.quantize(one, teacher.hyper_analyze)
            shown = to_8_bits(torch.from_numpy(teacher.synthesize(quantized.symbols, quantized.means))[None])
            row.append(min(psnr(shown, torch.from_numpy(picture)[None]).item(), HIGHEST))
            row.append(8 * written.entropy.encode(one, teacher.hyper_analyze).size / picture[0].size)
        scores.append(row)
    return EncoderQuality(len(scores), *np.mean(scores, axis=0).tolist())


def _at_least(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pad a picture to at least the compiled size by repeating its edge."""
    missing = (max(0, least - side) for least, side in zip(size, picture.shape[1:], strict=True))
    return np.pad(picture, ((0, 0), *((0, more) for more in missing)), mode="edge")
