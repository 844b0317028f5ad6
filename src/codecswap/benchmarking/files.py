"""Real .csw files in a benchmark: decoded by the C library and a runtime, and compared with what this machine decodes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codecswap.data.pictures import to_picture
from codecswap.entropy.bitstream import Quantized, read, write
from codecswap.errors import UserError
from codecswap.inference.folder import (
    BINARY_GAUSSIANS,
    BINARY_RATES,
    BINARY_TABLES,
    PREDICTION,
    read_entropy,
    read_folder,
)
from codecswap.inference.split_inputs import SplitInputs
from codecswap.runner.files import digest

BINARIES = (BINARY_TABLES, BINARY_GAUSSIANS, PREDICTION, BINARY_RATES)


@dataclass(frozen=True)
class Files:
    """Files of held-out pictures, decoded by the C library."""

    count: int
    same_inputs: int
    """Those whose decoder got the input that Python reads from the file here, byte for byte."""
    read_ms: float
    """Milliseconds of decoding the entropy code of a file, the median."""
    rgb_ms: float
    """Milliseconds of making 8-bit RGB of the network's result."""
    to_here: float | None
    """As `codecswap.benchmarking.measure.Row.to_here`, of the pictures in 8 bits."""


class FileCodec:
    """What the C library needs to know of a codec, and files for it.

    Args:
        folder: of an export; its networks are not read.
        split_inputs: layout of the decoder's input; None: it takes latents or symbols.
        hyper_analyze: computes hyper-latents of latents.

    Raises:
        UserError: the C library does not read the codec's files.
    """

    def __init__(
        self, folder: Path, split_inputs: SplitInputs | None, hyper_analyze: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._manifest, tables = read_folder(folder)
        if self._manifest.has_context:
            raise UserError("PyTorch alone computes its context model, so the C library does not read its files.")
        self._entropy = read_entropy(folder, self._manifest, tables)
        self._split_inputs, self._hyper_analyze = split_inputs, hyper_analyze
        self.binaries = {name: (folder / name).read_bytes() for name in BINARIES if (folder / name).is_file()}

    def encode(self, latents: np.ndarray, size: tuple[int, int]) -> bytes:
        """Write the file of latents ``(M, h, w)``, before rounding, of a picture of height and width ``size``."""
        return write(self._entropy.encode(latents, self._hyper_analyze), size, self._entropy, self._manifest.factor)

    def read(self, data: bytes) -> Quantized:
        """Read it in Python."""
        return read(data, self._entropy, self._manifest.factor)[0]

    def facts(self, input: str) -> dict[str, Any]:
        """``codec`` of `codecswap.runner.files.Library`, for a decoder with an input of this name."""
        split = self._split_inputs
        counts = np.bincount(split.channels, minlength=self._manifest.M).tolist() if split else []
        return {
            "factor": self._manifest.factor,
            "margin": self._manifest.margin,
            "input": input,
            "constant": split.constant if split else 0,
            "channels": counts,
            "fractional_bits": split.fractional_bits if split else 0,
        }


def compare(
    answers: Sequence[Mapping[str, Any]],
    pictures: Sequence[np.ndarray],
    inputs: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray] | None,
    decibels: Callable[[np.ndarray, np.ndarray], float],
) -> Files:
    """Compare what a runner decoded.

    Args:
        answers, pictures: of `codecswap.runner.files.decode`.
        inputs: of the network, ``(1, C, h, w)``, float32, as Python read them here.
        wanted: what the network makes of them here, ``(3, H, W)``; None: it does not run here.
        decibels: PSNR of two pictures in [0, 1].
    """
    found = []
    for picture, result in zip(pictures, wanted or (), strict=False):
        here = np.asarray(to_picture(result, (len(picture), picture.shape[1])))
        found.append(decibels(picture / np.float32(255), here / np.float32(255)))
    return Files(
        len(answers),
        sum(one["input_sha256"] == digest(values) for one, values in zip(answers, inputs, strict=True)),
        statistics.median(ms for one in answers for ms in one["read_ms"]),
        statistics.median(one["rgb_ms"] for one in answers),
        min(found, default=None),
    )
