"""Check that a runtime computes a quantized network correctly on this processor.

The reference execution of a file computes its graph operator by operator, in float between the roundings that the file
states (`codecswap.inference.runtime.open_session`, ``reference``). Integer kernels are faster, and some overflow: x86
processors without VNNI add two products of 8 bits in 16.

A quantized folder stores, for each of its networks, a small coded picture and a PNG, computed by the reference
execution: decoding ``check_decoder.csw`` gives ``check_decoder.png``, encoding ``check_encoder.png`` gives
``check_encoder.csw``.
"""

import base64
import platform
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from codecswap.data.pictures import UNREADABLE, load_picture, to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.entropy.model import Quantized
from codecswap.errors import UserError
from codecswap.inference import openvino
from codecswap.inference.folder import MANIFEST, file_bytes
from codecswap.inference.manifest import Manifest, check_names

AGREEMENT = 35.0
"""Lowest PSNR in dB of a runtime's result against the reference execution that is accepted.

Correct kernels differ by single roundings (62 dB and more), or by roundings that they omit: OpenVINO adds the outputs of
convolutions before rounding them, 42 dB in a decoder of 17 additions. Overflow leaves 8 to 23 dB.
"""
SIDE = 8
"""Largest height and width in latents of a stored check (128 pixels), which takes milliseconds."""
MOST_BYTES = 1 << 20
"""Largest size of a check's files."""
PROBE = base64.b64decode(
    "CAc6XAoYCgFhCgFiEgFjIg1NYXRNdWxJbnRlZ2VyEgFnWhMKAWESDgoMCAISCAoCEgAKAhIAWhMKAWISDgoMCAMSCAoCEgAKAhIAYhMKAWMSDg"
    "oMCAYSCAoCEgAKAhIAQgQKABAN"
)
"""An ONNX file: ``c``, int32, is MatMulInteger of ``a``, uint8, and ``b``, int8."""

PROBE_FEEDS = {"a": np.full((8, 64), 255, np.uint8), "b": np.full((64, 32), 127, np.int8)}
PROBE_RESULT = 64 * 255 * 127
"""What `PROBE` gives in each place, if nothing overflows."""


@cache
def saturates() -> bool:
    """Whether ONNX Runtime adds products of 8 bits in 16 on this processor: x86 without VNNI does, others do not."""
    session = onnxruntime.InferenceSession(PROBE, providers=["CPUExecutionProvider"])
    return bool((session.run(["c"], PROBE_FEEDS)[0] != PROBE_RESULT).any())


