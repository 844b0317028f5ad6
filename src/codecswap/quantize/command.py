"""``codecswap quantize``: a codec in integers, what that costs, and where."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import QuantizeOptions
from codecswap.console import bar, say, warn
from codecswap.data.samples import VERIFIED_ON, sample_pictures
from codecswap.entropy.bitstream import to_symbols
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.export import command as export
from codecswap.export.backends.onnx import export_hyper_encoder, latent_size, to_onnx
from codecswap.export.backends.onnx_qdq import write_qdq
from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.check import compare, demand, write_checks
from codecswap.inference.manifest import (
    Manifest,
    Network,
    describe_network,
    describe_side,
    replaced_folder,
    write_folder,
)
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.split_inputs import SplitInputs
from codecswap.layers.gdn import PlainActivation
from codecswap.quantize.equalize import equalize
from codecswap.quantize.ranges import calibrate
from codecswap.quantize.report import report, show_costs
from codecswap.quantize.rounding import SplitConv2d, round_weights
from codecswap.quantized.precision import Precision
from codecswap.quantized.representation import Quantization, TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.source import CROP, gdn_label, load_source, with_gdn

PARTS = {"decoder": ("g_s", "split_inputs", "picture"), "encoder": ("g_a", "picture", "latents")}
"""Per network: the codec's transform, input and output."""
STEPS = 4
"""Of a network's quantization: equalize, refit and round the weights, choose the ranges, measure what each tensor costs."""


def main(options: QuantizeOptions) -> int:
    """``codecswap quantize``."""
    codec, name, replacement = load_source(options)
    export.check_size(codec, options.height, options.width)
    layers = [f"{part}.{index}" for part in ("g_a", "g_s") for index, _ in codec.get_submodule(part).named_children()]
    if unknown := [layer for layer in options.keep if layer not in layers]:
        raise UserError(f"--keep {unknown[0]}: the codec's layers are {', '.join(layers)}.")
    if isinstance(codec.g_s, QuantizedSynthesis):
        options = options.replace(precision=codec.g_s.precision)  # type: ignore[arg-type]
    codec, replacement = with_gdn(codec, options, options.part), gdn_label(replacement, options)
    found = sample_pictures(options.calibration_images, "--calibration_images", "train", options.size or CROP)
    samples = list(islice(found, options.calibration_count))
    say(f"Calibrating on {len(samples)} pictures.")
    steps = len(samples) + STEPS * (2 if options.part == "both" else 1) + 1
    with replaced_folder(options.output) as made:
        building = options.replace(output=made)
        with bar("Quantize", steps, unit="steps") as advance:
            manifest = quantize(codec, name, replacement, samples, building, advance=advance)
        if manifest.encoder:
            warn(
                "a quantized encoder gives other latents: files are as valid, but not the float encoder's byte for byte."
            )
        export.show_facts(made, manifest)
        report(codec, name, replacement, building)
    say(f"Written: {options.output}.")
    return 0


