"""Quantization schemes, from the options of `codecswap quantize` or from a target's file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """How to quantize weights and activations of a transform."""

    precision: str = "w8a8"
    """A name in `codecswap.quantized.precision.PRECISIONS`."""
    activations: str = "uint8"
    """Type of 8-bit activations, ``uint8`` or ``int8``; 16-bit ones are uint16, or symmetric int16."""
    weight_bits: int | None = None
    """7 or 8; None: the precision's default."""
    equalize: bool = True
    """Equalize the ranges of channels around GDN layers first, without changing the function."""
    refit: bool = True
    """Refit the weights to quantized inputs, then round them with GPTQ-style error compensation."""
    keep: tuple[str, ...] = ()
    """Layers that stay in float, by their names in the codec, e.g. ``g_s.6``."""
    float_results: tuple[str, ...] = ()
    """ONNX operators whose results stay in float."""
    reduced_range: bool = False
    """Activations except input and output use 7 of 8 bits."""


DEFAULT = Scheme()
"""Default scheme of `codecswap quantize`."""
