"""Tables of export and quantize: replaced GDNs, contents of files, sensitivity, and float against quantized."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import Form, Part
from codecswap.console import say, show_table, track, warn
from codecswap.entropy import bitstream
from codecswap.export.folder import write_float
from codecswap.graph import onnx_graph as graph
from codecswap.inference.manifest import Manifest
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import SMALLEST_SIDE, ms_ssim, psnr, to_8_bits
from codecswap.quantize.codec import QuantizedNetwork
from codecswap.quantize.loss import Loss
from codecswap.quantize.scheme import REMEDIES, Frontier, words
from codecswap.quantize.sensitivity import Cost, costs
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps import GDN_SWAPS
from codecswap.swaps.closed_form import FittedGdn

COUNTED_AT = 256
"""Side of the picture for which multiply-adds are counted if the size is dynamic."""
SHOWN = 32
"""Number of tensors shown by name: those with the largest error."""
REPEATS = 5
"""Number of repetitions of a time measurement; the fastest counts."""


def show_gdn(fitted: FittedGdn[Codec]) -> None:
    """Print which GDN layers were replaced, if any, and what that costs."""
    if not fitted.replaced:
        return
    rows = [[one.name, one.before, one.after] for one in fitted.replaced]
    show_table("GDN layers", ["layer", "before", "now"], rows)
    if fitted.loss is None:
        say(f"--gdn {fitted.gdn} equals the codec's own GDN layers.")
        return
    how = f" in {fitted.pieces} pieces" if fitted.pieces else ""
    say(f"--gdn {fitted.gdn}{how}, on {fitted.pictures} pictures it was not fitted to: {fitted.loss}.")
    if GDN_SWAPS[fitted.gdn].trained:
        warn(f"--gdn {fitted.gdn} needs training: distill and fine-tune a student with it.")


def show_facts(folder: Path, manifest: Manifest) -> None:
    """Print the contents of each file."""
    height, width = manifest.height or COUNTED_AT, manifest.width or COUNTED_AT
    rows = []
    for network in manifest.networks:
        latents = (manifest.M, height // manifest.factor, width // manifest.factor)
        shape = (1, *((3, height, width) if network.input == "picture" else latents))
        known = graph.facts(folder / network.file, shape)
        operators = ", ".join(f"{count} {name}" for name, count in known.operators.items())
        rows.append(
            [
                f"{network.file} (opset {known.opset}): {operators}",
                f"{known.parameters:,}",
                f"{known.multiply_adds / (height * width):,.0f}",
                f"{known.size / 1e6:.2f}",
            ]
        )
    title = f"{manifest.name}, N={manifest.N}, M={manifest.M}, {manifest.precision}"
    show_table(title, ["file and operators", "parameters", "multiply-adds per pixel", "MB"], rows)


def show_costs(part: str, network: QuantizedNetwork) -> Cost | None:
    """Print the error of quantizing each tensor alone, for a decoder in dB against the float picture; returns the largest."""
    if network.float_transform is None or not network.feeds:
        return None
    measured = costs(network.float_transform, network.transform, network.feeds[0])
    found = sorted(
        (cost if np.isfinite(cost.mse) else replace(cost, mse=float("inf")) for cost in measured),
        key=lambda cost: -cost.mse,
    )
    total = sum(cost.mse for cost in found if cost.mse < float("inf")) or 1e-30
    shown = [(f"{cost.layer} {cost.tensor}", cost.mse) for cost in found[:SHOWN]]
    if rest := found[SHOWN:]:
        shown.append((f"{len(rest)} others together", sum(cost.mse for cost in rest)))
    rows = [
        [
            name,
            *(
                [f"{-10 * np.log10(max(mse, 1e-30)):.1f}", f"{mse / total:.0%}"]
                if mse < float("inf")
                else ["no number", ""]
            ),
        ]
        for name, mse in shown
    ]
    unit = "PSNR against float, dB" if part == "decoder" else "error of the latents, dB"
    show_table(f"{part}: each tensor rounded alone", ["weights, or output of", unit, "share"], rows)
    return found[0] if found else None


def show_frontier(frontier: Frontier) -> None:
    """Print the frontier of loss against cost, and which layers got what, and why."""
    rows = []
    for point in frontier.points:
        measured = "" if point.loss is None else f"{point.loss:.3f}"
        chosen = "chosen" if point.remedies == frontier.chosen.remedies else ""
        rows.append([f"{point.cost:.2f}x", f"{point.predicted:.3f}", measured, words(point.remedies), chosen])
    title = f"Loss against cost; measured on {frontier.pictures} pictures that nothing was calibrated on"
    show_table(title, ["cost", "predicted, dB", "measured, dB", "remedies", ""], rows)
    for layer, remedy in frontier.chosen.remedies:
        tensors = sorted(((loss, tensor) for at, tensor, loss in frontier.shares if at == layer), reverse=True)
        total = sum(loss for loss, _ in tensors)
        why = ", ".join(f"{tensor} {loss:.3f}" for loss, tensor in tensors[:3])
        say(f"{layer}: {REMEDIES[remedy]}. Quantized, it costs {total:.3f} dB ({why}).")
    best = frontier.chosen
    if not frontier.asked:
        say("Ask for one of these with --max_loss or --max_cost.")
    elif frontier.held:
        say(f"Asked: {frontier.asked}. Held: {best.loss:.3f} dB at {best.cost:.2f} times the cost.")
    else:
        warn(
            f"asked for {frontier.asked}, which cannot be held: the best loses {best.loss:.3f} dB at {best.cost:.2f} times."
        )


def show_quality(codec: Codec, folder: Path, pictures: Sequence[np.ndarray], *, part: Part, form: Form) -> Loss:
    """Print float and quantized results side by side; returns what is lost.

    Args:
        codec: the codec before quantization.
        folder: result of `codecswap quantize` for it.
        pictures: ``(3, H, W)``, float32 in [0, 1], held out from quantization.
        part, form: the quantized part and its lowering; the same is measured in float.
    """
    reference, measured = TorchCodec(codec), []
    quantized = OnnxCodec(folder, threads=1).with_entropy(reference.entropy)
    manifest = quantized.manifest
    size = (manifest.height, manifest.width) if manifest.height and manifest.width else None
    if not isinstance(codec.g_s, QuantizedSynthesis):  # else there is no float decoder
        with tempfile.TemporaryDirectory() as scratch:
            write_float(codec, Path(scratch), part=part, form=form, opset=manifest.opset, size=size)
            exported = OnnxCodec(Path(scratch), threads=1).with_entropy(reference.entropy)
            measured.append(_measured("float32", exported, reference, pictures))
    measured.append(_measured(manifest.precision, quantized, reference, pictures))
    first = measured[0][1]
    rows = [
        [
            label,
            f"{values['psnr']:.3f} ({values['psnr'] - first['psnr']:+.3f})",
            f"{values['ms_ssim']:.5f}" if values["ms_ssim"] is not None else "-",
            f"{values['bpp']:.4f} ({values['bpp'] / first['bpp'] - 1:+.2%})",
            _ms(values),
            f"{mb:.2f}",
        ]
        for label, values, mb in measured
    ]
    columns = ["", "PSNR, dB", "MS-SSIM", "bits per pixel", "encode / decode, ms", "MB"]
    show_table(f"{manifest.name}, {len(pictures)} pictures, ONNX Runtime on one thread", columns, rows)
    if manifest.precision in PRECISIONS and PRECISIONS[manifest.precision].is_wide:
        say(
            "Its 16-bit activations are for a chip: ONNX Runtime has no kernels for them, so they were computed in float here."
        )
    last = measured[-1][1]
    return Loss(first["psnr"] - last["psnr"], last["bpp"] / first["bpp"] - 1)


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
        if min(x.shape[-2:]) >= SMALLEST_SIDE:
            values["ms_ssim"].append(ms_ssim(shown, x).item())
        values["bpp"].append(8 * len(data) / (picture.shape[1] * picture.shape[2]))
    means: dict[str, Any] = {key: float(np.mean(column)) if column else None for key, column in values.items()}
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