def quantize(
    codec: Codec,
    name: str,
    replacement: str,
    samples: Sequence[np.ndarray],
    options: QuantizeOptions,
    *,
    show: bool = True,
    advance: Callable[[int], None] = lambda steps: None,
    adapt: Callable[[TransformGraph], TransformGraph] = lambda transform: transform,
) -> Manifest:
    """Write a codec's quantized files into ``options.output``.

    Args:
        samples: pictures ``(3, H, W)`` of one size.
        show: print what each tensor costs.
        advance: is told of every sample encoded, of each of `STEPS` for each network, and of the check.
        adapt: changes each transform that is quantized here before it is written.

    Raises:
        UserError: ONNX Runtime does not compute here what the files mean.
    """
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    torch_codec = TorchCodec(codec)
    tables = torch_codec.tables
    symbols: list[np.ndarray] = []
    means: list[np.ndarray | None] = []
    for sample in samples:
        rounded = to_symbols(torch_codec, sample)
        symbols.append(rounded.symbols)
        means.append(rounded.means)
        advance(1)
    networks: dict[str, Network] = {}
    split_inputs, sides = None, (options.height, options.width)
    for part in PARTS:
        if options.part not in ("both", part):
            continue
        path, (_, input, output) = folder / f"{part}.onnx", PARTS[part]
        if part == "decoder" and isinstance(codec.g_s, QuantizedSynthesis):
            split_inputs = codec.g_s.split_inputs
            write_qdq(codec.g_s.transform(latent_size(*sides, codec.factor)), path, options.opset)
            networks[part] = describe_network(path, input if split_inputs else "latents", output)
            advance(STEPS)
            continue
        if part == "decoder":
            lowered, inputs, split_inputs = lowered_decoder(codec, symbols, means, tables, options)
        else:
            lowered, inputs = _lowered_encoder(codec, samples, options)
        input = "latents" if part == "decoder" and split_inputs is None else input
        advance(1)
        known = _rounded(lowered, inputs, part, input, options)
        advance(1)
        model, transform = _calibrated(lowered, inputs, part, input, known, options, codec.factor)
        transform = adapt(transform)
        write_qdq(transform, path, options.opset)
        networks[part] = describe_network(path, input, output)
        advance(1)
        if show:
            show_costs(part, model, transform, inputs[0])
        advance(1)
    side = export.side_of(codec) if isinstance(codec, HyperCodec) else None
    if isinstance(codec, HyperCodec) and options.part != "decoder":  # in float: it runs at a 64th of the picture's size
        path = folder / "hyper_encoder.onnx"
        export_hyper_encoder(codec, path, opset=options.opset, height=options.height, width=options.width)
        networks["hyper_encoder"] = describe_network(path, "latents", "hyper_latents")
    manifest = Manifest(
        name=name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        passes=codec.passes,
        replacement=replacement,
        precision=options.precision,
        opset=options.opset,
        height=options.height,
        width=options.width,
        encoder=networks.get("encoder"),
        decoder=networks.get("decoder"),
        split_inputs=split_inputs,
        tables_sha256=tables.digest().hex(),
        hyper_encoder=networks.get("hyper_encoder"),
        side=describe_side(codec.hyper_factor, *side) if side else None,
    )
    write_folder(folder, manifest, tables, side)
    checks = verified(folder, samples, symbols, means)
    advance(1)
    if checks:
        manifest = replace(
            manifest, checks={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checks}
        )
        write_folder(folder, manifest, tables, side)
    return manifest


def verified(
    folder: Path, samples: Sequence[np.ndarray], symbols: Sequence[np.ndarray], means: Sequence[np.ndarray | None]
) -> list[Path]:
    """Compare what ONNX Runtime computes with what a folder's files mean, and say it; write the stored checks.

    Args:
        samples, symbols, means: pictures ``(3, H, W)`` and their symbols; the first `VERIFIED_ON` of them are compared.

    Returns: the checks' files; none for a codec with hyper-latents, whose parts cannot be cut out of a file.

    Raises:
        UserError: they differ by more than roundings do.
    """
    exact = OnnxCodec(folder, exact=True)
    first = (samples[:VERIFIED_ON], symbols[:VERIFIED_ON], means[:VERIFIED_ON])
    for part, found in compare(OnnxCodec(folder), exact, *first).items():
        demand(Path(getattr(exact.manifest, part).file), found)
        say(f"ONNX Runtime's {part} against the file's exact meaning: {min(found, 120):.1f} dB.")
    return [] if exact.entropy.predictor else write_checks(exact, samples, symbols)


def lowered_decoder(
    codec: Codec,
    symbols: Sequence[np.ndarray],
    means: Sequence[np.ndarray | None],
    tables: EntropyTables,
    options: QuantizeOptions,
) -> tuple[nn.Module, list[np.ndarray], SplitInputs | None]:
    """A codec's synthesis transform, equalized if the options say so, still in float.

    Args:
        symbols: of calibration pictures, ``(M, h, w)``.
        means: of their latents; None with a factorized prior.

    Returns: the transform, its inputs ``(1, C, h, w)``, and the layout of its split inputs; None where it takes latents,
        which are no integers where means are predicted.
    """
    lowered = lower(codec.g_s, options.form)
    pairs = list(zip(symbols, means, strict=True))
    latents = [tables.to_latents(one) if mean is None else one.astype(np.float32) + mean for one, mean in pairs]
    if options.equalize:
        equalize(lowered, [torch.from_numpy(one)[None] for one in latents])
    if codec.predicts_means:
        return lowered, [one[None] for one in latents], None
    split_inputs = take_split_inputs(lowered, tables)
    return lowered, [split_inputs.split(one)[None] for one in symbols], split_inputs


