"""Which activations have 8 bits and which 16 (``--precision``), and where the integers' ends are."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from codecswap.graph import onnx_graph as graph
from codecswap.quantized.representation import Quantization

WIDE = {"uint8": "uint16", "int8": "int16"}
"""The 16-bit type that goes with a type of 8-bit activations."""
LEVELS = {7: 64, 8: 127}
"""Per ``--weight_bits``: weights are whole numbers in +- this, times their output channel's scale.

Two products of a uint8 activation with weights of 7 bits add up to at most 2 * 255 * 64 = 32,640, which fits in the 16 bits
that some processors' instructions (vpmaddubsw) and runtimes have for them; with 8 bits it would be 64,770.
"""
_STEPS = {"uint8": 255, "int8": 255, "uint16": 65535, "int16": 32640}
"""Levels between black and white: the multiples of 255 that the 256 levels of a picture file are on exactly."""


@dataclass(frozen=True)
class Precision:
    """Types of activations, as NumPy names them."""

    outside: str
    """Of a network's input, of tensors that layers give to each other, and of those inside convolution layers."""
    inside: str
    """Of the square, its weighted sum and the root inside a GDN."""

    @classmethod
    def of(cls, name: str, activations: str) -> "Precision":
        """The one of a ``--precision`` and a type of 8-bit ``--activations``."""
        wide = WIDE[activations]
        return {
            "w8a8": cls(activations, activations),
            "mixed": cls(wide, activations),
            "w8a16": cls(wide, wide),
        }[name]

    @property
    def steps(self) -> int:
        """In the range of what a layer gives to the next."""
        return 65535 if self.outside in WIDE.values() else 255

    @property
    def picture(self) -> Quantization:
        """Of pictures: in, nothing is lost; out, only what their file loses anyway."""
        return Quantization.fixed(1 / _STEPS[self.outside], -32768 if self.outside == "int16" else 0, self.outside)

    @property
    def split_inputs(self) -> Quantization:
        """Of a decoder's input, which is integers in +-127; in 16 bits finer, so that the whole range is used.

        Qualcomm's HTP multiplies with an absolute precision: integers at scale 1 in 16 bits would lose their lower bits there.
        """
        wide = self.outside in WIDE.values()
        return Quantization.fixed(1 / 256 if wide else 1, -32768 if wide else -128, self.outside)

    def gain(self, highest: float) -> Quantization:
        """Of a gain inside a GDN, from 0 to ``highest``: rounding cuts what is above, before a Clip does."""
        limits = np.iinfo(self.inside)
        if self.inside == "int16":  # symmetric around 0
            return Quantization(np.array(highest / limits.max, np.float32), np.array(0, np.int16))
        return Quantization.fixed(highest / (limits.max - limits.min), 0, self.inside)


def weight_levels(bits: int | None, given: str, put_out: str) -> int:
    """The largest whole number that a convolution's weights may become, of either sign (`LEVELS`).

    Args:
        bits: of ``--weight_bits``; None: as the types ask.
        given, put_out: types of its input and output. Only where both have 8 bits do runtimes compute it in integers.
    """
    return LEVELS[bits or (8 if {given, put_out} & set(WIDE.values()) else 7)]


def inner_tensors(model: ModelProto, layers: Iterable[str]) -> list[str]:
    """Tensors of a graph that are put out in one of ``layers``, e.g. ``g_s.1``, and read nowhere else."""
    read_outside = {output.name for output in model.graph.output}
    made: dict[str, str] = {}
    for node in model.graph.node:
        layer = graph.layer_of(node)
        read_outside.update(name for name in node.input if made.get(name, layer) != layer)
        made.update(dict.fromkeys(node.output, layer))
    return [name for name, layer in made.items() if layer in set(layers) and name not in read_outside]
