"""Write encoder and decoder as ONNX files for NPU converters: few operators, an old opset, no unused nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.graph.lower import lower
from codecswap.graph.trace import open_shape, trace
from codecswap.quantized.representation import Constant, Operation, TransformGraph

DecoderInput = Literal["latents", "symbols"]
"""Input of a decoder: rounded latents y_hat, or the integers ``y_hat - median`` of the entropy coder."""

NO_REGION = "no_region"
"""Name of an empty tensor."""


def export_decoder(
    codec: Codec,
    path: str | Path,
    *,
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
    form: Form = "native",
    input: DecoderInput = "latents",
) -> None:
    """Write the synthesis transform of a teacher or a student: ``(B, M, H/16, W/16) -> picture (B, 3, H, W)``.

    The picture's values are not clamped to [0, 1]. The codec is not changed.

    Args:
        codec: on any device, float32.
        path: the file; it is written atomically.
        opset: version of ONNX's operator set, 11 to 20.
        height, width: of the picture, in pixels, multiples of 16: fixed in the graph, with a batch of one. None: dynamic.
        form: ``native`` (ConvTranspose; Resize and Conv, with Mul by a constant mask between them for ``masked``; Conv
            and DepthToSpace for ``subpixel``), ``masked`` or ``subpixel``: every such layer rewritten, exactly.
        input: ``latents`` (rounded, y_hat) or ``symbols`` (the integers ``y_hat - median``, as floats).

    Raises:
        UserError: the lowering needs a fixed size or does not fit a layer, a layer has no operator, or the codec has no such
            input.
    """
    size = (height, width) if height and width else None
    write_onnx(decoder_graph(codec, form=form, size=size, input=input), path, opset)


def decoder_graph(
    codec: Codec, *, form: Form = "native", size: tuple[int, int] | None = None, input: DecoderInput = "latents"
) -> TransformGraph:
    """The synthesis transform in float; ``size`` is height and width of the picture, the rest as in `export_decoder`."""
    if input == "symbols" and codec.predicts_means:
        raise UserError(
            "--input symbols is for a factorized prior; this codec's symbols have means of their own: leave it out."
        )
    shape = open_shape(input, codec.M, latent_size(size, codec.factor))
    graph = trace(lower(codec.g_s, form), input=input, shape=shape, output="picture", prefix="g_s")
    return _centered(graph, codec.entropy_tables().medians) if input == "symbols" else graph


def export_encoder(
    codec: Codec,
    path: str | Path,
    *,
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
) -> None:
    """Write the analysis transform: ``picture (B, 3, H, W) in [0, 1] -> latents y (B, M, H/16, W/16)``, before rounding.

    Sides must be multiples of 16 (the caller pads). Arguments and errors as in `export_decoder`.
    """
    write_onnx(encoder_graph(codec, (height, width) if height and width else None), path, opset)


def encoder_graph(codec: Codec, size: tuple[int, int] | None = None) -> TransformGraph:
    """The analysis transform in float; ``size`` is height and width of the picture."""
    shape, tree = open_shape("picture", 3, size), lower(codec.g_a, prefix="g_a")
    return trace(tree, input="picture", shape=shape, output="latents", prefix="g_a")


def hyper_encoder_graph(codec: HyperCodec, size: tuple[int, int] | None = None) -> TransformGraph:
    """The hyper-analysis in float: ``latents y (B, M, h, w) -> hyper-latents z (B, N, h/4, w/4)``, before rounding.

    Sides of the latents are multiples of 4; ``size`` is height and width of the picture.
    """
    shape = open_shape("latents", codec.M, latent_size(size, codec.factor))
    tree = lower(_HyperEncoder(codec), prefix="")
    return trace(tree, input="latents", shape=shape, output="hyper_latents", prefix="")


class _HyperEncoder(nn.Module):
    """Module that computes hyper-latents; of the codec it contains only the hyper-analysis."""

    def __init__(self, codec: HyperCodec) -> None:
        super().__init__()
        self.h_a, self.function = codec.h_a, codec.hyper_latents

    def forward(self, y: Tensor) -> Tensor:
        return self.function(y)


def latent_size(size: tuple[int, int] | None, factor: int) -> tuple[int, int] | None:
    """Height and width in latents for a fixed size of pictures; None if the size is dynamic."""
    return (size[0] // factor, size[1] // factor) if size else None


def write_onnx(graph: TransformGraph, path: str | Path, opset: int) -> None:
    """Write `to_onnx` to a file atomically."""
    model = to_onnx(graph, opset)
    with atomic_write(Path(path)) as beside:
        onnx.save(model, beside)


def to_onnx(graph: TransformGraph, opset: int) -> ModelProto:
    """Convert a float transform to an ONNX model of this opset, 11 or more."""
    graph = replace(graph, operations=tuple(_of_opset(step, opset) for step in graph.operations))
    stored = {name: constant.values for name, constant in graph.constants.items()}
    if any(NO_REGION in step.inputs for step in graph.operations):
        stored[NO_REGION] = np.empty(0, np.float32)
    nodes = [to_node(step, step.inputs, step.output) for step in graph.operations]
    return checked_model(graph, nodes, stored, [helper.make_opsetid("", opset)])


def to_node(step: Operation, inputs: Sequence[str], output: str) -> NodeProto:
    """Convert an operation to a node with these names of inputs and output."""
    return helper.make_node(step.operator, inputs, [output], step.name, **step.attributes)


def checked_model(
    graph: TransformGraph,
    nodes: Sequence[NodeProto],
    stored: Mapping[str, np.ndarray],
    opsets: Sequence[OperatorSetIdProto],
) -> ModelProto:
    """Build and check a model of these nodes and stored tensors, with the input and output of a transform."""
    ends = ((graph.input, graph.input_shape), (graph.output, graph.output_shape))
    given, result = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in ends)
    weights = [numpy_helper.from_array(values, name) for name, values in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "codecswap", given, result, weights),
        producer_name="codecswap",
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets[:1]),
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _of_opset(step: Operation, opset: int) -> Operation:
    """Adapt an operation to opsets below 13."""
    if step.operator == "Resize" and opset < 13:  # it requires the unused input roi
        return replace(step, inputs=(step.inputs[0], NO_REGION, *step.inputs[2:]))
    if step.operator == "Softmax" and opset < 13 and step.attributes["axis"] != -1:
        raise UserError(
            f"Softmax at {step.layer} is not of the last axis, which no opset below 13 has: use --opset 13."
        )
    return step


def _centered(graph: TransformGraph, medians: np.ndarray) -> TransformGraph:
    """Make a decoder take symbols: add the medians ``(M,)`` first."""
    first, given = f"{graph.input}/Add", ("medians", graph.input)
    added = Operation(first, "", "Add", {}, given[::-1], first)
    steps = (
        replace(s, inputs=tuple(first if name == graph.input else name for name in s.inputs)) for s in graph.operations
    )
    medians = medians.astype(np.float32).reshape(1, -1, 1, 1)
    return replace(graph, operations=(added, *steps), constants={"medians": Constant(medians), **graph.constants})
