"""Ranges of activations from real pictures, with ONNX Runtime's static quantizer, and what rounding each of them costs."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from codecswap.export.backends.onnx_qdq import domain_of, read_qdq
from codecswap.graph import onnx_graph as graph
from codecswap.inference.runtime import open_session
from codecswap.quantized.precision import Precision
from codecswap.quantized.representation import Constant, Quantization, TransformGraph

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
OPERATORS = [
    "Abs",
    "Add",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Div",
    "Mul",
    "Reciprocal",
    "Relu",
    "Resize",
    "Sqrt",
]
"""All that a codec's graphs hold, but for Clip: what it reads and puts out has one range (`Precision.clipped`)."""
TYPES = {
    "uint8": QuantType.QUInt8,
    "int8": QuantType.QInt8,
    "uint16": QuantType.QUInt16,
    "int16": QuantType.QInt16,
}
LARGEST_BIAS = 1 << 30
"""A device adds products to an int32 bias; half of the range is theirs. (9 * 320 products of 8 bits need less than a tenth.)"""
HEADROOM = 2
"""Of 16-bit ranges, whose finest bit is no loss; clipping is."""
SMALLEST_SCALE = 1e-20
"""Of weights that are all zero."""


def calibrate(
    model: ModelProto,
    feeds: Sequence[np.ndarray],
    *,
    method: str,
    percentile: float,
    precision: Precision,
    known: Mapping[str, Quantization],
    gdns: Sequence[str],
    keep: Sequence[str],
) -> TransformGraph:
    """Quantize a float graph: int8 weights per channel, activations per tensor, int32 biases.

    Args:
        model: the graph of a lowered transform (`codecswap.graph.lower`).
        feeds: values of its input that ranges are taken from.
        method: one of `METHODS`.
        percentile: of the method of that name, in percent.
        precision: types of the activations and bits of the weights; int16 is symmetric around 0.
        known: of tensors and weights whose scales are chosen already, by name.
        gdns: layers that are a GDN, e.g. ``g_s.1``.
        keep: layers left in float (`codecswap.graph.onnx_graph.layer_of`).
    """
    overrides = {name: [{"quant_type": TYPES[precision.inside]}] for name in inner_tensors(model, gdns)}
    excluded = [node.name for node in model.graph.node if graph.layer_of(node) in keep]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "quantized.onnx"
        quantize_static(
            onnx.load_from_string(model.SerializeToString()),  # a copy: the quantizer changes what it is given
            path,
            _Feeds(model.graph.input[0].name, feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=TYPES[precision.between],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
            calibrate_method=METHODS[method],
            extra_options={
                "TensorQuantOverrides": overrides | {name: _override(value) for name, value in known.items()},
                "CalibPercentile": percentile,
                "ActivationSymmetric": precision.between == "int16",
                "QDQDisableWeightAdjustForInt32Bias": True,  # it would fill the whole of int32
            },
        )
        found = with_headroom(read_qdq(onnx.load(path)), known)
        return floor_scales(found, graph.weights(model), precision)


def inner_tensors(model: ModelProto, layers: Collection[str]) -> list[str]:
    """Tensors of a graph that are put out in one of ``layers``, e.g. ``g_s.1``, and read nowhere else."""
    read_outside = {output.name for output in model.graph.output}
    made: dict[str, str] = {}
    for node in model.graph.node:
        layer = graph.layer_of(node)
        read_outside.update(name for name in node.input if made.get(name, layer) != layer)
        made.update(dict.fromkeys(node.output, layer))
    return [name for name, layer in made.items() if layer in layers and name not in read_outside]


def with_headroom(transform: TransformGraph, known: Collection[str]) -> TransformGraph:
    """Widen the ranges of 16-bit activations that calibration found, since other pictures may go beyond them."""
    widened = {
        name: replace(one, scale=(HEADROOM * one.scale).astype(np.float32))
        for name, one in transform.activations.items()
        if one.zero_point.dtype.itemsize == 2 and name not in known
    }
    return replace(transform, activations=dict(transform.activations) | widened)


def floor_scales(transform: TransformGraph, floats: Mapping[str, np.ndarray], precision: Precision) -> TransformGraph:
    """Widen the scales of weights where they, or a bias, would be too large a whole number.

    A bias is in multiples of its input's scale times its weights' scale, which is small where the weights are: in a GDN whose
    row of gamma is almost zero, it would leave int32.

    Args:
        floats: the weights and biases that were quantized, by name.
        precision: as in `calibrate`.
    """
    constants = dict(transform.constants)
    for step in transform.operations:
        if step.operator not in ("Conv", "ConvTranspose") or constants[step.inputs[1]].quantization is None:
            continue
        given, weight, bias = step.inputs
        old = constants[weight].quantization
        assert old is not None and old.axis is not None
        types = (transform.activations[name].zero_point.dtype.name for name in (given, step.output))
        largest = np.abs(floats[weight]).max(tuple({0, 1, 2, 3} - {old.axis})) / precision.weight_levels(*types)
        exact, unit = floats[bias].astype(np.float64), transform.activations[given].scale
        floor = np.abs(exact) / (unit.astype(np.float64) * LARGEST_BIAS)
        # the quantizer gives a row of zeros the scale 1, which would round its bias coarsely
        found = np.where(largest > 0, old.scale, SMALLEST_SCALE)
        scale = np.maximum.reduce([found, largest, floor]).astype(np.float32)
        widened = replace(old, scale=scale)
        of_bias = Quantization(unit * scale, np.zeros(scale.shape, np.int32), 0)
        constants[weight] = Constant(widened.quantize(floats[weight]), widened)
        constants[bias] = Constant(of_bias.quantize(exact), of_bias)
    return replace(transform, constants=constants)


def _override(known: Quantization) -> list[dict[str, Any]]:
    """ONNX Runtime's form of scales that it shall take as they are."""
    kind: dict[str, Any] = {"quant_type": TYPES[known.zero_point.dtype.name]}
    if known.axis is None:
        return [{**kind, "scale": known.scale, "zero_point": known.zero_point}]
    pairs = zip(known.scale, known.zero_point, strict=True)
    return [{**kind, "axis": known.axis, "scale": np.array(s), "zero_point": np.array(z)} for s, z in pairs]


class _Feeds(CalibrationDataReader):
    def __init__(self, name: str, feeds: Sequence[np.ndarray]) -> None:
        self._left = iter([{name: feed} for feed in feeds])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return next(self._left, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer prints its progress, and advises a preprocessing that these graphs do not need."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Cost:
    """What rounding one tensor, and nothing else, does."""

    layer: str
    operator: str
    """What puts the tensor out."""
    mse: float
    """Mean squared error of the result against the float graph's."""


def costs(model: ModelProto, transform: TransformGraph, feed: np.ndarray) -> list[Cost]:
    """Round each activation of a float graph alone, as the transform made of it does."""
    name = model.graph.input[0].name
    reference = open_session(model.SerializeToString(), exact=True).run(None, {name: feed})[0]
    result = []
    for step in transform.operations:
        if step.output not in transform.activations or step.operator == "DepthToSpace":  # it only moves rounded values
            continue
        changed = _rounded_at(model, step.output, transform.activations[step.output])
        error = open_session(changed.SerializeToString(), exact=True).run(None, {name: feed})[0] - reference
        operator = "square" if len(step.inputs) == 2 and step.inputs[0] == step.inputs[1] else step.operator
        result.append(Cost(step.layer, operator, float(np.square(error, dtype=np.float64).mean())))
    return result


def _rounded_at(model: ModelProto, tensor: str, quantization: Quantization) -> ModelProto:
    """A copy of a graph with one tensor rounded where it is put out."""
    changed = ModelProto()
    changed.CopyFrom(model)
    constants = {f"{tensor}_scale": quantization.scale, f"{tensor}_zero_point": quantization.zero_point}
    changed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    place = next(i for i, node in enumerate(changed.graph.node) if tensor in node.output)
    raw, rounded = f"{tensor}_raw", f"{tensor}_rounded"
    domain = domain_of(quantization, graph.opset(model))
    if domain:
        changed.opset_import.append(helper.make_opsetid(domain, 1))
    changed.graph.node[place].output[0] = raw
    changed.graph.node.insert(
        place + 1, helper.make_node("QuantizeLinear", [raw, *constants], [rounded], domain=domain)
    )
    changed.graph.node.insert(
        place + 2, helper.make_node("DequantizeLinear", [rounded, *constants], [tensor], domain=domain)
    )
    return changed
