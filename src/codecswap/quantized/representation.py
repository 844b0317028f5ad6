"""A transform as data, float or quantized, from which files for devices are written. NumPy only.

What it computes, exactly: operations run in order in float32, on constants that are converted to float32 first; a tensor
with an entry in ``activations`` is rounded once, where it is put out, and every operation after that reads rounded values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Quantization:
    """How integers stand for real values: ``real = (integer - zero_point) * scale``."""

    scale: np.ndarray
    """float32: ``()``, or ``(C,)`` with a value for each channel."""
    zero_point: np.ndarray
    """Of the same shape; its type is that of the integers (uint8, int8, uint16, int16 or int32)."""
    axis: int | None = None
    """Which axis of the tensor the channels are on; None: one scale for all of it."""

    @classmethod
    def fixed(cls, scale: float, lowest: int, dtype: str) -> "Quantization":
        """One scale, and the multiple of it that the smallest integer of ``dtype`` stands for."""
        return cls(np.array(scale, np.float32), np.array(np.iinfo(dtype).min - lowest, dtype))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest real value of an activation."""
        limits = np.iinfo(self.zero_point.dtype)
        low, high = ((limit - int(self.zero_point)) * float(self.scale) for limit in (limits.min, limits.max))
        return low, high

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Round (half to even) and clip float32 values to integers."""
        limits = np.iinfo(self.zero_point.dtype)
        levels = np.rint(real / self._along(self.scale, real)) + self._along(self.zero_point, real)
        return levels.clip(limits.min, limits.max).astype(self.zero_point.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """The real values, float32, that integers stand for."""
        levels = integers.astype(np.int64) - self._along(self.zero_point, integers)
        return levels.astype(np.float32) * self._along(self.scale, integers)

    def _along(self, values: np.ndarray, tensor: np.ndarray) -> np.ndarray:
        return (
            values if self.axis is None else values.reshape([-1 if i == self.axis else 1 for i in range(tensor.ndim)])
        )


@dataclass(frozen=True)
class Constant:
    """A weight, a bias, a mask, or an operator's parameter."""

    values: np.ndarray
    """Integers; as they are where there is no quantization."""
    quantization: Quantization | None = None

    @property
    def real(self) -> np.ndarray:
        """The values that operations compute with."""
        return self.quantization.dequantize(self.values) if self.quantization else self.values


@dataclass(frozen=True)
class Operation:
    """One operator at work."""

    name: str
    layer: str
    """The codec's layer that it belongs to, e.g. ``g_s.0``."""
    operator: str
    """ONNX's name."""
    attributes: Mapping[str, Any]
    """ONNX's, by name."""
    inputs: tuple[str, ...]
    """Names of constants and of tensors put out before; an empty one: left out."""
    output: str


@dataclass(frozen=True)
class TransformGraph:
    """An analysis or synthesis transform as operators of ONNX.

    In float, constants have no quantization and there are no ``activations``.
    """

    input: str
    input_shape: tuple[int | str, ...]
    """``(B, C, H, W)``; a name stands for a dimension that is open."""
    output: str
    output_shape: tuple[int | str, ...]
    operations: tuple[Operation, ...]
    """In an order in which they can be computed."""
    constants: Mapping[str, Constant]
    activations: Mapping[str, Quantization]
    """Of the input and of each operation's output that is rounded; tensors without one stay float32."""
