"""Whether a runtime computes what a quantized file means, on the processor at hand.

The reference execution of a file is its graph computed operator by operator, in float between the rounding that the file
asks for (`codecswap.inference.runtime.open_session`, ``exact``). Integer kernels are faster, and some overflow: x86
processors without VNNI add two products of 8 bits in 16.

A quantized folder holds, for each of its networks, a small coded picture and a PNG that belong together by the reference
execution: decoding ``check_decoder.csw`` gives ``check_decoder.png``, encoding ``check_encoder.png`` gives
``check_encoder.csw``.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from codecswap.data.pictures import UNREADABLE, load_picture, to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.inference import openvino
from codecswap.inference.manifest import MANIFEST, Manifest, check_names, file_bytes

AGREEMENT = 35.0
"""Least PSNR in dB of a runtime's result against the reference execution.

Right kernels differ by roundings that fall the other way, 62 dB and more, or by those that they leave out: OpenVINO adds what
a convolution puts out before it is rounded, 42 dB in a decoder of 17 additions. Overflow leaves 8 to 23.
"""
SIDE = 8
"""Largest height and width in latents of a stored check (128 pixels): milliseconds."""
MOST_BYTES = 1 << 20
"""Of a check's files."""


def agreement(part: str, result: np.ndarray, exact: np.ndarray) -> float:
    """PSNR in dB between two results of an ``encoder`` or a ``decoder``.

    The peak is 1 for pictures, whose values are in [0, 1], and the range of all values for latents or symbols.
    """
    peak = 1.0 if part == "decoder" else max(1.0, float(np.ptp(exact)))
    error = float(np.square(result.astype(np.float64) - exact).mean())
    return float(-10 * np.log10(max(error / peak**2, 1e-30)))


def require_agreement(file: Path, found: float, runtime: str = "onnxruntime") -> None:
    """Take an agreement in dB of the network in ``file``, computed by ``runtime``.

    Raises:
        UserError: it is below `AGREEMENT`.
    """
    if not found >= AGREEMENT:  # NaN too
        raise UserError(
            f"{file} is computed wrongly here: {_name(runtime)} on this processor ({_processor()}) is at "
            f"{found:.1f} dB from what the file means, and {AGREEMENT:.0f} are the least: quantize the codec with "
            f"--weight_bits 7, update {runtime}, or take a float codec of `codecswap export`."
        )


def compare(
    codec: Any,
    exact: Any,
    pictures: Sequence[np.ndarray],
    symbols: Sequence[np.ndarray],
    means: Sequence[np.ndarray | None] | None = None,
) -> dict[str, float]:
    """The least agreement in dB of each network that a folder holds, over all samples.

    Args:
        codec, exact: `codecswap.inference.runtime.OnnxCodec` of the same folder, the latter with ``exact``.
        pictures: ``(3, H, W)``, what the encoder gets.
        symbols: ``(M, H/16, W/16)``, what the decoder gets.
        means: theirs, of a codec with hyper-latents.
    """
    found = {}
    if codec.manifest.encoder:
        pairs = [(codec.analyze(one), exact.analyze(one)) for one in pictures]
        found["encoder"] = min(agreement("encoder", *pair) for pair in pairs)
    if codec.manifest.decoder:
        given = zip(symbols, means or [None] * len(symbols), strict=True)
        pairs = [(codec.synthesize(*one), exact.synthesize(*one)) for one in given]
        found["decoder"] = min(agreement("decoder", *pair) for pair in pairs)
    return found


def write_checks(exact: Any, pictures: Sequence[np.ndarray], symbols: Sequence[np.ndarray]) -> list[Path]:
    """Write the checks of a folder's networks into it; returns their files.

    Where the symbols have most energy a part of `SIDE` latents is taken: large values are what overflows.

    Args:
        exact: the folder, opened with ``exact``.
        pictures: ``(3, H, W)``, float32 in [0, 1].
        symbols: theirs, ``(M, H/16, W/16)``.
    """
    index, top, left = _liveliest(symbols)
    part = symbols[index][:, top : top + SIDE, left : left + SIDE]
    size = (exact.factor * part.shape[1], exact.factor * part.shape[2])
    written = []
    if exact.manifest.encoder:
        rows, columns = (slice(exact.factor * start, exact.factor * (start + SIDE)) for start in (top, left))
        picture = pictures[index][:, rows, columns]
        written += _write("encoder", exact, to_picture(picture, size), _encoded(exact, picture))
    if exact.manifest.decoder:
        written += _write("decoder", exact, to_picture(_decoded(exact, part), size), part)
    return written