def agreement(part: str, result: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB between two results of an ``encoder`` or a ``decoder``.

    The peak is 1 for pictures, whose values are in [0, 1], and the range of all values for latents or symbols.
    """
    peak = 1.0 if part == "decoder" else max(1.0, float(np.ptp(reference)))
    error = float(np.square(result.astype(np.float64) - reference).mean())
    return float(-10 * np.log10(max(error / peak**2, 1e-30)))


def require_agreement(file: Path, found: float, runtime: str = "onnxruntime") -> None:
    """Raise UserError if the agreement (dB) of the network in ``file``, computed by ``runtime``, is too low.

    Raises:
        UserError: it is below `AGREEMENT`.
    """
    if not found >= AGREEMENT:  # NaN too
        raise UserError(
            f"{file} is computed wrongly here: {_name(runtime)} on this processor ({_processor()}) is at "
            f"{found:.1f} dB from its reference execution (at least {AGREEMENT:.0f} dB is needed): quantize the codec with "
            f"--weight_bits 7, update {runtime}, or take a float codec of `codecswap export`."
        )


def measure_agreement(
    codec: Any,
    reference: Any,
    pictures: Sequence[np.ndarray],
    symbols: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
) -> dict[str, float]:
    """Lowest agreement in dB over all samples, for each network of a folder.

    Args:
        codec, reference: `codecswap.inference.runtime.OnnxCodec` of the same folder, the latter with ``reference``.
        pictures: ``(3, H, W)``, inputs of the encoder.
        symbols: ``(M, H/16, W/16)``, inputs of the decoder.
        means: means of the symbols, or their medians.
    """
    found = {}
    if codec.manifest.encoder:
        pairs = [(codec.analyze(one), reference.analyze(one)) for one in pictures]
        found["encoder"] = min(agreement("encoder", *pair) for pair in pairs)
    if codec.manifest.decoder:
        given = zip(symbols, means, strict=True)
        pairs = [(codec.synthesize(*one), reference.synthesize(*one)) for one in given]
        found["decoder"] = min(agreement("decoder", *pair) for pair in pairs)
    return found


def write_checks(
    reference: Any, pictures: Sequence[np.ndarray], symbols: Sequence[np.ndarray], means: Sequence[np.ndarray]
) -> list[Path]:
    """Write the stored checks of a folder's networks into it; returns their files.

    They use the `SIDE` x `SIDE` latents of highest energy, since large values overflow first.

    Args:
        reference: the folder, opened with ``reference``.
        pictures: ``(3, H, W)``, float32 in [0, 1].
        symbols, means: of the pictures, ``(M, H/16, W/16)``.
    """
    latents = [values.astype(np.float32) + center for values, center in zip(symbols, means, strict=True)]
    index, top, left = _highest_energy(latents)
    part = latents[index][:, top : top + SIDE, left : left + SIDE]
    size = (reference.factor * part.shape[1], reference.factor * part.shape[2])
    written = []
    if reference.manifest.encoder:
        rows, columns = (slice(reference.factor * start, reference.factor * (start + SIDE)) for start in (top, left))
        picture = pictures[index][:, rows, columns]
        coded = _coded(reference, _encoded(reference, picture), size)
        written += _write("encoder", reference, to_picture(picture, size), coded)
    if reference.manifest.decoder:
        coded = _coded(reference, part, size)
        quantized, _ = bitstream.read(coded, reference.entropy, reference.factor)
        written += _write("decoder", reference, to_picture(_decoded(reference, quantized), size), coded)
    return written


def run_check(codec: Any, part: str) -> None:
    """Run a network's stored check, if the folder has one.

    Args:
        codec: `codecswap.inference.runtime.OnnxCodec`.
        part: ``encoder`` or ``decoder``.

    Raises:
        UserError: the result is wrong, or the check is damaged.
    """
    stored, names = codec.manifest.checks or {}, check_names(part)
    if not all(name in stored for name in names):
        return
    stored, picture = _read(codec, names)
    if part == "decoder":
        size = (picture.height, picture.width)
        result = to_array(to_picture(_decoded(codec, stored), size))
        found = agreement(part, result, to_array(picture))
    else:
        latents = _encoded(codec, to_array(picture))
        found = agreement(part, codec.entropy.quantize(latents, _hyper_latents(codec)).symbols, stored.symbols)
    require_agreement(codec.folder / getattr(codec.manifest, part).file, found, codec.runtime)


def _highest_energy(latents: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Index of the sample, and row and column in it, where the `SIDE` latents of highest energy begin."""
    height, width = (min(SIDE, side) for side in latents[0].shape[1:])
    energy = np.stack([np.square(one, dtype=np.float64).sum(0) for one in latents])
    parts = np.lib.stride_tricks.sliding_window_view(energy, (1, height, width)).sum((3, 4, 5))
    index, top, left = np.unravel_index(parts.argmax(), parts.shape)
    return int(index), int(top), int(left)


def _coded(codec: Any, latents: np.ndarray, size: tuple[int, int]) -> bytes:
    """A file of latents ``(M, h, w)``, before rounding; its hyper-latents, if the codec has some, are their medians."""
    strings = codec.entropy.encode(latents, _hyper_latents(codec))
    return bitstream.write(strings, size, codec.entropy, codec.factor)


def _hyper_latents(codec: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The hyper-latents of `_coded`: a check has those of no picture, so that it needs no hyper-encoder."""

    def medians(latents: np.ndarray) -> np.ndarray:
        sides = (side // codec.entropy.factor for side in latents.shape[1:])
        return np.broadcast_to(codec.tables.medians[:, None, None], (codec.tables.channels, *sides))

    return medians


def _write(part: str, reference: Any, picture: Image.Image, content: bytes) -> list[Path]:
    coded, shown = (reference.folder / name for name in check_names(part))
    coded.write_bytes(content)
    picture.save(shown, "PNG", optimize=True)
    return [coded, shown]


def _read(codec: Any, names: tuple[str, str]) -> tuple[Quantized, Image.Image]:
    data, _ = (file_bytes(codec.folder, name, codec.manifest.checks[name], MOST_BYTES) for name in names)
    try:
        stored, size = bitstream.read(data, codec.entropy, codec.factor)
        picture = load_picture(codec.folder / names[1])
        if max(stored.symbols.shape[1:]) > SIDE or (picture.height, picture.width) != size:
            raise ValueError(f"{stored.symbols.shape} and {picture.size}")
    except UNREADABLE as error:  # bitstream.BadFile is a ValueError
        raise UserError(
            f"{codec.folder / MANIFEST} has checks that cannot be read: quantize the codec again."
        ) from error
    return stored, picture


def _decoded(codec: Any, given: Quantized) -> np.ndarray:
    height, width = (side * codec.factor for side in given.symbols.shape[1:])
    whole = (_filled(one, codec.manifest, 1) for one in (given.symbols, given.means))
    return codec.synthesize(*whole)[:, :height, :width]


def _encoded(codec: Any, picture: np.ndarray) -> np.ndarray:
    height, width = (side // codec.factor for side in picture.shape[1:])
    return codec.analyze(_filled(picture, codec.manifest, codec.factor))[:, :height, :width]


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
