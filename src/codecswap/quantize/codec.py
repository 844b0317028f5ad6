"""Quantize a codec's transforms in memory: lower, equalize, refit and round weights, estimate ranges."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import Form, Part
from codecswap.entropy.bitstream import to_symbols
from codecswap.errors import UserError
from codecswap.graph.leaves import INPUT, leaves
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.split_inputs import SplitInputs
from codecswap.layers.gdn import PlainActivation
from codecswap.layers.upsampling import ConstantMask
from codecswap.quantize.adapt import leave_in_float, reduce_ranges
from codecswap.quantize.copies import copy_channels
from codecswap.quantize.equalize import equalize
from codecswap.quantize.gains import latent_weight
from codecswap.quantize.hyper_synthesis import latent_bits
from codecswap.quantize.ranges import coarse_divisors, quantize_graph
from codecswap.quantize.rounding import round_weights, split_weights
from codecswap.quantize.scheme import FLOAT, SPLIT, WIDE, Frontier, Scheme
from codecswap.quantize.signals import Signals, fit_signals, varied
from codecswap.quantized.precision import Precision
from codecswap.quantized.representation import Quantization, TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis

TRANSFORMS = {"decoder": ("g_s", "split_inputs", "picture"), "encoder": ("g_a", "picture", "latents")}
"""Transform, input and output of each network."""
WEIGHED = 4
"""Number of samples on which the errors of latents are weighed."""
STEPS = 3
"""Progress steps per network: equalize, refit and round weights, estimate ranges."""


@dataclass(frozen=True)
class Samples:
    """Pictures of one size for quantization, with their symbols and means."""

    pictures: Sequence[np.ndarray]
    """``(3, H, W)``, float32 in [0, 1]."""
    symbols: Sequence[np.ndarray]
    """``(M, h, w)``, int32."""
    means: Sequence[np.ndarray]
    """Means of the latents, or their medians, ``(M, h, w)``."""


@dataclass(frozen=True)
class QuantizedNetwork:
    """A quantized encoder or decoder."""

    transform: TransformGraph
    float_transform: TransformGraph | None = None
    """Float transform before its weights were refitted; None after quantization-aware training."""
    feeds: Sequence[np.ndarray] = ()
    """Inputs of the samples, ``(1, C, H, W)``."""
    stopped: Mapping[str, str] = field(default_factory=dict)
    """Layers whose outputs equalization did not rescale, and why (`codecswap.quantize.equalize.equalize`)."""
    finer: tuple[str, ...] = ()
    """GDN layers of an encoder that got more precision than asked for (`codecswap.quantize.ranges.coarse_divisors`)."""


@dataclass(frozen=True)
class Lowered:
    """A lowered float transform with its inputs, before quantization."""

    transform: nn.Module
    inputs: list[np.ndarray]
    """Inputs of the samples, ``(1, C, H, W)``."""
    split_inputs: SplitInputs | None = None
    """Layout of the inputs; None if they are pictures or latents."""
    stopped: Mapping[str, str] = field(default_factory=dict)
    """As in `QuantizedNetwork`."""
    signals: Mapping[str, Signals] = field(default_factory=dict)
    """Result of `codecswap.quantize.signals.fit_signals`."""


@dataclass(frozen=True)
class QuantizedCodec:
    """Result of `quantize`."""

    precision: str
    networks: Mapping[str, QuantizedNetwork]
    """The quantized networks, by ``decoder`` and ``encoder``."""
    split_inputs: SplitInputs | None
    """Input layout of the decoder; None if it takes latents, or was not quantized."""
    remedies: tuple[tuple[str, str], ...] = ()
    """The scheme's (`Scheme.remedies`)."""
    frontier: Frontier | None = None
    """How the remedies were found, if there was a budget."""


def encode_samples(
    codec: Codec, pictures: Sequence[np.ndarray], advance: Callable[[int], None] = lambda steps: None
) -> Samples:
    """Encode pictures ``(3, H, W)`` of one size, a multiple of `Codec.multiple`; ``advance(1)`` is called after each.

    The pictures of a codec with variable rate take turns with its gains.
    """
    torch_codec, made, gains = TorchCodec(codec), [], codec.gains[::-1] or (None,)
    for index, picture in enumerate(pictures):
        made.append(to_symbols(torch_codec, picture, gains[index % len(gains)]))
        advance(1)
    return Samples(pictures, [one.symbols for one in made], [one.means for one in made])