def check(codec: Any, part: str) -> None:
    """Compute a network's stored check (a folder may have none) and compare.

    Args:
        codec: `codecswap.inference.runtime.OnnxCodec`.
        part: ``encoder`` or ``decoder``.

    Raises:
        UserError: the result is not what the file means, or the check is damaged.
    """
    stored, names = codec.manifest.checks or {}, check_names(part)
    if not all(name in stored for name in names):
        return
    symbols, picture = _read(codec, names)
    if part == "decoder":
        size = (picture.height, picture.width)
        result = to_array(to_picture(_decoded(codec, symbols), size))
        found = agreement(part, result, to_array(picture))
    else:
        found = agreement(part, _encoded(codec, to_array(picture)), symbols)
    require_agreement(codec.folder / getattr(codec.manifest, part).file, found, codec.runtime)


def _liveliest(symbols: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Which sample, and at which row and column the `SIDE` latents of most energy begin in it."""
    height, width = (min(SIDE, side) for side in symbols[0].shape[1:])
    energy = np.stack([np.square(one, dtype=np.float64).sum(0) for one in symbols])
    parts = np.lib.stride_tricks.sliding_window_view(energy, (1, height, width)).sum((3, 4, 5))
    index, top, left = np.unravel_index(parts.argmax(), parts.shape)
    return int(index), int(top), int(left)


def _write(part: str, exact: Any, picture: Image.Image, symbols: np.ndarray) -> list[Path]:
    coded, shown = (exact.folder / name for name in check_names(part))
    coded.write_bytes(bitstream.pack(symbols, (picture.height, picture.width), exact.tables))
    picture.save(shown, "PNG", optimize=True)
    return [coded, shown]


def _read(codec: Any, names: tuple[str, str]) -> tuple[np.ndarray, Image.Image]:
    data, _ = (file_bytes(codec.folder, name, codec.manifest.checks[name], MOST_BYTES) for name in names)
    try:
        symbols, size = bitstream.unpack(data, codec.tables, codec.factor)
        picture = load_picture(codec.folder / names[1])
        if max(symbols.shape[1:]) > SIDE or (picture.height, picture.width) != size:
            raise ValueError(f"{symbols.shape} and {picture.size}")
    except UNREADABLE as error:  # bitstream.BadFile is a ValueError
        raise UserError(
            f"{codec.folder / MANIFEST} has checks that cannot be read: quantize the codec again."
        ) from error
    return symbols, picture


def _decoded(codec: Any, symbols: np.ndarray) -> np.ndarray:
    height, width = (side * codec.factor for side in symbols.shape[1:])
    return codec.synthesize(_filled(symbols, codec.manifest, 1))[:, :height, :width]


def _encoded(codec: Any, picture: np.ndarray) -> np.ndarray:
    height, width = (side // codec.factor for side in picture.shape[1:])
    latents = codec.analyze(_filled(picture, codec.manifest, codec.factor))
    return codec.tables.to_symbols(latents)[:, :height, :width]


def _filled(x: np.ndarray, manifest: Manifest, scale: int) -> np.ndarray:
    """``x: (C, h, w)`` with zeros to the right and below up to a folder's fixed size, if it has one."""
    if not (manifest.height and manifest.width):
        return x
    height, width = (side // manifest.factor * scale for side in (manifest.height, manifest.width))
    return np.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2])))


def _name(runtime: str) -> str:
    return f"OpenVINO {openvino.version()}" if runtime == "openvino" else f"ONNX Runtime {onnxruntime.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
