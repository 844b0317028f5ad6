"""Changes to a quantized transform that some compilers need."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from codecswap.quantized.representation import Constant, Quantization, TransformGraph


def leave_in_float(transform: TransformGraph, operators: Collection[str]) -> TransformGraph:
    """Remove the quantization of the outputs of these ONNX operators."""
    results = {step.output for step in transform.operations if step.operator in operators}
    kept = {name: value for name, value in transform.activations.items() if name not in results}
    return replace(transform, activations=kept)


def reduce_ranges(transform: TransformGraph) -> TransformGraph:
    """Reduce activations to 7 bits, except input and output, which are exact in 8; scales of biases are adapted."""
    ends = (transform.input, transform.output)
    activations = {name: value if name in ends else _half(value) for name, value in transform.activations.items()}
    constants = dict(transform.constants)
    for step in transform.operations:
        if step.operator not in ("Conv", "ConvTranspose") or not (scales := constants[step.inputs[1]].quantization):
            continue
        given, _, bias = step.inputs
        unit = activations[given].scale * scales.scale
        rounding = Quantization(unit, np.zeros(unit.shape, np.int32), 0)
        constants[bias] = Constant(rounding.quantize(constants[bias].real.astype(np.float64)), rounding)
    return replace(transform, activations=activations, constants=constants)


def _half(rounding: Quantization) -> Quantization:
    """The same range on the integers 0 to 127."""
    zero_point = np.rint(rounding.zero_point * np.float32(127 / 255)).astype(rounding.zero_point.dtype)
    return Quantization((rounding.scale * np.float32(255 / 127)).astype(np.float32), zero_point)
