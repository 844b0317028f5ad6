"""Sensitivity: the error from quantizing each tensor alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codecswap.quantize.ranges import MOVING, is_mask
from codecswap.quantized.compute import compute, reals, rounded
from codecswap.quantized.representation import Operation, TransformGraph

WEIGHTS = "weights"
"""`Cost.tensor` of a convolution's weights and bias."""

KEEPING = MOVING | {"Clip", "Concat", "Relu"}
"""Operators whose outputs have only values of their inputs, or limits."""


@dataclass(frozen=True)
class Cost:
    """Error from quantizing one tensor alone."""

    layer: str
    """Layer of the codec that computes it."""
    tensor: str
    """`WEIGHTS`, or the ONNX operator that computes the activation (``Square``: a Mul of a tensor with itself)."""
    mse: float
    """Mean squared error of the transform's output against the float output."""
    name: str = ""
    """Name of the activation in the graph; of weights, of their operation."""
    touching: frozenset[str] = frozenset()
    """Layers that compute or read the activation; of weights, their layer."""


@torch.no_grad()
def costs(
    reference: TransformGraph, quantized: TransformGraph, feed: np.ndarray, weight: Tensor | None = None
) -> list[Cost]:
    """Measure the error of each activation's rounding alone, and of each convolution's quantized weights and bias alone.

    The error of weights includes refitting, if ``reference`` was traced before it. What ``reference`` does not have, the
    parts of a `codecswap.quantize.rounding.SplitConv2d`, is left out.

    Args:
        reference: the float transform.
        quantized: result of `codecswap.quantize.ranges.quantize_graph` for it.
        feed: the input, ``(B, C, H, W)``.
        weight: weights of the squared errors, of a shape that broadcasts with the output's; None: 1.
    """
    x, constants = torch.from_numpy(feed), reals(reference)
    exact = compute(reference, x, constants=constants, each=lambda name, values: values)

    def error(target: str | None, changed: dict[str, Tensor]) -> float:
        def change(name: str, values: Tensor) -> Tensor:
            return rounded(values, quantized.activations[name]) if name == target else values

        result = compute(reference, x, constants=constants | changed, each=change)
        squares = (result - exact).double().square()
        return (squares if weight is None else squares * weight).mean().item()

    result, before, touching = [], {step.name: step for step in reference.operations}, _touching(quantized)
    for new in quantized.operations:
        if new.name not in before:
            continue
        step = before[new.name]
        stored = {
            name: torch.from_numpy(quantized.constants[other].real)
            for name, other in zip(step.inputs, new.inputs, strict=True)
            if name in constants and quantized.constants[other].quantization
        }
        if stored and step.operator in ("Conv", "ConvTranspose"):
            result.append(Cost(step.layer, WEIGHTS, error(None, stored), step.name, frozenset([step.layer])))
        rounding = quantized.activations.get(new.output)
        if rounding is not None and not _keeps_values(quantized, new):
            squares = step.operator == "Mul" and step.inputs[0] == step.inputs[1]
            name = "Square" if squares else step.operator
            result.append(Cost(step.layer, name, error(new.output, {}), new.output, touching[new.output]))
    return result


def _touching(graph: TransformGraph) -> Mapping[str, frozenset[str]]:
    """Layers that compute or read each tensor, or the tensors of the same values that follow it."""
    found = {step.output: {step.layer} for step in graph.operations}
    for step in reversed(graph.operations):
        for name in set(step.inputs) & found.keys():
            found[name].add(step.layer)
            if _keeps_values(graph, step):
                found[name] |= found[step.output]
    return {name: frozenset(layers) for name, layers in found.items()}


def _keeps_values(graph: TransformGraph, step: Operation) -> bool:
    """Whether an output has only values of the first input, in the same quantization, so that nothing is rounded."""
    one, other = graph.activations.get(step.output), graph.activations.get(step.inputs[0])
    if one is None or other is None or not (step.operator in KEEPING or is_mask(graph, step)):
        return False
    return one.scale == other.scale and one.zero_point == other.zero_point
