"""Quantization-aware training: a quantized synthesis transform in PyTorch, as a device computes it, with gradients.

Rounding uses the straight-through estimator (Bengio et al., "Estimating or propagating gradients through stochastic neurons for
conditional computation", 2013), without gradient where values are clipped. Activation ranges are fixed; the
integer weights, their scales (one per output channel) and the biases are trained.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.inference.split_inputs import LARGEST, SplitInputs
from codecswap.quantized.compute import OPERATORS, compute, output_shape
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

LEVELS_A_STEP = 30
"""Integer steps of a weight per unit of its ``shift``, so that one learning rate fits all (weights are in about +-64)."""


class QuantizedSynthesis(nn.Module):
    """Rounded latents ``(B, M, h, w)`` to a picture ``(B, 3, H, W)``, not clamped, in a device's integer arithmetic.

    Parameters of each convolution, by its index among the operations: ``gains.<place>: (O,)``, which its weights' scales are
    multiplied by, ``biases.<place>: (O,)``, and ``shifts.<place>``, which moves its weights, rounded. What weights and scales
    start from are buffers. A float convolution has ``weights.<place>`` and ``biases.<place>``.

    Args:
        transform: a transform of split inputs, or of latents.
        split_inputs: layout of its input; None: it takes latents.
        medians: medians of the latents, ``(M,)``.
        precision: a name of ``--precision``.
        target: name of the NPU's toolchain; None: any device that reads QDQ files.
        remedies: layers that were not quantized as the others, and what they got (`codecswap.quantize.scheme.Scheme`).
    """

    def __init__(
        self,
        transform: TransformGraph,
        split_inputs: SplitInputs | None,
        medians: np.ndarray,
        *,
        precision: str,
        target: str | None = None,
        remedies: Collection[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self.start, self.split_inputs, self.precision, self.target = transform, split_inputs, precision, target
        self.remedies = tuple(remedies)
        self.gains, self.biases, self.shifts = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.weights = nn.ParameterDict()
        self.medians: Tensor
        self.register_buffer("medians", torch.from_numpy(medians.astype(np.float32)).view(1, -1, 1, 1))
        self.values, self.scales = nn.Module(), nn.Module()
        self.index = {name: str(place) for place, name in enumerate(transform.constants)}
        for name, constant in transform.constants.items():
            self.values.register_buffer(self.index[name], torch.from_numpy(constant.values.copy()))
            if constant.quantization:
                scale = torch.from_numpy(np.atleast_1d(constant.quantization.scale).copy())
                self.scales.register_buffer(self.index[name], scale)
        for place, step in self._convolutions():
            weight, bias = (transform.constants[name] for name in step.inputs[1:])
            self.biases[place] = nn.Parameter(torch.from_numpy(bias.real.copy()))
            if weight.quantization:
                self.gains[place] = nn.Parameter(torch.ones_like(self.biases[place]))
                self.shifts[place] = nn.Parameter(torch.zeros(weight.values.shape))
            else:
                self.weights[place] = nn.Parameter(torch.from_numpy(weight.values.copy()))

    @classmethod
    def of(cls, layout: Mapping[str, Any], state: Mapping[str, Tensor]) -> "QuantizedSynthesis":
        """Rebuild a module from its `layout` and its state; only buffers are loaded.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they are damaged.
        """
        constants = {}
        for place, (name, axis) in enumerate(layout["constants"]):
            values, rounding = state[f"values.{place}"].numpy(), None
            if f"scales.{place}" in state:
                scale = state[f"scales.{place}"].numpy()
                scale = scale if axis is not None else scale.reshape(())
                rounding = Quantization(scale, np.zeros(scale.shape, values.dtype), axis)
            constants[name] = Constant(values, rounding)
        transform = TransformGraph(
            operations=tuple(Operation(**{**step, "inputs": tuple(step["inputs"])}) for step in layout["operations"]),
            constants=constants,
            activations={
                name: Quantization(np.array(scale, np.float32), np.array(zero, kind))
                for name, (scale, zero, kind) in layout["activations"].items()
            },
            input=layout["input"],
            output=layout["output"],
            input_shape=tuple(layout["input_shape"]),
            output_shape=tuple(layout["output_shape"]),
        )
        if unknown := {step.operator for step in transform.operations} - OPERATORS.keys():
            raise ValueError(f"unknown operators {unknown}")
        split_inputs = layout["split_inputs"] and SplitInputs(**layout["split_inputs"])
        medians = state["medians"].flatten().numpy()
        remedies = [(str(layer), str(remedy)) for layer, remedy in layout["remedies"].items()]
        given = {"precision": layout["precision"], "target": layout["target"], "remedies": remedies}
        return cls(transform, split_inputs, medians, **given)

    def layout(self) -> dict[str, Any]:
        """What its state dict does not hold, as plain values (for JSON or a checkpoint)."""
        start = self.start
        return {
            "precision": self.precision,
            "target": self.target,
            "remedies": dict(self.remedies),
            "split_inputs": self.split_inputs and asdict(self.split_inputs),
            **{key: getattr(start, key) for key in ("input", "output")},
            **{key: list(getattr(start, key)) for key in ("input_shape", "output_shape")},
            "operations": [{**asdict(step), "inputs": list(step.inputs)} for step in start.operations],
            "constants": [
                [name, constant.quantization and constant.quantization.axis]
                for name, constant in start.constants.items()
            ],
            "activations": {
                name: [float(one.scale), int(one.zero_point), one.zero_point.dtype.name]
                for name, one in start.activations.items()
            },
        }

    def transform(self, size: tuple[int, int] | None = None) -> TransformGraph:
        """The current transform as a graph, for export; ``size``: height and width of the latents, if fixed."""
        constants, start = dict(self.start.constants), self.start
        for place, step in self._convolutions():
            given, weight, bias = step.inputs
            old = constants[weight].quantization
            if old is None:
                constants[weight] = Constant(self.weights[place].detach().cpu().numpy())
                constants[bias] = Constant(self.biases[place].detach().cpu().numpy())
                continue
            gain = self.gains[place].detach().cpu().numpy()
            new = replace(old, scale=(old.scale * gain).astype(np.float32))
            whole = self._integer_weights(place, step).detach().cpu().numpy()
            constants[weight] = Constant(whole.astype(constants[weight].values.dtype), new)
            unit = start.activations[given].scale * new.scale
            of_bias = Quantization(unit, np.zeros(unit.shape, np.int32), 0)
            constants[bias] = Constant(of_bias.quantize(self.biases[place].detach().cpu().double().numpy()), of_bias)
        if size:
            shape = (1, int(start.input_shape[1]), *size)
            start = replace(start, input_shape=shape, output_shape=output_shape(start, shape))
        return replace(start, constants=constants)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode, in float32 whatever the surrounding precision."""
        with torch.autocast(latents.device.type, enabled=False):
            x = latents.float() if self.split_inputs is None else self._split(latents.float(), self.split_inputs)
            return compute(
                self.start, x, constants={name: self._constant(name) for name in self.index} | self._trained()
            )

    def _convolutions(self) -> list[tuple[str, Operation]]:
        """All convolutions, with their index as a string."""
        steps = enumerate(self.start.operations)
        return [(str(place), step) for place, step in steps if step.operator in ("Conv", "ConvTranspose")]

    def _constant(self, name: str) -> Tensor:
        index, rounding = self.index[name], self.start.constants[name].quantization
        values = self.values.get_buffer(index)
        if rounding is None:
            return values
        scale = self.scales.get_buffer(index)
        return values * (scale if rounding.axis is None else _along(scale, rounding.axis, values.ndim))

    def _trained(self) -> dict[str, Tensor]:
        """The current weights and biases of all convolutions."""
        found: dict[str, Tensor] = {}
        for place, step in self._convolutions():
            given, weight, bias = step.inputs
            if place in self.weights:
                found |= {weight: self.weights[place], bias: self.biases[place]}
                continue
            scale = self.scales.get_buffer(self.index[weight]) * self.gains[place]
            unit = float(self.start.activations[given].scale) * scale.detach()
            found[weight] = self._integer_weights(place, step) * _along(scale, int(step.operator == "ConvTranspose"), 4)
            found[bias] = (
                self.biases[place] + (torch.round(self.biases[place] / unit) * unit - self.biases[place]).detach()
            )
        return found

    def _integer_weights(self, place: str, step: Operation) -> Tensor:
        """The current weights as integers, clipped to the largest initial magnitude (decided by ``--weight_bits``)."""
        values = self.values.get_buffer(self.index[step.inputs[1]]).float()
        largest = values.abs().max()
        moved = torch.minimum(torch.maximum(values + LEVELS_A_STEP * self.shifts[place], -largest), largest)
        return moved + (moved.round() - moved).detach()

    def _split(self, latents: Tensor, split_inputs: SplitInputs) -> Tensor:
        """`SplitInputs.split` in PyTorch, for real-valued latents."""
        channels = torch.tensor(split_inputs.channels, device=latents.device)
        integers = torch.round((latents - self.medians) * 2**split_inputs.fractional_bits)
        if split_inputs.shift is not None:
            integers = integers + latents.new_tensor(split_inputs.shift).view(1, -1, 1, 1)
        shifted = integers[:, channels]
        taken = LARGEST * (torch.arange(len(channels), device=latents.device) - torch.searchsorted(channels, channels))
        parts = shifted.sign() * (shifted.abs() - taken.view(1, -1, 1, 1)).clamp(0, LARGEST)
        return torch.cat([parts, torch.full_like(parts[:, :1], split_inputs.constant)], 1)


def _along(values: Tensor, axis: int, dimensions: int) -> Tensor:
    return values.view([-1 if place == axis else 1 for place in range(dimensions)])
