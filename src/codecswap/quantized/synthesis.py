"""A quantized synthesis transform that trains: what a device computes, in PyTorch, with gradients.

Rounding is passed straight through (Bengio et al., "Estimating or propagating gradients through stochastic neurons for
conditional computation", 2013), and has no gradient where it clips. Ranges of activations stay as they were chosen; the
weights' whole numbers, their scales, one for each output, and the biases learn.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.inference.split_inputs import LARGEST, SplitInputs
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Clip": torch.clamp,
    "Conv": F.conv2d,
    "ConvTranspose": F.conv_transpose2d,
    "DepthToSpace": lambda x: F.pixel_shuffle(x, 2),
    "Div": torch.div,
    "Mul": torch.mul,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Resize": lambda x, *sizes: F.interpolate(x, scale_factor=2, mode="nearest"),
    "Sqrt": lambda x: x.clamp_min(1e-12).sqrt(),  # at 0 its slope is infinite
}
"""ONNX's: all that a decoder's graphs hold."""


LEVELS_A_STEP = 30
"""Levels that a weight moves where its ``shift`` moves by 1: it has some +-64, and all train with one learning rate."""


class QuantizedSynthesis(nn.Module):
    """Rounded latents ``(B, M, h, w)`` to a picture ``(B, 3, H, W)``, not clamped, as a device's integers give it.

    Parameters, for each convolution in integers by its place among the operations: ``gains.<place>: (O,)``, which its
    weights' scales are multiplied by, ``biases.<place>: (O,)``, and ``shifts.<place>``, which moves its weights, rounded. What
    weights and scales start from are buffers.

    Args:
        transform: takes split inputs, or latents.
        split_inputs: how latents become its input; None: they are.
        medians: of the latents, ``(M,)``.
        precision: its name, one of ``--precision``.
        target: the NPU that it is for, by the name of its toolchain; None: any device that reads QDQ files.
    """

    def __init__(
        self,
        transform: TransformGraph,
        split_inputs: SplitInputs | None,
        medians: np.ndarray,
        *,
        precision: str,
        target: str | None = None,
    ) -> None:
        super().__init__()
        self.start, self.split_inputs, self.precision, self.target = transform, split_inputs, precision, target
        self.gains, self.biases, self.shifts = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
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
            bias = torch.from_numpy(transform.constants[step.inputs[2]].real.copy())
            self.gains[place], self.biases[place] = nn.Parameter(torch.ones_like(bias)), nn.Parameter(bias)
            shape = transform.constants[step.inputs[1]].values.shape
            self.shifts[place] = nn.Parameter(torch.zeros(shape))

    @classmethod
    def of(cls, layout: Mapping[str, Any], state: Mapping[str, Tensor]) -> "QuantizedSynthesis":
        """Rebuild one from its `layout` and its state, which is not loaded but for the buffers.

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
        return cls(transform, split_inputs, medians, precision=layout["precision"], target=layout["target"])

    def layout(self) -> dict[str, Any]:
        """All that its state does not say, in plain values."""
        start = self.start
        return {
            "precision": self.precision,
            "target": self.target,
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
        """The transform as it is now, for files; ``size`` is that of the latents, where files fix it."""
        constants, start = dict(self.start.constants), self.start
        for place, step in self._convolutions():
            given, weight, bias = step.inputs
            old = constants[weight].quantization
            assert old is not None
            gain = self.gains[place].detach().cpu().numpy()
            new = replace(old, scale=(old.scale * gain).astype(np.float32))
            whole = self._whole(place, step).detach().cpu().numpy()
            constants[weight] = Constant(whole.astype(constants[weight].values.dtype), new)
            unit = start.activations[given].scale * new.scale
            of_bias = Quantization(unit, np.zeros(unit.shape, np.int32), 0)
            constants[bias] = Constant(of_bias.quantize(self.biases[place].detach().cpu().double().numpy()), of_bias)
        if size:
            larger = tuple(_factor(start) * side for side in size)
            shapes = {"input_shape": (1, start.input_shape[1], *size), "output_shape": (1, 3, *larger)}
            start = replace(start, **shapes)  # type: ignore[arg-type]
        return replace(start, constants=constants)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode, in float32 whatever the surrounding precision."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            computed = {
                self.start.input: latents if self.split_inputs is None else self._split(latents, self.split_inputs)
            }
            for place, step in enumerate(self.start.operations):
                inputs = [computed[name] if name in computed else self._constant(name) for name in step.inputs if name]
                x = self._compute(str(place), step, inputs)
                rounding = self.start.activations.get(step.output)
                computed[step.output] = x if rounding is None else rounded(x, rounding)
            return computed[self.start.output]

    def _convolutions(self) -> list[tuple[str, Operation]]:
        """Those in integers, by their place."""
        return [
            (str(place), step)
            for place, step in enumerate(self.start.operations)
            if step.operator in ("Conv", "ConvTranspose") and self.start.constants[step.inputs[1]].quantization
        ]

    def _constant(self, name: str) -> Tensor:
        index, rounding = self.index[name], self.start.constants[name].quantization
        values = self.values.get_buffer(index)
        if rounding is None:
            return values
        scale = self.scales.get_buffer(index)
        return values * (scale if rounding.axis is None else _along(scale, rounding.axis, values.ndim))

    def _compute(self, place: str, step: Operation, inputs: list[Tensor]) -> Tensor:
        operator = OPERATORS[step.operator]
        if step.operator not in ("Conv", "ConvTranspose"):
            return operator(*inputs)
        x, kernel, bias = inputs
        if place in self.gains:
            scale, bias = self.scales.get_buffer(self.index[step.inputs[1]]) * self.gains[place], self.biases[place]
            kernel = self._whole(place, step) * _along(scale, int(step.operator == "ConvTranspose"), 4)
            unit = float(self.start.activations[step.inputs[0]].scale) * scale.detach()
            bias = bias + (torch.round(bias / unit) * unit - bias).detach()
        attributes = step.attributes
        options: dict[str, Any] = {"stride": attributes["strides"], "padding": attributes["pads"][:2]}
        if step.operator == "ConvTranspose":
            options["output_padding"] = attributes.get("output_padding", [0, 0])
        return operator(x, kernel, bias, groups=attributes.get("group", 1), **options)

    def _whole(self, place: str, step: Operation) -> Tensor:
        """The weights as whole numbers, none beyond the largest that was there (which ``--weight_bits`` decided on)."""
        values = self.values.get_buffer(self.index[step.inputs[1]]).float()
        largest = values.abs().max()
        moved = torch.minimum(torch.maximum(values + LEVELS_A_STEP * self.shifts[place], -largest), largest)
        return moved + (moved.round() - moved).detach()

    def _split(self, latents: Tensor, split_inputs: SplitInputs) -> Tensor:
        """As `SplitInputs.split` has it."""
        channels = torch.tensor(split_inputs.channels, device=latents.device)
        symbols = torch.round(latents - self.medians) + latents.new_tensor(split_inputs.shift).view(1, -1, 1, 1)
        shifted = symbols[:, channels]
        taken = LARGEST * (torch.arange(len(channels), device=latents.device) - torch.searchsorted(channels, channels))
        parts = shifted.sign() * (shifted.abs() - taken.view(1, -1, 1, 1)).clamp(0, LARGEST)
        return torch.cat([parts, torch.full_like(parts[:, :1], split_inputs.constant)], 1)


def rounded(x: Tensor, rounding: Quantization) -> Tensor:
    """``x`` on the levels of a rounding; the gradient is passed through, but not where it clips."""
    (low, high), step = rounding.range, float(rounding.scale)
    inside = x.clamp(low, high)
    return inside + (torch.round(inside / step) * step - inside).detach()


def _along(values: Tensor, axis: int, dimensions: int) -> Tensor:
    return values.view([-1 if place == axis else 1 for place in range(dimensions)])


def _factor(transform: TransformGraph) -> int:
    """Pixels for each latent, on either axis."""
    doubling = ("ConvTranspose", "DepthToSpace", "Resize")
    return 2 ** sum(step.operator in doubling for step in transform.operations)
