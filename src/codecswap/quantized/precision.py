"""Precisions: how many bits each kind of tensor of a quantized transform gets (``--precision``). NumPy only."""

from dataclasses import dataclass, replace

import numpy as np

from codecswap.quantized.representation import Quantization

WIDE = {"uint8": "uint16", "int8": "int16"}
"""The 16-bit type that goes with a type of 8-bit activations."""
LEVELS = {7: 64, 8: 127}
"""Per number of bits: weights are integers in +- this, times their output channel's scale.

Two products of a uint8 activation with weights of 7 bits add up to at most 2 * 255 * 64 = 32,640, which fits in the 16 bits
that some processors' instructions (vpmaddubsw) and runtimes have for them; with 8 bits it would be 64,770.
"""
_STEPS = {"uint8": 255, "int8": 255, "uint16": 65535, "int16": 32640}
"""Levels between black and white: the multiples of 255 that the 256 levels of a picture file are on exactly."""


@dataclass(frozen=True)
class Precision:
    """Types of activations, as NumPy names them, and bits of weights."""

    between: str
    """A network's input and output, tensors that layers give to each other, and those inside layers other than GDNs."""
    inside: str
    """The square, its weighted sum and the square root inside a GDN."""
    float_latents: bool
    """Layers that put out latents, or take real-valued ones, stay in float: their widest channel would set the scale of all."""
    weight_bits: int = 8
    """Weights of convolutions that read or put out 16 bits."""
    weight_bits_between_8: int = 7
    """Weights of convolutions from 8 bits to 8 bits: runtimes compute only these in integers, some with 16-bit sums."""

    @classmethod
    def of(cls, name: str, activations: str = "uint8", weight_bits: int | None = None) -> "Precision":
        """The entry ``name`` of `PRECISIONS` with signed or unsigned activations.

        Args:
            activations: ``uint8`` or ``int8``; 16-bit types follow it (`WIDE`), and int16 is symmetric around 0.
            weight_bits: 7 or 8 for all weights; None: as the entry says.
        """
        found = PRECISIONS[name]
        if activations != "uint8":
            signed = {"uint8": activations, WIDE["uint8"]: WIDE[activations]}
            found = replace(found, between=signed[found.between], inside=signed[found.inside])
        if weight_bits is not None:
            found = replace(found, weight_bits=weight_bits, weight_bits_between_8=weight_bits)
        return found

    def weight_levels(self, given: str, put_out: str) -> int:
        """The largest integer, of either sign, that weights of a convolution from type ``given`` to ``put_out`` may become."""
        narrow = not {given, put_out} & set(WIDE.values())
        return LEVELS[self.weight_bits_between_8 if narrow else self.weight_bits]

    @property
    def steps(self) -> int:
        """Steps in the range of what a layer gives to the next."""
        return int(np.iinfo(self.between).max) - int(np.iinfo(self.between).min)

    @property
    def picture(self) -> Quantization:
        """A picture's integers: nothing of an input is lost, and of an output only what its file loses anyway."""
        return Quantization.fixed(1 / _STEPS[self.between], -32768 if self.between == "int16" else 0, self.between)

    @property
    def split_inputs(self) -> Quantization:
        """A decoder's input of symbols (`codecswap.inference.split_inputs`), integers in +-127.

        In 16 bits finer than 1, so that the whole range is used: Qualcomm's HTP multiplies with an absolute precision, and
        integers at scale 1 would lose their lower bits there.
        """
        wide = self.between in WIDE.values()
        return Quantization.fixed(1 / 256 if wide else 1, -32768 if wide else -128, self.between)


PRECISIONS = {
    "w8a8": Precision("uint8", "uint8", float_latents=True),
    "mixed": Precision("uint16", "uint8", float_latents=False),
    "w8a16": Precision("uint16", "uint16", float_latents=False),
}
"""By the name that ``--precision`` and ``codec.json`` have for it."""
