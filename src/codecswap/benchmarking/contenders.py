"""What a benchmark compares: files of one decoder in every form and precision, or folders that are there already."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecswap.benchmarking.files import FileCodec
from codecswap.benchmarking.machines import Machine
from codecswap.benchmarking.runtimes import RUNTIMES, configuration, missing
from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile.compiler import REPORT
from codecswap.config import Form, QuantizeOptions
from codecswap.data.samples import CROP, calibration_pictures
from codecswap.entropy.bitstream import Quantized
from codecswap.errors import UserError
from codecswap.export.backends.engines import ENGINES, file_of
from codecswap.export.backends.onnx import decoder_graph, to_onnx
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.export.folder import to_float16, write_codec
from codecswap.inference.folder import network_bytes
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.split_inputs import SplitInputs
from codecswap.inference.wide_activations import in_float
from codecswap.layers.upsampling import ConstantMask, MaskedConv, SubpixelConv, UpsampleConv2d
from codecswap.quantize.codec import QuantizedCodec, encode_samples, quantize
from codecswap.quantize.scheme import COPIES, Scheme
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.representation import TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.source import EXACT
from codecswap.swaps.apply import swap
from codecswap.targets.target import load_target

Size = tuple[int, int]
"""Width and height of a picture."""
Feeds = dict[str, np.ndarray]
OPSET = 13
SUFFIXES = {"onnx": (), "tflite": (".tflite",), **{name: engine.suffixes for name, engine in ENGINES.items()}}
SUFFIXES |= {"rknn": (".rknn",), "vela": ("_vela.tflite",), "qnn": (".onnx",)}
"""Ends of the names of a compiled folder's files, by the kind of file in `RUNTIMES`; ONNX's is in codec.json."""


@dataclass(frozen=True)
class Contender:
    """One row to measure: a decoder in one form and precision, and the runtime that runs it."""

    source: str
    """The codec, folder or file, as text."""
    form: str
    precision: str
    runtime: str
    """A name in `codecswap.benchmarking.runtimes.RUNTIMES`."""
    refused: str = ""
    """Why there is nothing to run, as a sentence."""
    size: Size | None = None
    """The only size of pictures that it takes; None: any."""
    network: Callable[[Size], bytes] = lambda size: b""
    """The file for a size of pictures, as it would be on disk."""
    opened: Callable[[bytes], bytes] = bytes
    """Changes a file as this package does before a runtime opens it."""
    feeds: Callable[[Any], Feeds] = lambda feeds: feeds
    """Inputs of the network, ``(1, C, h, w)``, of rounded latents or of what else a sample has."""
    coded: Callable[[np.ndarray], Quantized] | None = None
    """What it decodes, of latents before rounding; None: the reference's rounded latents."""
    file_codec: Callable[[], FileCodec] | None = None
    """What reads and writes .csw files for it; None: it is no codec's."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """For the runner."""


class Forms:
    """Files of one codec's decoder.

    Args:
        codec: a teacher or a student.
        advance: called with a text before something that takes seconds.
    """

    def __init__(self, codec: Codec, advance: Callable[[str], None] = lambda text: None) -> None:
        self._codec, self._advance = codec, advance
        self._quantized: dict[tuple[str, Scheme], QuantizedCodec] = {}
        self._folder = tempfile.TemporaryDirectory()

    def onnx(self, form: Form, precision: str, scheme: Scheme | None, size: Size) -> bytes:
        """The decoder as ``export`` and ``quantize`` write it, of a fixed size."""
        transform = self.transform(form, scheme, size)
        if scheme:
            return qdq_model(transform, OPSET).SerializeToString()
        model = to_onnx(transform, OPSET)
        return (to_float16(model) if precision == "float16" else model).SerializeToString()

    def tflite(self, form: Form, scheme: Scheme | None, size: Size) -> bytes:
        """The decoder as a TFLite file."""
        try:
            from codecswap.export.backends.tflite import tflite
        except ModuleNotFoundError:
            raise UserError("TFLite files are written with ai-edge-litert: pip install ai-edge-litert here.") from None
        return tflite(self.transform(form, scheme, size))

    def engine(self, name: str, form: Form, precision: str, size: Size) -> bytes:
        """The decoder as an engine's files, in one (`codecswap.export.backends.engines`)."""
        model = to_onnx(self.transform(form, None, size), OPSET)
        return file_of(ENGINES[name].convert(model, half=precision == "float16").files)

    def module(self, form: Form) -> bytes:
        """The decoder of PyTorch, pickled."""
        codec = self._codec
        if form != "native" and any(isinstance(layer, torch.nn.ConvTranspose2d) for layer in codec.g_s.modules()):
            codec, _ = swap(codec, EXACT[form])
        elif form != "native":
            raise UserError(f"In PyTorch this student has its own layers only, not --form {form}.")
        file = io.BytesIO()
        torch.save(codec.g_s, file)
        return file.getvalue()

    def split_inputs(self, form: Form, scheme: Scheme | None) -> SplitInputs | None:
        """Layout of the input of a quantized decoder, if it takes no latents."""
        return self._made(form, scheme).split_inputs if scheme else None

    def file_codec(self, form: Form, scheme: Scheme | None) -> FileCodec:
        """What reads and writes .csw files for a decoder.

        Raises:
            UserError: the C library does not read the codec's files.
        """
        folder = Path(self._folder.name)
        if not any(folder.iterdir()):
            write_codec(folder, self._codec, {}, name="", precision="")
        return FileCodec(folder, self.split_inputs(form, scheme), TorchCodec(self._codec).hyper_analyze)

    def transform(self, form: Form, scheme: Scheme | None, size: Size) -> TransformGraph:
        """The decoder as data, of a fixed size."""
        if scheme is None:
            return decoder_graph(self._codec, form=form, size=size[::-1])
        return resized(self._made(form, scheme).networks["decoder"].transform, size, self._codec.factor)

    def _made(self, form: Form, scheme: Scheme) -> QuantizedCodec:
        """Quantized once for all sizes, since ranges do not depend on them."""
        if (key := (form, scheme)) not in self._quantized:
            self._advance(f"Quantize: {form}, {scheme.precision}")
            pictures = list(calibration_pictures(None, None, QuantizeOptions.calibration_count))
            fixed = form == "masked" or any(isinstance(one, ConstantMask) for one in self._codec.g_s.modules())
            samples = encode_samples(self._codec, pictures)
            size = CROP[::-1] if fixed else None
            self._quantized[key] = quantize(self._codec, samples, scheme, form=form, size=size)
        return self._quantized[key]


