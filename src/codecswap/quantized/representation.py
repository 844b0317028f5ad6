"""A float or quantized transform as data; files for devices are written from it. NumPy only.

Reference execution: operations run in order in float32, on constants converted to float32 first. A tensor
with an entry in ``activations`` is rounded once, when it is computed, and all later operations read the rounded values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: ``real = (integer - zero_point) * scale``."""

    scale: np.ndarray
    """float32: ``()``, or ``(C,)``, one value per channel."""
    zero_point: np.ndarray
    """Same shape as ``scale``; its dtype is that of the integers (uint8, int8, uint16, int16 or int32)."""
    axis: int | None = None
    """Channel axis; None: one scale for the whole tensor."""

    @classmethod
    def fixed(cls, scale: float, lowest: int, dtype: str) -> "Quantization":
        """Per-tensor quantization where the smallest integer of ``dtype`` stands for ``lowest * scale``."""
        return cls(np.array(scale, np.float32), np.array(np.iinfo(dtype).min - lowest, dtype))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest representable real value."""
        limits = np.iinfo(self.zero_point.dtype)
        low, high = ((limit - int(self.zero_point)) * float(self.scale) for limit in (limits.min, limits.max))
        return low, high

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Round (half to even) and clip float32 values to integers."""
        limits = np.iinfo(self.zero_point.dtype)
        levels = np.rint(real / self._along(self.scale, real)) + self._along(self.zero_point, real)
        return levels.clip(limits.min, limits.max).astype(self.zero_point.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Convert integers to real values, float32."""
        levels = integers.astype(np.int64) - self._along(self.zero_point, integers)
        return levels.astype(np.float32) * self._along(self.scale, integers)

    def _along(self, values: np.ndarray, tensor: np.ndarray) -> np.ndarray:
        return (
            values if self.axis is None else values.reshape([-1 if i == self.axis else 1 for i in range(tensor.ndim)])
        )


@dataclass(frozen=True)
class Constant:
    """A stored tensor: a weight, a bias, a mask, or a parameter of an operator."""

    values: np.ndarray
    """Integers if quantized; else the values themselves."""
    quantization: Quantization | None = None

    @property
    def real(self) -> np.ndarray:
        """Real values: dequantized if there is a quantization."""
        return self.quantization.dequantize(self.values) if self.quantization else self.values


@dataclass(frozen=True)
class Operation:
    """One node of the graph."""

    name: str
    layer: str
    """The codec's layer that it belongs to, e.g. ``g_s.0``."""
    operator: str
    """ONNX's name of the operator."""
    attributes: Mapping[str, Any]
    """ONNX attributes by name."""
    inputs: tuple[str, ...]
    """Names of constants and of earlier outputs; an empty name for an omitted input."""
    output: str


@dataclass(frozen=True)
class TransformGraph:
    """An analysis or synthesis transform as a graph of ONNX operators.

    In float, constants have no quantization and there are no ``activations``.
    """

    input: str
    input_shape: tuple[int | str, ...]
    """``(B, C, H, W)``; a name stands for a dynamic dimension."""
    output: str
    output_shape: tuple[int | str, ...]
    operations: tuple[Operation, ...]
    """In topological order."""
    constants: Mapping[str, Constant]
    activations: Mapping[str, Quantization]
    """Quantization of each rounded tensor (the input, outputs of operations); other tensors stay float32."""
