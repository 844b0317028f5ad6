"""``codecswap quantise``: a codec in 8-bit integers, what that costs, and where."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions, QuantiseOptions
from codecswap.console import bar, say, show_table, track, warn
from codecswap.errors import UserError
from codecswap.export import command as export
from codecswap.export.backends.graph import layer_of
from codecswap.export.backends.onnx import latent_size, write_decoder, write_encoder
from codecswap.export.backends.onnx_qdq import Override, channel_scales, costs, fixed_scale, quantise_graph
from codecswap.export.lower import lower, take_planes
from codecswap.export.source import load_source
from codecswap.files import atomic_write
from codecswap.inference.bitstream import pack, unpack
from codecswap.inference.check import compare, demand, write_checks
from codecswap.inference.manifest import Manifest, Network, describe_network, write_folder
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import SMALLEST_SIDE, ms_ssim, psnr, to_8_bits
from codecswap.quantise.equalise import equalise
from codecswap.quantise.rounding import LEVELS, round_weights

LAST = {"encoder": "g_a.6", "decoder": "g_s.6"}
"""The layers that give latents and picture."""
CROP = (384, 256)
"""Width and height of a calibration picture, where no size is fixed."""
STEPS = 4
"""Of a network's quantisation: equalise, refit and round the weights, choose the ranges, measure what each tensor costs."""
REPEATS = 5
"""Times that a picture is decoded to say how long it takes; the fastest counts."""


def main(options: QuantiseOptions, typed: set[str]) -> int:
    """``codecswap quantise``."""
    if options.opset < 13:
        raise UserError(f"--opset is at least 13 for scales per channel, not {options.opset}.")
    codec, name, replacement = load_source(options, typed)
    layers = [f"{part}.{index}" for part in ("g_a", "g_s") for index, _ in codec.get_submodule(part).named_children()]
    if unknown := [layer for layer in options.keep if layer not in layers]:
        raise UserError(f"--keep {unknown[0]}: the codec's layers are {', '.join(layers)}.")
    samples = calibration_pictures(options)
    say(f"Calibrating on {len(samples)} pictures.")
    steps = len(samples) + STEPS * (2 if options.parts == "all" else 1) + 1
    with tempfile.TemporaryDirectory() as scratch, bar("Quantise", steps, unit="steps") as advance:
        manifest = quantise(codec, name, replacement, samples, options, Path(scratch), advance=advance)
    if manifest.encoder:
        warn("a quantised encoder gives other latents: files are as valid, but not the float encoder's byte for byte.")
    export.show_facts(options.output, manifest)
    report(codec, name, replacement, options)
    say(f"Written: {options.output}.")
    return 0


def calibration_pictures(options: QuantiseOptions) -> list[np.ndarray]:
    """Pictures ``(3, H, W)``, float32 in [0, 1], all of one size: the fixed one, or 384x256.

    Raises:
        UserError: the folder holds none that can be read.
    """
    width, height = options.width or CROP[0], options.height or CROP[1]
    found = export.fitted(options.calibration_images, "--calibration_images", "train", (width, height))
    return list(islice(found, options.calibration_count))


