"""What a codec in integers costs: each rounded tensor alone, and all of it on pictures."""

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions, QuantizeOptions
from codecswap.console import show_table, track
from codecswap.data.samples import VERIFIED_ON, sample_pictures
from codecswap.entropy import bitstream
from codecswap.export import command as export
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import SMALLEST_SIDE, ms_ssim, psnr, to_8_bits
from codecswap.quantize.ranges import costs
from codecswap.quantized.representation import TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis

REPEATS = 5
"""Times that a picture is decoded to say how long it takes; the fastest counts."""


def show_costs(part: str, model: onnx.ModelProto, transform: TransformGraph, feed: np.ndarray) -> None:
    """Print what rounding each tensor alone costs: the decoder's in dB against the float picture."""
    found = sorted(costs(model, transform, feed), key=lambda cost: -cost.mse)
    total = sum(cost.mse for cost in found) or 1e-30
    rows = [
        [f"{cost.layer} {cost.operator}", f"{-10 * np.log10(max(cost.mse, 1e-30)):.1f}", f"{cost.mse / total:.0%}"]
        for cost in found
    ]
    unit = "PSNR against float, dB" if part == "decoder" else "error of the latents, dB"
    show_table(f"{part}: each activation rounded alone", ["output of", unit, "share"], rows)


def report(codec: Codec, name: str, replacement: str, options: QuantizeOptions) -> None:
    """Print float and integers side by side, on pictures that were not calibrated on."""
    quantized = OnnxCodec(options.output, threads=1)
    reference, measured = TorchCodec(codec), []
    found = sample_pictures(options.images, "--images", "val", options.size, codec.multiple)
    pictures = list(islice(found, VERIFIED_ON))
    if not isinstance(codec.g_s, QuantizedSynthesis):  # else there is none in float
        with tempfile.TemporaryDirectory() as scratch:
            fields = {key: getattr(options, key) for key in ("opset", "height", "width", "form", "part")}
            export.write(codec, name, replacement, ExportOptions(output=Path(scratch), **fields))
            measured.append(_measured("float32", OnnxCodec(Path(scratch), threads=1), reference, pictures))
    measured.append(_measured(options.precision, quantized, reference, pictures))
    first = measured[0][1]
    rows = [
        [
            label,
            f"{values['psnr']:.3f} ({values['psnr'] - first['psnr']:+.3f})",
            f"{values['ms_ssim']:.5f}",
            f"{values['bpp']:.4f} ({values['bpp'] / first['bpp'] - 1:+.2%})",
            _ms(values),
            f"{mb:.2f}",
        ]
        for label, values, mb in measured
    ]
    columns = ["", "PSNR, dB", "MS-SSIM", "bits per pixel", "encode / decode, ms", "MB"]
    show_table(f"{name}, {len(pictures)} pictures, ONNX Runtime on one thread", columns, rows)


def _measured(
    label: str, codec: OnnxCodec, reference: TorchCodec, pictures: Sequence[np.ndarray]
) -> tuple[str, dict[str, Any], float]:
    values: dict[str, list[float]] = {"psnr": [], "ms_ssim": [], "bpp": []}
    networks = [network for network in (codec.manifest.encoder, codec.manifest.decoder) if network]
    for picture in track(f"Measure {label}", pictures, unit="pictures"):
        encoder = codec if codec.manifest.encoder else reference
        decoder = codec if codec.manifest.decoder else reference
        latents = encoder.analyze(picture)
        size = (picture.shape[1], picture.shape[2])
        hyper_encoder = codec if codec.manifest.hyper_encoder else reference
        strings = codec.entropy.encode(latents, hyper_encoder.hyper_analyze)
        data = bitstream.write(strings, size, codec.entropy, codec.factor)
        quantized, _ = bitstream.read(data, codec.entropy, codec.factor)
        symbols, center = quantized.symbols, quantized.means
        shown, x = (
            to_8_bits(torch.from_numpy(decoder.synthesize(symbols, center)))[None],
            torch.from_numpy(picture)[None],
        )
        values["psnr"].append(psnr(shown, x).item())
        values["ms_ssim"].append(ms_ssim(shown, x).item() if min(x.shape[-2:]) >= SMALLEST_SIDE else float("nan"))
        values["bpp"].append(8 * len(data) / (picture.shape[1] * picture.shape[2]))
    means: dict[str, Any] = {key: float(np.mean(column)) for key, column in values.items()}
    means["encode"] = _fastest(lambda: codec.analyze(pictures[0])) if codec.manifest.encoder else None
    means["decode"] = _fastest(lambda: codec.synthesize(symbols, center)) if codec.manifest.decoder else None
    return label, means, sum((codec.folder / network.file).stat().st_size for network in networks) / 1e6


def _fastest(work: Any) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def _ms(values: dict[str, Any]) -> str:
    return " / ".join("-" if values[key] is None else f"{values[key]:.0f}" for key in ("encode", "decode"))
