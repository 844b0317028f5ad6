"""What each tensor of a quantized transform costs, rounded alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codecswap.quantized.compute import compute, reals, rounded
from codecswap.quantized.representation import Quantization, TransformGraph


@dataclass(frozen=True)
class Cost:
    """What rounding one tensor, and nothing else, does."""

    layer: str
    """The codec's."""
    tensor: str
    """``weights``, or the ONNX operator that puts an activation out (``Square`` for a Mul of a tensor with itself)."""
    mse: float
    """Mean squared error of the transform's output against the float one's."""


@torch.no_grad()
def costs(reference: TransformGraph, quantized: TransformGraph, feed: np.ndarray) -> list[Cost]:
    """Round each activation of a float transform alone, and put each convolution's integer weights and bias in alone.

    Weights count with all that was done to them: to see that, ``reference`` is traced before they are refitted and rounded.

    Args:
        reference: the float transform.
        quantized: what `codecswap.quantize.ranges.quantize_graph` made of it.
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
    """Whether values on the levels of ``other`` need no rounding to those of ``one``."""
    return other is not None and one.scale == other.scale and one.zero_point == other.zero_point