def quantise(
    codec: Codec,
    name: str,
    replacement: str,
    samples: Sequence[np.ndarray],
    options: QuantiseOptions,
    scratch: Path,
    *,
    show: bool = True,
    advance: Callable[[int], None] = lambda steps: None,
) -> Manifest:
    """Write a codec's quantised files into ``options.output``.

    Args:
        samples: pictures ``(3, H, W)`` of one size.
        scratch: folder for the float graphs, and for the result until it has been checked.
        show: print what each tensor costs.
        advance: is told of every sample encoded, of each of `STEPS` for each network, and of the check.

    Raises:
        UserError: ONNX Runtime does not compute here what the files mean; nothing is written.
    """
    folder, size = options.output, latent_size(options.height, options.width, codec.factor)
    folder.mkdir(parents=True, exist_ok=True)
    made = scratch / "made"
    made.mkdir()
    torch_codec = TorchCodec(codec)
    tables = torch_codec.tables
    symbols = []
    for sample in samples:
        symbols.append(tables.to_symbols(torch_codec.analyse(sample)))
        advance(1)
    encoder = decoder = planes = None
    if options.parts != "encoder":
        transform = lower(codec.g_s, options.form, size)
        if options.equalise:
            equalise(transform, [torch.from_numpy(tables.to_latents(one))[None] for one in symbols])
        planes = take_planes(transform, tables)
        advance(1)
        inputs = [planes.of_symbols(one)[None] for one in symbols]
        overrides = {"planes": fixed_scale(1, -128, options.activations)}
        overrides |= _rounded(transform, inputs, "decoder", options)
        advance(1)
        path = scratch / "decoder.onnx"
        write_decoder(transform, inputs[0].shape[1], path, opset=options.opset, size=size, input="planes")
        decoder = _write(path, made, inputs, overrides, "decoder", options, "planes", "picture")
        advance(1)
        if show:
            show_costs("decoder", path, made / path.name, inputs[0])
        advance(1)
    if options.parts != "decoder":
        transform = lower(codec.g_a)
        inputs = [sample[None] for sample in samples]
        if options.equalise:
            equalise(transform, [torch.from_numpy(one) for one in inputs])
        advance(1)
        overrides = {"picture": _picture(options), **_rounded(transform, inputs, "encoder", options)}
        advance(1)
        path = scratch / "encoder.onnx"
        write_encoder(transform, path, opset=options.opset, size=size, factor=codec.factor)
        encoder = _write(path, made, inputs, overrides, "encoder", options, "picture", "latents")
        advance(1)
        if show:
            show_costs("encoder", path, made / path.name, inputs[0])
        advance(1)
    manifest = Manifest(
        name=name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        replacement=replacement,
        precision="int8",
        opset=options.opset,
        height=options.height,
        width=options.width,
        encoder=encoder,
        decoder=decoder,
        planes=planes,
        tables_sha256=tables.digest().hex(),
    )
    write_folder(made, manifest, tables)
    checks = verified(made, folder, samples, symbols)
    advance(1)
    manifest = replace(manifest, checks={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checks})
    for path in [*checks, *(made / network.file for network in (encoder, decoder) if network)]:
        with atomic_write(folder / path.name) as beside:
            shutil.copyfile(path, beside)
    write_folder(folder, manifest, tables)
    return manifest


def verified(made: Path, folder: Path, samples: Sequence[np.ndarray], symbols: Sequence[np.ndarray]) -> list[Path]:
    """Compare what ONNX Runtime computes with what the files mean, and say it; write the stored checks.

    Args:
        made: the quantised folder.
        folder: what it will be called.
        samples, symbols: pictures ``(3, H, W)`` and their symbols; the first `VERIFIED_ON` of them are compared.

    Returns: the checks' files, in ``made``.

    Raises:
        UserError: they differ by more than roundings do.
    """
    exact, count = OnnxCodec(made, exact=True), export.VERIFIED_ON
    for part, found in compare(OnnxCodec(made), exact, samples[:count], symbols[:count]).items():
        demand(folder / getattr(exact.manifest, part).file, found)
        say(f"ONNX Runtime's {part} against the file's exact meaning: {min(found, 120):.1f} dB.")
    return write_checks(exact, samples, symbols)


def _picture(options: QuantiseOptions) -> Override:
    """Exactly the 256 levels of a picture file: in, nothing is lost; out, only what the file would lose anyway."""
    return fixed_scale(1 / 255, 0, options.activations)


def _rounded(
    transform: nn.Module, inputs: Sequence[np.ndarray], part: str, options: QuantiseOptions
) -> dict[str, Override]:
    """Refit and round a transform's weights in place; returns their scales by the names they will have in the graph."""
    if not options.refit:
        return {}
    name = "g_a" if part == "encoder" else "g_s"
    kept = [layer.removeprefix(f"{name}.") for layer in _kept(part, options) if layer.startswith(name)]
    tensors: list[Tensor] = [torch.from_numpy(one) for one in inputs]
    levels = LEVELS[options.weight_bits]
    scales = round_weights(transform, tensors, exact_input=True, levels=levels, float_layers=kept)
    return {f"{name}.{key}": channel_scales(value.numpy()) for key, value in scales.items()}


