"""Write the folder of a codec: its networks, its entropy tables, and codec.json."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import onnx
from onnx import ModelProto

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import Form, Part
from codecswap.data.samples import VERIFIED_ON, sample_pictures
from codecswap.entropy.hyper_synthesis import IntegerNetwork
from codecswap.errors import UserError
from codecswap.export.backends.onnx import DecoderInput, decoder_graph, encoder_graph, hyper_encoder_graph, to_onnx
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.files import atomic_write
from codecswap.graph import onnx_graph
from codecswap.inference.check import measure_agreement, require_agreement, write_checks
from codecswap.inference.folder import read_folder, write_folder
from codecswap.inference.manifest import Manifest, RateLevels, describe_network, describe_side
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.split_inputs import SplitInputs
from codecswap.quantize.codec import QuantizedCodec, QuantizedNetwork, Samples
from codecswap.quantize.hyper_synthesis import integer_layers, integer_network
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.record import describe_swaps

Size = tuple[int, int]
"""Height and width."""
RANGE_PICTURES, RANGE_SIZE = 8, (256, 256)
"""Number of pictures, and their width and height, to estimate ranges of the integer hyper-synthesis on."""


def check_size(codec: Codec, size: Size | None) -> None:
    """Refuse an impossible fixed size.

    Args:
        size: height and width of the pictures, if fixed.

    Raises:
        UserError: see there.
    """
    for name, length in zip(("height", "width"), size or (), strict=False):
        if length % codec.multiple:
            padded = -(-length // codec.multiple) * codec.multiple
            raise UserError(f"--{name} is a multiple of {codec.multiple} for this codec, not {length}: take {padded}.")


def check_operators(codec: Codec, part: Part, form: Form, size: Size | None) -> None:
    """Refuse a codec with a layer that files cannot have, before anything is computed.

    Args:
        part, form, size: what will be written, as in `write_float`.

    Raises:
        UserError: there is such a layer; the first is named.
    """
    if part != "encoder" and not isinstance(codec.g_s, QuantizedSynthesis):
        decoder_graph(codec, form=form, size=size)
    if part != "decoder":
        encoder_graph(codec, size)
    if codec.hyperprior:
        hyper_encoder_graph(codec.hyperprior, size)
        if not codec.has_context:
            integer_layers(codec.hyperprior)


def write_float(
    codec: Codec,
    folder: Path,
    *,
    name: str = "",
    part: Part = "both",
    form: Form = "native",
    opset: int = 13,
    size: Size | None = None,
    input: DecoderInput = "latents",
    fp16: bool = False,
) -> Manifest:
    """Write a codec's networks in float, its entropy tables and codec.json.

    Args:
        codec: a teacher or a student, in float.
        folder: created if missing; other files in it are kept.
        name: where the codec comes from, in words.
        part: ``decoder``, ``encoder`` or ``both``: the networks to write.
        form: lowering of upsampling layers: ``native``, ``masked`` or ``subpixel``.
        opset: ONNX's, 11 to 20.
        size: height and width of the pictures, multiples of `Codec.multiple`; None: any.
        input: input of the decoder: rounded ``latents``, or ``symbols``, the entropy coder's integers.
        fp16: weights and arithmetic in float16; inputs and outputs stay float32.

    Raises:
        UserError: the codec has no such lowering, size or input, or cannot be exported.
    """
    check_size(codec, size)
    graphs = {}
    if part != "encoder":
        graphs["decoder"] = decoder_graph(codec, form=form, size=size, input=input)
    if part != "decoder":
        graphs["encoder"] = encoder_graph(codec, size)
        if codec.hyperprior:
            graphs["hyper_encoder"] = hyper_encoder_graph(codec.hyperprior, size)
    models = {key: to_onnx(made, opset) for key, made in graphs.items()}
    if fp16:
        models = {key: to_float16(model) for key, model in models.items()}
    precision = "float16" if fp16 else "float32"
    return write_codec(folder, codec, models, name=name, precision=precision, size=size)


def write_quantized(
    codec: Codec,
    networks: QuantizedCodec,
    folder: Path,
    *,
    name: str = "",
    opset: int = 13,
    size: Size | None = None,
) -> Manifest:
    """Write the networks of `codecswap.quantize.codec.quantize`; arguments as in `write_float`, opsets 13 to 20.

    The hyper-encoder, if there is one, is written in float: it runs at a 64th of the picture's size.
    """
    check_size(codec, size)
    models = {part: qdq_model(network.transform, opset) for part, network in networks.networks.items()}
    if "encoder" in models and codec.hyperprior:
        models["hyper_encoder"] = to_onnx(hyper_encoder_graph(codec.hyperprior, size), opset)
    return write_codec(
        folder,
        codec,
        models,
        name=name,
        precision=networks.precision,
        size=size,
        split_inputs=networks.split_inputs,
        remedies=networks.remedies,
    )


def to_float16(model: ModelProto) -> ModelProto:
    """Convert a network to float16; input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    made = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    made.topological_sort()  # the casts of the inputs are last
    onnx.checker.check_model(made.model, full_check=True)
    return made.model