def _lowered_encoder(
    codec: Codec, samples: Sequence[np.ndarray], options: QuantizeOptions
) -> tuple[nn.Module, list[np.ndarray]]:
    lowered, inputs = lower(codec.g_a, prefix="g_a"), [sample[None] for sample in samples]
    if options.equalize:
        equalize(lowered, [torch.from_numpy(one) for one in inputs])
    last, precision = _last(lowered, "encoder"), _precision(options)
    if last not in _kept(lowered, "encoder", "picture", options):
        # channels of large latents have large weights, and an error of theirs costs as much as another's
        name = last.removeprefix("g_a.")
        levels = precision.weight_levels(precision.between, precision.between)
        lowered.set_submodule(name, SplitConv2d(lowered.get_submodule(name), levels))  # type: ignore[arg-type]
    return lowered, inputs


def _rounded(
    lowered: nn.Module, inputs: Sequence[np.ndarray], part: str, input: str, options: QuantizeOptions
) -> dict[str, Quantization]:
    """Refit and round a transform's weights in place; returns their scales by the names they will have in the graph."""
    if not options.refit:
        return {}
    name = PARTS[part][0]
    kept = [layer.removeprefix(f"{name}.") for layer in _kept(lowered, part, input, options) if layer.startswith(name)]
    tensors: list[Tensor] = [torch.from_numpy(one) for one in inputs]
    precision = _precision(options)
    scales = round_weights(
        lowered,
        tensors,
        exact_input=True,
        levels=precision.weight_levels(precision.between, precision.between),
        steps=precision.steps,
        float_layers=kept,
        # least squares would shrink latents, which costs more than it gains
        untouched=[layer for layer in kept if f"{name}.{layer}" == _last(lowered, "encoder")],
    )
    outputs = {  # the axis of a weight that the scales are of
        key: int(isinstance(lowered.get_submodule(key.rpartition(".")[0]), nn.ConvTranspose2d)) for key in scales
    }
    return {
        f"{name}.{key}": Quantization(s.numpy(), np.zeros(len(s), np.int8), outputs[key]) for key, s in scales.items()
    }


def _precision(options: QuantizeOptions) -> Precision:
    return Precision.of(options.precision, options.activations, options.weight_bits)


def _kept(lowered: nn.Module, part: str, input: str, options: QuantizeOptions) -> list[str]:
    """Layers left in float: at the scale of the widest channel, 8 bits would change most latents, put out or taken in."""
    kept = list(options.keep)
    if not _precision(options).float_latents:
        return kept
    if part == "encoder":
        kept.append(_last(lowered, part))
    elif input == "latents":
        kept.append(f"{PARTS[part][0]}.{next(name for name, _ in lowered.named_children())}")
    return kept


def _last(lowered: nn.Module, part: str) -> str:
    """The layer that puts out latents or the picture."""
    return f"{PARTS[part][0]}.{[name for name, _ in lowered.named_children()][-1]}"


def _calibrated(
    lowered: nn.Module,
    inputs: Sequence[np.ndarray],
    part: str,
    input: str,
    known: dict[str, Quantization],
    options: QuantizeOptions,
    factor: int,
) -> tuple[onnx.ModelProto, TransformGraph]:
    """The float graph of a transform, and the transform quantized."""
    precision = _precision(options)
    name, _, output = PARTS[part]
    size = latent_size(options.height, options.width, factor if part == "decoder" else 1)
    shape = open_shape(input, inputs[0].shape[1], size)
    model = to_onnx(trace(lowered, input=input, shape=shape, output=output, prefix=name), options.opset)
    if input != "latents":
        known = known | {input: precision.split_inputs if part == "decoder" else precision.picture}
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:  # zero insertion moves the input's integers, and changes none
        if node.input[0] in known and (node.op_type == "Resize" or (node.op_type == "Mul" and node.input[1] in stored)):
            known[node.output[0]] = known[node.input[0]]
    constants = graph.weights(model)
    for node in model.graph.node:
        if node.op_type == "Clip":
            known |= dict.fromkeys((node.input[0], node.output[0]), precision.clipped(float(constants[node.input[2]])))
    keep = _kept(lowered, part, input, options)
    if part == "decoder" and (last := _last(lowered, part)) not in keep:
        ends = ("Conv", "ConvTranspose", "DepthToSpace")
        known |= {
            n.output[0]: precision.picture for n in model.graph.node if graph.layer_of(n) == last and n.op_type in ends
        }
    transform = calibrate(
        model,
        inputs,
        method=options.method,
        percentile=options.percentile,
        precision=precision,
        known=known,
        gdns=[
            f"{PARTS[part][0]}.{key}" for key, layer in lowered.named_children() if isinstance(layer, PlainActivation)
        ],
        keep=keep,
    )
    return model, transform