def _kept(part: str, options: QuantiseOptions) -> list[str]:
    # latents are rounded to integers: at the scale of the widest channel, 8 bits would change most of them
    return [*options.keep, LAST["encoder"]] if part == "encoder" else list(options.keep)


def _write(
    source: Path,
    folder: Path,
    inputs: Sequence[np.ndarray],
    overrides: dict[str, Override],
    part: str,
    options: QuantiseOptions,
    input: str,
    output: str,
) -> Network:
    keep = _kept(part, options)
    if part == "decoder" and LAST[part] not in keep:
        ends = ("Conv", "ConvTranspose", "DepthToSpace")
        last = [node for node in onnx.load(source).graph.node if layer_of(node) == LAST[part] and node.op_type in ends]
        overrides |= {node.output[0]: _picture(options) for node in last}
    target = folder / source.name
    quantise_graph(
        source,
        target,
        inputs,
        method=options.method,
        percentile=options.percentile,
        activations=options.activations,
        weight_bits=options.weight_bits,
        overrides=overrides,
        keep=keep,
    )
    return describe_network(target, input, output)


def show_costs(part: str, source: Path, target: Path, feed: np.ndarray) -> None:
    """Print what rounding each tensor alone costs: the decoder's in dB against the float picture."""
    found = sorted(costs(source, target, feed), key=lambda cost: -cost.mse)
    total = sum(cost.mse for cost in found) or 1e-30
    rows = [
        [f"{cost.layer} {cost.operator}", f"{-10 * np.log10(max(cost.mse, 1e-30)):.1f}", f"{cost.mse / total:.0%}"]
        for cost in found
    ]
    unit = "PSNR against float, dB" if part == "decoder" else "error of the latents, dB"
    show_table(f"{part}: each activation rounded to 8 bits alone", ["output of", unit, "share"], rows)


def report(codec: Codec, name: str, replacement: str, options: QuantiseOptions) -> None:
    """Print float and INT8 side by side, on pictures that were not calibrated on."""
    quantised = OnnxCodec(options.output, threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        fields = {key: getattr(options, key) for key in ("opset", "height", "width", "form", "parts")}
        plain_options = ExportOptions(output=Path(scratch), **fields)
        export.write(codec, name, replacement, plain_options)
        plain_codec = OnnxCodec(Path(scratch), threads=1)
        pictures = list(islice(export.pictures(options.images, quantised.manifest), export.VERIFIED_ON))
        reference = TorchCodec(codec)
        measured = [
            _measured("float32", plain_codec, reference, pictures),
            _measured("INT8", quantised, reference, pictures),
        ]
    rows = [
        [label, f"{values['psnr']:.3f}", f"{values['ms_ssim']:.5f}", f"{values['bpp']:.4f}", _ms(values), f"{mb:.2f}"]
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
        data = pack(codec.tables.to_symbols(encoder.analyse(picture)), picture.shape[1:], codec.tables)  # type: ignore[arg-type]
        symbols, _ = unpack(data, codec.tables, codec.factor)
        shown, x = to_8_bits(torch.from_numpy(decoder.synthesise(symbols)))[None], torch.from_numpy(picture)[None]
        values["psnr"].append(psnr(shown, x).item())
        values["ms_ssim"].append(ms_ssim(shown, x).item() if min(x.shape[-2:]) >= SMALLEST_SIDE else float("nan"))
        values["bpp"].append(8 * len(data) / (picture.shape[1] * picture.shape[2]))
    means: dict[str, Any] = {key: float(np.mean(column)) for key, column in values.items()}
    means["encode"] = _fastest(lambda: codec.analyse(pictures[0])) if codec.manifest.encoder else None
    means["decode"] = _fastest(lambda: codec.synthesise(symbols)) if codec.manifest.decoder else None
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
