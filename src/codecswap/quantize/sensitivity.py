"""Sensitivity: the error from quantizing each tensor alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codecswap.quantized.compute import compute, reals, rounded
from codecswap.quantized.representation import Quantization, TransformGraph


@dataclass(frozen=True)
class Cost:
    """Error from quantizing one tensor alone."""

    layer: str
    """Layer of the codec."""
    tensor: str
    """``weights``, or the ONNX operator that computes the activation (``Square``: a Mul of a tensor with itself)."""
    mse: float
    """Mean squared error of the transform's output against the float output."""


@torch.no_grad()
def costs(reference: TransformGraph, quantized: TransformGraph, feed: np.ndarray) -> list[Cost]:
    """Measure the error of each activation's rounding alone, and of each convolution's quantized weights and bias alone.

    The error of weights includes refitting, if ``reference`` was traced before it.

    Args:
        reference: the float transform.
        quantized: result of `codecswap.quantize.ranges.quantize_graph` for it.
        feed: the input, ``(B, C, H, W)``.
    """
    x, constants = torch.from_numpy(feed), reals(reference)
    exact = compute(reference, x, constants=constants, each=lambda name, values: values)

    def error(target: str | None, changed: dict[str, Tensor]) -> float:
        def change(name: str, values: Tensor) -> Tensor:
            return rounded(values, quantized.activations[name]) if name == target else values

        result = compute(reference, x, constants=constants | changed, each=change)
        return (result - exact).double().square().mean().item()

    result, before = [], {step.name: step for step in reference.operations}
    for new in quantized.operations:
        step = before[new.name]
        stored = {
            name: torch.from_numpy(quantized.constants[other].real)
            for name, other in zip(step.inputs, new.inputs, strict=True)
            if name in constants and quantized.constants[other].quantization
        }
        if stored and step.operator in ("Conv", "ConvTranspose"):
            result.append(Cost(step.layer, "weights", error(None, stored)))
        rounding = quantized.activations.get(new.output)
        if rounding is not None and not _same(rounding, quantized.activations.get(new.inputs[0])):
            squares = step.operator == "Mul" and step.inputs[0] == step.inputs[1]
            result.append(Cost(step.layer, "Square" if squares else step.operator, error(new.output, {})))
    return result


def _same(one: Quantization, other: Quantization | None) -> bool:
    """Whether values quantized with ``other`` are unchanged by ``one``."""
    return other is not None and one.scale == other.scale and one.zero_point == other.zero_point