def write_codec(
    folder: Path,
    codec: Codec,
    models: Mapping[str, ModelProto],
    *,
    name: str,
    precision: str,
    size: Size | None = None,
    split_inputs: SplitInputs | None = None,
    remedies: Collection[tuple[str, str]] = (),
) -> Manifest:
    """Write a codec's folder; other files in an existing folder are kept.

    Args:
        codec: its sizes, tables and hyper-synthesis are written.
        models: networks by name (``encoder``, ``decoder``, ``hyper_encoder``); each is written as NAME.onnx. Empty: entropy
            coding alone.
        name: where the codec comes from, in words.
        precision: precision of the networks.
        size: height and width of the pictures, where they are fixed.
        split_inputs: input layout of the decoder; None: it takes latents or symbols.
        remedies: `codecswap.quantize.codec.QuantizedCodec.remedies`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = {}
    for part, model in models.items():
        with atomic_write(folder / f"{part}.onnx") as beside:
            onnx.save(model, beside)
        ends = (model.graph.input[0].name, model.graph.output[0].name)
        networks[part] = describe_network(folder / f"{part}.onnx", *ends)
    tables = codec.entropy_tables()
    side, described, rates = None, None, None if codec.has_context else codec.rates()
    if codec.hyperprior:
        gaussians, predictor = codec.hyperprior.gaussian_tables(), codec.entropy_model().predictor
        if not codec.has_context:  # else PyTorch alone predicts
            predictor = _integers_of(codec.hyperprior)
            side = gaussians, predictor
        assert predictor
        described = describe_side(codec.hyperprior.hyper_factor, gaussians, predictor)
    height, width = size or (None, None)
    manifest = Manifest(
        name=name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        passes=codec.passes,
        replacement=describe_swaps(codec),
        precision=precision,
        remedies=dict(remedies),
        opset=max(map(onnx_graph.opset, models.values()), default=1),
        height=height,
        width=width,
        encoder=networks.get("encoder"),
        decoder=networks.get("decoder"),
        split_inputs=split_inputs,
        tables_sha256=tables.digest().hex(),
        hyper_encoder=networks.get("hyper_encoder"),
        side=described,
        rates=RateLevels.of(rates) if rates else None,
    )
    write_folder(folder, manifest, tables, side, rates)
    return manifest


def add_checks(folder: Path, samples: Samples) -> dict[str, float]:
    """Compare ONNX Runtime with the files' reference execution, and write the stored checks, which are coded pictures.

    A folder with a context model has none: it cannot read them.

    Returns: the agreement of each network, in dB (`codecswap.inference.check.measure_agreement`).

    Raises:
        UserError: they differ by more than rounding.
    """
    exact = OnnxCodec(folder, reference=True)
    first = (samples.pictures[:VERIFIED_ON], samples.symbols[:VERIFIED_ON], samples.means[:VERIFIED_ON])
    agreements = measure_agreement(OnnxCodec(folder), exact, *first)
    for part, found in agreements.items():
        require_agreement(Path(getattr(exact.manifest, part).file), found)
    manifest, tables = read_folder(folder)
    if manifest.has_context:
        return agreements
    checks = write_checks(exact, samples.pictures, samples.symbols, samples.means)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checks}
    write_folder(folder, replace(manifest, checks=digests), tables)
    return agreements


def agreement_sentences(agreements: Mapping[str, float]) -> list[str]:
    """The agreements of `add_checks`, as sentences."""
    return [
        f"ONNX Runtime's {part} against the file's reference execution: {min(found, 120):.1f} dB."
        for part, found in agreements.items()
    ]


def equalization_sentences(network: QuantizedNetwork) -> list[str]:
    """Where equalization stopped: one sentence per reason."""
    layers: dict[str, list[str]] = {}
    for layer, reason in network.stopped.items():
        layers.setdefault(reason, []).append(layer)
    return [
        f"Not equalized, because {reason}: what {', '.join(names[:3])}{f' and {len(names) - 3} others' * (len(names) > 3)} "
        "put out."
        for reason, names in layers.items()
    ]


def finer_sentence(network: QuantizedNetwork) -> str:
    """Which layers got more precision than asked for; empty if none."""
    if not network.finer:
        return ""
    how = (
        "has 16 bits"
        if any(value.zero_point.dtype.itemsize == 2 for value in network.transform.activations.values())
        else ("stays in float")
    )
    return f"{', '.join(network.finer)} {how}: 8 bits would round to 0 what its GDN divides by."


def _integers_of(codec: HyperCodec) -> IntegerNetwork:
    """The integer hyper-synthesis, with ranges estimated on the package's training photographs."""
    torch_codec = TorchCodec(codec)
    symbols = []
    for sample in islice(sample_pictures(None, "", "train", RANGE_SIZE), RANGE_PICTURES):
        symbols.append(torch_codec.tables.to_symbols(torch_codec.hyper_analyze(torch_codec.analyze(sample))))
    return integer_network(codec, symbols)
