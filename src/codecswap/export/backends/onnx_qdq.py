"""ONNX Runtime's static quantiser, and what each tensor that it rounds costs."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from codecswap.export.backends import graph
from codecswap.files import atomic_write
from codecswap.inference.runtime import open_session

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
OPERATORS = ["Conv", "ConvTranspose", "DepthToSpace", "Div", "Mul", "Resize", "Sqrt"]
"""All that a codec's graphs hold."""

Override = list[dict[str, Any]]


ACTIVATIONS = {"uint8": (QuantType.QUInt8, np.uint8, 0), "int8": (QuantType.QInt8, np.int8, -128)}
"""Per type of an activation: the quantiser's name, numpy's, and the smallest value."""


def fixed_scale(scale: float, lowest: int, activations: str) -> Override:
    """An activation's scale, and the multiple of it that is its smallest value, instead of what calibration would find."""
    kind, dtype, least = ACTIVATIONS[activations]
    return [{"scale": _scalar(scale), "zero_point": _scalar(least - lowest, dtype), "quant_type": kind}]


def channel_scales(scales: np.ndarray) -> Override:
    """A convolution weight's scales ``(O,)``, one per output channel."""
    kind = {"axis": 0, "zero_point": _scalar(0, np.int8), "quant_type": QuantType.QInt8}
    return [{**kind, "scale": _scalar(scale)} for scale in scales]


def _scalar(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def quantise_graph(
    source: Path,
    target: Path,
    feeds: Sequence[np.ndarray],
    *,
    method: str,
    percentile: float,
    activations: str,
    weight_bits: int,
    overrides: Mapping[str, Override],
    keep: Sequence[str],
) -> None:
    """Write the float graph ``source`` as ``target``: int8 weights per channel, 8-bit activations per tensor, as QDQ pairs.

    Args:
        feeds: values of its input that ranges are taken from.
        method: one of `METHODS`.
        percentile: of the method of that name, in percent.
        activations: ``uint8`` or ``int8``.
        weight_bits: 8, or 7 for weights in +-64 (`codecswap.quantise.rounding.LEVELS`).
        overrides: scales that are known, by the tensor's name.
        keep: layers left in float (`codecswap.export.backends.graph.layer_of`).
    """
    model = onnx.load(source)
    excluded = [node.name for node in model.graph.node if graph.layer_of(node) in keep]

    def write(beside: Path) -> None:
        with _quiet():
            quantize_static(
                model,
                beside,
                _Feeds(model.graph.input[0].name, feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=ACTIVATIONS[activations][0],
                weight_type=QuantType.QInt8,
                reduce_range=weight_bits == 7,  # of weights only
                nodes_to_exclude=excluded,
                calibrate_method=METHODS[method],
                extra_options={"TensorQuantOverrides": dict(overrides), "CalibPercentile": percentile},
            )
        onnx.checker.check_model(onnx.load(beside), full_check=True)

    with atomic_write(target) as beside:
        write(beside)


class _Feeds(CalibrationDataReader):
    def __init__(self, name: str, feeds: Sequence[np.ndarray]) -> None:
        self._left = iter([{name: feed} for feed in feeds])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return next(self._left, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints its progress, and advises a preprocessing that these graphs do not need."""
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
    """What rounding one tensor to 8 bits, and nothing else, does."""

    layer: str
    operator: str
    """What puts the tensor out."""
    mse: float
    """Mean squared error of the result against the float graph's."""


def costs(source: Path, quantised: Path, feed: np.ndarray) -> list[Cost]:
    """Round each activation of the float graph ``source`` alone, with the scale it has in ``quantised``."""
    model, scales = onnx.load(source), graph.weights(onnx.load(quantised))
    name = model.graph.input[0].name
    reference = open_session(str(source), exact=True).run(None, {name: feed})[0]
    result = []
    for node in model.graph.node:
        output = node.output[0]
        if f"{output}_scale" not in scales or node.op_type == "DepthToSpace":  # it only moves what is rounded already
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "one.onnx"
            onnx.save(_rounded_at(model, output, scales), path)
            error = open_session(str(path), exact=True).run(None, {name: feed})[0] - reference
        operator = "square" if len(node.input) == 2 and node.input[0] == node.input[1] else node.op_type
        result.append(Cost(graph.layer_of(node), operator, float(np.square(error, dtype=np.float64).mean())))
    return result


def _rounded_at(model: ModelProto, tensor: str, scales: Mapping[str, np.ndarray]) -> ModelProto:
    """A copy of a graph with one tensor rounded to 8 bits where it is put out."""
    changed = ModelProto()
    changed.CopyFrom(model)
    constants = [f"{tensor}_scale", f"{tensor}_zero_point"]
    changed.graph.initializer.extend(numpy_helper.from_array(scales[key], key) for key in constants)
    place = next(i for i, node in enumerate(changed.graph.node) if tensor in node.output)
    raw, rounded = f"{tensor}_raw", f"{tensor}_rounded"
    changed.graph.node[place].output[0] = raw
    changed.graph.node.insert(place + 1, helper.make_node("QuantizeLinear", [raw, *constants], [rounded]))
    changed.graph.node.insert(place + 2, helper.make_node("DequantizeLinear", [rounded, *constants], [tensor]))
    return changed
