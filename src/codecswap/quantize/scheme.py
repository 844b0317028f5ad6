"""How a codec is quantized, as values: what `codecswap quantize` is asked for, or what a target's file says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """What a transform's weights and activations become."""

    precision: str = "w8a8"
    """A name in `codecswap.quantized.precision.PRECISIONS`."""
    activations: str = "uint8"
    """Type of 8-bit activations, ``uint8`` or ``int8``; 16-bit ones are uint16, or int16 around 0."""
    weight_bits: int | None = None
    """7 or 8; None: as the precision says."""
    equalize: bool = True
    """First scale the channels around GDN layers to the same range, which does not change what is computed."""
    refit: bool = True
    """Refit the weights to quantized inputs, then round them with GPTQ-style error compensation."""
    keep: tuple[str, ...] = ()
    """Layers that stay in float, by their names in the codec, e.g. ``g_s.6``."""
    float_results: tuple[str, ...] = ()
    """ONNX operators whose results stay in float."""
    reduced_range: bool = False
    """Activations between the network's ends use the lower half of their type's range: 7 bits of 8."""


DEFAULT = Scheme()
"""What `codecswap quantize` does by itself."""
