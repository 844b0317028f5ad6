"""Precisions: how many bits each kind of tensor of a quantized transform gets (``--precision``). NumPy only."""

from dataclasses import dataclass, replace

import numpy as np

from codecswap.quantized.representation import Quantization

WIDE = {"uint8": "uint16", "int8": "int16"}
"""16-bit type for each type of 8-bit activations."""
LEVELS = {7: 64, 8: 127}
"""Largest weight for each number of bits: weights are integers in +- this, times a scale per output channel.

Two products of a uint8 activation and a 7-bit weight sum to at most 2 * 255 * 64 = 32,640, which fits in the 16 bits
that some instructions (vpmaddubsw) and runtimes use for them. With 8 bits it would be 64,770: `codecswap.inference.runtime`
sees, when a folder is opened, whether the processor needs wider sums; other programs may not.
"""
_STEPS = {"uint8": 255, "int8": 255, "uint16": 65535, "int16": 32640}
"""Steps from black to white: multiples of 255, so that the 256 levels of a picture file are represented exactly."""


@dataclass(frozen=True)
class Precision:
    """Types of activations (NumPy's names), and bits of weights."""

    between: str
    """Type of all tensors outside GDN layers, the network's input and output included."""
    inside: str
    """Type of the square, its weighted sum and the square root inside a GDN."""
    float_latents: bool
    """Keep layers that read or write real-valued latents in float: the channel with the largest range would set the scale."""
    weight_bits: int = 8
    """Bits of weights, 7 or 8."""
    largest_weight: int = 127
    """Largest magnitude of 8-bit weights."""

    @classmethod
    def of(cls, name: str, activations: str = "uint8", weight_bits: int = 8, largest_weight: int = 127) -> "Precision":
        """The entry ``name`` of `PRECISIONS` with signed or unsigned activations.

        Args:
            activations: ``uint8`` or ``int8``; 16-bit types follow it (`WIDE`), and int16 is symmetric around 0.
            weight_bits: 7 or 8.
            largest_weight: largest magnitude of 8-bit weights, if a device does not have all.
        """
        found = replace(PRECISIONS[name], weight_bits=weight_bits, largest_weight=largest_weight)
        if activations != "uint8":
            signed = {"uint8": activations, WIDE["uint8"]: WIDE[activations]}
            found = replace(found, between=signed[found.between], inside=signed[found.inside])
        return found

    @property
    def is_wide(self) -> bool:
        """Whether activations between layers have 16 bits, which no runtime for CPUs computes in integers."""
        return self.between in WIDE.values()

    @property
    def weight_levels(self) -> int:
        """Largest magnitude of the integer weights."""
        return min(LEVELS[self.weight_bits], self.largest_weight)

    @property
    def steps(self) -> int:
        """Number of quantization steps in the range of a tensor between layers."""
        return int(np.iinfo(self.between).max) - int(np.iinfo(self.between).min)

    @property
    def picture(self) -> Quantization:
        """Quantization of pictures: lossless for an input; an output loses only what its 8-bit file loses anyway."""
        return Quantization.fixed(1 / _STEPS[self.between], -32768 if self.between == "int16" else 0, self.between)

    @property
    def split_inputs(self) -> Quantization:
        """Quantization of a decoder's split inputs (`codecswap.inference.split_inputs`), integers in +-127.

        In 16 bits the scale is below 1, to use the whole range: Qualcomm's HTP multiplies with an absolute precision, and
        integers at scale 1 would lose their lower bits there.
        """
        return Quantization.fixed(1 / 256 if self.is_wide else 1, -32768 if self.is_wide else -128, self.between)


PRECISIONS = {
    "w8a8": Precision("uint8", "uint8", float_latents=True),
    "mixed": Precision("uint16", "uint8", float_latents=False),
    "w8a16": Precision("uint16", "uint16", float_latents=False),
}
"""Precisions by their names in ``--precision`` and ``codec.json``."""