def resized(transform: TransformGraph, size: Size, factor: int) -> TransformGraph:
    """A decoder for pictures of another width and height; its masks, which repeat every two pixels, are made anew."""
    width, height = size
    constants = dict(transform.constants)
    for step in transform.operations:
        for name in step.inputs if step.operator == "Mul" else ():
            constant = constants.get(name)
            if constant is not None and constant.values.shape[-1] > 1:
                before = [int(side) for side in transform.input_shape[-2:]]
                sides = [
                    length * side // factor // old
                    for length, side, old in zip(constant.values.shape[-2:], (height, width), before, strict=True)
                ]
                repeats = [-(-side // length) for side, length in zip(sides, constant.values.shape[-2:], strict=True)]
                values = np.tile(constant.values, (1, 1, *repeats))[..., : sides[0], : sides[1]]
                constants[name] = replace(constant, values=np.ascontiguousarray(values))
    return replace(
        transform,
        input_shape=(1, transform.input_shape[1], height // factor, width // factor),
        output_shape=(1, 3, height, width),
        constants=constants,
    )


def of_codec(
    codec: Codec,
    name: str,
    forms: Sequence[Form],
    precisions: Sequence[str],
    runtimes: Sequence[str],
    files: Forms,
    machine: Machine,
) -> Iterator[Contender]:
    """Every form, precision and runtime of a codec; a runtime that is missing is one row.

    Args:
        codec: a teacher or a student.
        name: its source, as text.
        forms, precisions, runtimes: names to take.
        files: makes its files.
        machine: where it will run.
    """
    trained = codec.g_s.precision if isinstance(codec.g_s, QuantizedSynthesis) else None
    # without such layers, as in a quantized decoder, all forms are equal
    rewritten = (torch.nn.ConvTranspose2d, UpsampleConv2d, SubpixelConv, MaskedConv)
    several = any(isinstance(layer, rewritten) for layer in codec.g_s.modules())
    for runtime in (one for one in runtimes if not RUNTIMES[one].toolchain):
        if reason := missing(runtime, machine):
            yield Contender(name, "", "", runtime, refused=reason)
            continue
        known = RUNTIMES[runtime]
        for form in forms if several else ("native",):
            for precision in known.precisions:
                if precision in precisions and trained in (None, precision):
                    yield _of_codec(codec, name, form, precision, runtime, files, machine.wide_sums)  # type: ignore[arg-type]


def _of_codec(
    codec: Codec, name: str, form: Form, precision: str, runtime: str, files: Forms, wide_sums: bool
) -> Contender:
    known, scheme = RUNTIMES[runtime], None
    if precision in PRECISIONS:
        scheme = load_target(known.target).scheme(precision) if known.target else Scheme(precision, copies=COPIES)

    def network(size: Size) -> bytes:
        if known.file == "module":
            return files.module(form)
        if known.file == "tflite":
            return files.tflite(form, scheme, size)
        if known.file in ENGINES:
            return files.engine(known.file, form, precision, size)
        return files.onnx(form, precision, scheme, size)

    def feeds(coded: Quantized) -> Feeds:
        if split := files.split_inputs(form, scheme):
            return {"split_inputs": split.split(coded.symbols, coded.means)[None]}
        return {"latents": (coded.symbols.astype(np.float32) + coded.means)[None]}

    config, opened = configuration(runtime, precision, wide_sums), in_float if known.file == "onnx" else bytes
    return Contender(
        name,
        form,
        precision,
        runtime,
        network=network,
        opened=opened,
        feeds=feeds,
        file_codec=lambda: files.file_codec(form, scheme),
        config=config,
    )


def read_report(folder: Path) -> dict[str, Any]:
    """What `codecswap compile` says of its folder (report.json); empty for others, and where it is damaged."""
    try:
        return dict(json.loads((folder / REPORT).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def of_folder(folder: Path, codec: Codec, runtimes: Sequence[str], machine: Machine) -> Iterator[Contender]:
    """A folder of ``export``, ``quantize`` or ``compile`` in each runtime that reads its files.

    Raises:
        UserError: it is no folder of this codec, or has no decoder.
    """
    reference = TorchCodec(codec)
    opened = OnnxCodec(folder).with_entropy(reference.entropy)
    manifest = opened.manifest
    if manifest.tables_sha256 != codec.entropy_tables().digest().hex():
        raise UserError(f"{folder} is of another codec (its entropy tables differ): name its own with --teacher.")
    if manifest.decoder is None:
        raise UserError(f"{folder} has no decoder: export it with --part both or --part decoder.")
    network = manifest.decoder
    size = (manifest.width, manifest.height) if manifest.width and manifest.height else None

    def feeds(coded: Quantized) -> Feeds:
        return {network.input: opened.decoder_input(coded.symbols, coded.means)[None]}

    compiled = read_report(folder)
    for runtime in runtimes:
        kind, toolchain = RUNTIMES[runtime].file, RUNTIMES[runtime].toolchain
        if toolchain and toolchain != compiled.get("toolchain"):
            continue
        paths = [folder / f"decoder{suffix}" for suffix in SUFFIXES.get(kind, ())]
        if kind == "module" or not all(path.is_file() for path in paths):
            continue
        content = file_of(tuple(path.read_bytes() for path in paths)) if paths else network_bytes(folder, network)
        yield Contender(
            str(folder),
            manifest.replacement,
            str(compiled["precision"]) if toolchain else manifest.precision,
            runtime,
            refused=missing(runtime, machine) or "",
            size=size,
            network=lambda size, content=content: content,  # type: ignore[misc]
            opened=in_float if kind == "onnx" else bytes,
            feeds=feeds,
            coded=lambda latents: opened.entropy.quantize(latents, reference.hyper_analyze),
            file_codec=lambda: FileCodec(folder, manifest.split_inputs, reference.hyper_analyze),
            config=configuration(runtime, manifest.precision, machine.wide_sums),
        )
