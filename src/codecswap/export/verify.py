"""Verify exported files against PyTorch on real pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.console import Track, silent
from codecswap.data.samples import VERIFIED_ON
from codecswap.errors import UserError
from codecswap.inference.runtime import OnnxCodec

BOUNDARY, ERROR = 1e-3, 1e-4
"""Tolerances of float32 files against PyTorch: distance of differing latents from the rounding boundary, and pictures."""


@dataclass
class Symbols:
    """Rounded latents (or hyper-latents) of an exported codec against PyTorch's."""

    count: int = 0
    differing: int = 0
    """Number of latents rounded to another integer."""
    boundary: float = 0.0
    """Largest distance of PyTorch's latent from the rounding interval of the file's symbol."""

    def add(self, latents: np.ndarray, given: np.ndarray, center: np.ndarray, gain: float = 1.0) -> None:
        """Add PyTorch's latents, the file's, the medians or means subtracted before rounding, and the gain."""
        own = (latents - center) * np.float32(gain)
        symbols, theirs = np.rint(own), np.rint((given - center) * np.float32(gain))
        beyond = np.abs(own - theirs) - 0.5
        self.count += symbols.size
        self.differing += int((theirs != symbols).sum())
        self.boundary = max(self.boundary, float(beyond.max(initial=0, where=theirs != symbols)))

    def __str__(self) -> str:
        close = f", each within {self.boundary:.1e} of a rounding boundary" if self.differing else ""
        return f"{self.differing:,} of {self.count:,} symbols differ{close}"


@dataclass
class Differences:
    """Differences of an exported codec from PyTorch, over all pictures."""

    latents: Symbols = field(default_factory=Symbols)
    hyper_latents: Symbols = field(default_factory=Symbols)
    float_bytes: int = 0
    """Bytes of the strings of a codec with hyper-latents, with CDF indexes computed in PyTorch."""
    integer_bytes: int = 0
    """Bytes with CDF indexes and means computed in integers."""
    picture: float = 0.0
    """Largest error of a reconstruction, whose values are about [0, 1]; of its largest value where that is more than 1."""
    squared: float = 0.0
    """Sum over pictures of the mean squared error of the reconstruction."""
    pictures: int = 0

    def sentences(self) -> list[str]:
        """The differences, as sentences."""
        said = []
        if self.latents.count:
            said.append(f"Encoder against PyTorch, {self.pictures} pictures: {self.latents}.")
        if self.hyper_latents.count:
            said.append(f"Hyper-encoder against PyTorch, {self.pictures} pictures: {self.hyper_latents}.")
        if self.float_bytes:
            more = 100 * (self.integer_bytes / self.float_bytes - 1)
            said.append(
                "Tables and means of the latents are computed in integers, the same on every machine: "
                f"{self.integer_bytes:,} bytes for {self.pictures} pictures, {more:+.3f} % against floating point."
            )
        if self.picture or not self.latents.count:
            decibels = -10 * np.log10(max(self.squared / self.pictures, 1e-30))
            said.append(
                f"Decoder against PyTorch, {self.pictures} pictures: largest error {self.picture:.1e} of 1, "
                f"PSNR {decibels:.1f} dB (8 bits alone cost 58.9 dB)."
            )
        return said


def compare(codec: Codec, folder: Path, samples: Iterator[np.ndarray], track: Track = silent) -> Differences:
    """Run the exported files with ONNX Runtime and the codec with PyTorch on the same pictures."""
    torch_codec = TorchCodec(codec)
    exported = OnnxCodec(folder).with_entropy(torch_codec.entropy)
    result = Differences()
    for sample in track("Check", list(islice(samples, VERIFIED_ON)), unit="pictures"):
        latents = torch_codec.analyze(sample)
        result.pictures += 1
        quantized = exported.entropy.quantize(latents, torch_codec.hyper_analyze)
        symbols, means = quantized.symbols, quantized.means
        if codec.predicts_means and not codec.has_context:
            result.float_bytes += torch_codec.entropy.encode(latents, torch_codec.hyper_analyze).size
            result.integer_bytes += exported.entropy.encode(latents, torch_codec.hyper_analyze).size
        if exported.manifest.hyper_encoder:
            tables = exported.entropy.tables
            hyper, medians = torch_codec.hyper_analyze(latents), tables.medians[:, None, None]
            result.hyper_latents.add(hyper, exported.hyper_analyze(latents), medians, 1 / tables.step)
        if exported.manifest.encoder:
            center = means if quantized.predicted is None else quantized.predicted
            result.latents.add(latents, exported.analyze(sample), center, exported.entropy.gain)
        if exported.manifest.decoder:
            wanted = torch_codec.synthesize(symbols, means)
            error = exported.synthesize(symbols, means) - wanted
            result.picture = max(result.picture, float(np.abs(error).max() / max(1.0, np.abs(wanted).max())))
            result.squared += float(np.square(error, dtype=np.float64).mean())
    return result


def verify(
    codec: Codec, folder: Path, samples: Iterator[np.ndarray], precision: str, track: Track = silent
) -> Differences:
    """Compare the exported files with PyTorch on real pictures.

    Raises:
        UserError: float32 files differ by more than rounding. The criterion is the distance of values, not how many
            symbols differ, which depends on how many latents are close to a rounding boundary.
    """
    found = compare(codec, folder, samples, track)
    boundary = max(found.latents.boundary, found.hyper_latents.boundary)
    if precision == "float32" and (boundary > BOUNDARY or found.picture > ERROR):
        raise UserError(
            "The exported files differ from PyTorch by more than rounding, so they were not kept: report the versions of "
            "torch and onnxruntime."
        )
    return found