def quantize(
    codec: Codec,
    samples: Samples,
    scheme: Scheme,
    *,
    part: Part = "decoder",
    form: Form = "native",
    size: tuple[int, int] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> QuantizedCodec:
    """Quantize a codec's transforms; the codec is not changed.

    A decoder from quantization-aware training is used unchanged.

    Args:
        samples: used to estimate ranges and to fit weights.
        part: ``decoder``, ``encoder`` or ``both``.
        form: lowering of upsampling layers (`codecswap.graph.lower.lower`).
        size: height and width of the pictures, if fixed.
        advance: called with 1 after each of the `STEPS` of each network.

    Raises:
        UserError: ``scheme.keep`` names a layer that the codec lacks, or a layer has no such lowering.
    """
    check_layers(codec, scheme)
    networks: dict[str, QuantizedNetwork] = {}
    split_inputs, precision, remedies = None, scheme.precision, scheme.remedies
    for name in TRANSFORMS:
        if part not in (name, "both"):
            continue
        if name == "decoder" and isinstance(decoder := codec.g_s, QuantizedSynthesis):
            split_inputs, precision, remedies = decoder.split_inputs, decoder.precision, decoder.remedies
            networks[name] = QuantizedNetwork(decoder.transform(_latents(size, codec)))
            advance(STEPS)
            continue
        if name == "decoder":
            copies = scheme.copies if not _precision(scheme).is_wide else 0.0
            start = lowered_decoder(
                codec,
                samples,
                form=form,
                equalized=scheme.equalize,
                copies=copies,
                fitted=not _precision(scheme).is_wide,
            )
            split_inputs = start.split_inputs
        else:
            start = _lowered_encoder(codec, samples, scheme)
        lowered, inputs = start.transform, start.inputs
        advance(1)
        input = "latents" if name == "decoder" and split_inputs is None else TRANSFORMS[name][1]
        shape = open_shape(input, inputs[0].shape[1], _latents(size, codec) if name == "decoder" else size)
        prefix, _, output = TRANSFORMS[name]
        # a copy, since its weights will change
        reference = trace(copy.deepcopy(lowered), input=input, shape=shape, output=output, prefix=prefix)
        finer, weight = list[str](), None
        if name == "encoder":
            finer = coarse_divisors(reference, inputs, _precision(scheme).inside)
            weight = latent_weight(codec, torch.from_numpy(np.stack(samples.pictures[:WEIGHED])))
        chosen = scheme if _precision(scheme).is_wide else replace(scheme, keep=(*scheme.keep, *finer))
        known = _round(start, name, input, chosen, weight)
        advance(1)
        made = _quantized(start, name, known, chosen, reference, finer, weight)
        stopped = {f"{prefix}.{layer}": why for layer, why in start.stopped.items()}
        networks[name] = replace(made, stopped=stopped, finer=tuple(finer))
        advance(1)
    return QuantizedCodec(precision, networks, split_inputs, remedies)


def quantized_decoder(
    codec: Codec,
    pictures: Sequence[np.ndarray],
    scheme: Scheme,
    *,
    form: Form = "native",
    target: str | None = None,
) -> QuantizedSynthesis:
    """Quantize a codec's decoder for quantization-aware training; the codec is not changed.

    Args:
        pictures: pictures for quantization, ``(3, H, W)`` of one size, float32 in [0, 1].
        scheme: quantization scheme of the device.
        form: lowering of upsampling layers; one that needs a fixed size is replaced by ``subpixel``.
        target: name of the toolchain; None: any device that reads QDQ files.
    """
    samples, form = for_training(codec, pictures, form)
    made = quantize(codec, samples, scheme, form=form)
    return trainable(codec, made, target)


def for_training(codec: Codec, pictures: Sequence[np.ndarray], form: Form) -> tuple[Samples, Form]:
    """Samples, and a lowering that fits every size, for a decoder that is trained; arguments as in `quantized_decoder`."""
    if any(isinstance(layer, ConstantMask) for layer in codec.g_s.modules()):
        form = "subpixel"  # a mask has one size
    height, width = (side - side % codec.multiple for side in pictures[0].shape[1:])
    return encode_samples(codec, [picture[:, :height, :width] for picture in pictures]), form


def trainable(codec: Codec, made: QuantizedCodec, target: str | None = None) -> QuantizedSynthesis:
    """The decoder of a quantized codec as a module for training; arguments as in `quantized_decoder`."""
    medians = np.zeros(codec.M) if codec.hyperprior else codec.entropy_tables().medians
    return QuantizedSynthesis(
        made.networks["decoder"].transform,
        made.split_inputs,
        medians,
        precision=made.precision,
        target=target,
        remedies=made.remedies,
    )


def check_layers(codec: Codec, scheme: Scheme) -> None:
    """Refuse layers of a scheme that a codec does not have.

    Raises:
        UserError: there are such layers; all are named.
    """
    named = {"--keep": scheme.keep, "remedies": [layer for layer, _ in scheme.remedies]}
    if not any(named.values()):
        return
    names = layer_names(codec)
    for option, layers in named.items():
        if unknown := [layer for layer in layers if layer not in names]:
            raise UserError(f"{option} {unknown[0]}: the codec's layers are {', '.join(sorted(names))}.")


def layer_names(codec: Codec) -> set[str]:
    """Names of a codec's layers, e.g. ``g_s.0``."""
    names: set[str] = set()
    for part, _, _ in TRANSFORMS.values():
        transform = codec.get_submodule(part)
        if isinstance(transform, QuantizedSynthesis):
            names |= {step.layer for step in transform.start.operations}
        else:
            names |= {f"{part}.{leaf.layer}" for leaf in leaves(transform).steps}
    return names


def _latents(size: tuple[int, int] | None, codec: Codec) -> tuple[int, int] | None:
    return (size[0] // codec.factor, size[1] // codec.factor) if size else None


def lowered_decoder(
    codec: Codec, samples: Samples, *, form: Form, equalized: bool = True, copies: float = 0.0, fitted: bool = False
) -> Lowered:
    """The lowered float synthesis transform that is quantized.

    It takes split inputs; or latents, where `take_split_inputs` finds no place for them. Latents that a context model predicts
    in floating point are rounded to the unit of the split inputs.

    Args:
        equalized: equalize the ranges of its channels.
        copies: `Scheme.copies`.
        fitted: fit scales and ranges of 8-bit tensors around inverse GDNs (`codecswap.quantize.signals`).
    """
    lowered, pairs = lower(codec.g_s, form), list(zip(samples.symbols, samples.means, strict=True))
    latents = [symbols.astype(np.float32) + means for symbols, means in pairs]
    given = [torch.from_numpy(one)[None] for one in latents]
    stopped = equalize(lowered, given) if equalized else {}
    signals: dict[str, Signals] = {}
    if equalized and fitted:
        more = encode_samples(codec, varied(samples.pictures))
        others = [symbols.astype(np.float32) + means for symbols, means in zip(more.symbols, more.means, strict=True)]
        signals = fit_signals(lowered, given, [torch.from_numpy(one)[None] for one in others])
    if copies:
        copy_channels(lowered, given, copies, signals)
    if (taken := take_split_inputs(lowered, *_layout(codec, latents))) is None:
        return Lowered(lowered, [one[None] for one in latents], stopped=stopped, signals=signals)
    lowered, split_inputs = taken
    return Lowered(lowered, [split_inputs.split(*pair)[None] for pair in pairs], split_inputs, stopped, signals)


def _layout(codec: Codec, latents: Sequence[np.ndarray]) -> tuple[SplitInputs, np.ndarray]:
    """Layout of a decoder's split inputs, and the medians of the latents."""
    if codec.hyperprior:
        return SplitInputs.for_latents(latents, latent_bits(codec.hyperprior)), np.zeros(codec.M, np.float32)
    tables = codec.entropy_tables()
    return SplitInputs.for_tables(tables), tables.medians


def _lowered_encoder(codec: Codec, samples: Samples, scheme: Scheme) -> Lowered:
    lowered, inputs = lower(codec.g_a, prefix="g_a"), [picture[None] for picture in samples.pictures]
    stopped = equalize(lowered, [torch.from_numpy(one) for one in inputs]) if scheme.equalize else {}
    return Lowered(lowered, inputs, stopped=stopped)


def _round(start: Lowered, part: str, input: str, scheme: Scheme, weight: Tensor | None) -> dict[str, Quantization]:
    """Refit and round a transform's weights in place; returns their quantization by their names in the graph.

    ``weight``: weights of the squared errors of its output (`codecswap.quantize.gains`).
    """
    lowered, name, precision = start.transform, TRANSFORMS[part][0], _precision(scheme)

    def paths(layers: Collection[str]) -> list[str]:
        return [layer.removeprefix(f"{name}.") for layer in layers if layer.startswith(f"{name}.")]

    kept = _kept(lowered, part, input, scheme)
    last = [_last(lowered, part)] if part == "encoder" else []
    # channels of large latents have large weights, but their errors count the same
    split = paths(scheme.layers(SPLIT))
    split += [
        layer for layer in paths(last) if isinstance(lowered.get_submodule(layer), nn.Conv2d) and last[0] not in kept
    ]
    levels = precision.weight_levels
    if not scheme.refit:
        split_weights(lowered, split, levels)
        return {}
    tensors: list[Tensor] = [torch.from_numpy(one) for one in start.inputs]
    scales = round_weights(
        lowered,
        tensors,
        exact_input=True,
        levels=levels,
        steps=precision.steps,
        float_layers=paths(kept),
        # least squares would shrink latents, which loses more than it gains
        untouched=paths(last),
        split_layers=split,
        wide_layers=paths(scheme.layers(WIDE)),
        output_weight=weight,
        known_ranges={name: range for one in start.signals.values() for name, range in one.ranges.items()},
    )
    split_weights(lowered, split, levels)
    outputs = {  # channel axis of the scales of each weight
        key: int(isinstance(lowered.get_submodule(key.rpartition(".")[0]), nn.ConvTranspose2d)) for key in scales
    }
    return {
        f"{name}.{key}": Quantization(s.numpy(), np.zeros(len(s), np.int8), outputs[key]) for key, s in scales.items()
    }


def _precision(scheme: Scheme) -> Precision:
    return Precision.of(scheme.precision, scheme.activations, scheme.weight_bits, scheme.largest_weight)


def _kept(lowered: nn.Module, part: str, input: str, scheme: Scheme) -> list[str]:
    """Layers left in float: one 8-bit scale for all channels of the latents would change most of them."""
    kept = [*scheme.keep, *scheme.layers(FLOAT)]
    if not _precision(scheme).float_latents:
        return kept
    if part == "encoder":
        kept.append(_last(lowered, part))
    elif input == "latents":
        kept += [f"{TRANSFORMS[part][0]}.{leaf.layer}" for leaf in leaves(lowered).consumers(INPUT)]
    return kept


def _last(lowered: nn.Module, part: str) -> str:
    """Name of the layer whose output is the latents or the picture."""
    found = leaves(lowered)
    return f"{TRANSFORMS[part][0]}.{next(leaf.layer for leaf in found.steps if leaf.name == found.output)}"


def _quantized(
    start: Lowered,
    part: str,
    known: dict[str, Quantization],
    scheme: Scheme,
    reference: TransformGraph,
    finer: Sequence[str],
    weight: Tensor | None,
) -> QuantizedNetwork:
    lowered, precision, (prefix, _, output) = start.transform, _precision(scheme), TRANSFORMS[part]
    input = reference.input
    keep = _kept(lowered, part, input, scheme)
    gdns = [f"{prefix}.{key}" for key, layer in lowered.named_modules() if isinstance(layer, PlainActivation)]
    if input != "latents":
        known = known | {input: precision.split_inputs if part == "decoder" else precision.picture}
    if part == "decoder" and _last(lowered, part) not in keep:
        known = known | {output: precision.picture}
    graph = trace(lowered, input=input, shape=reference.input_shape, output=output, prefix=prefix)
    transform = quantize_graph(
        graph,
        start.inputs,
        precision,
        known=known,
        gdns=[name for name in gdns if name not in finer],
        keep=keep,
        wide=scheme.layers(WIDE),
        # with piecewise-linear roots and clipped norms, ONNX Runtime was 33 dB from what a file says; the cause is not known
        clip=all(step.operator != "Relu" for step in graph.operations),
        weight=weight,
        signals={f"{prefix}.{path}": (one.range, one.root_range) for path, one in start.signals.items()},
    )
    if scheme.reduced_range:
        transform = reduce_ranges(transform)
    return QuantizedNetwork(leave_in_float(transform, scheme.float_results), reference, start.inputs)
