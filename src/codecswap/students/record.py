"""Record of how a student was built, derived from its layers and stored in its checkpoint."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from codecswap.codecs.architectures import name_of
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher, fingerprint
from codecswap.config import ZOO
from codecswap.errors import UserError
from codecswap.layers.gdn import GDN
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps import GDN_SWAPS, SWAPS, UNCHANGED, swap_of
from codecswap.swaps.apply import PARTS
from codecswap.swaps.swap import Swap

UNSWAPPED = "none"
"""Value of ``replacement`` if transposed convolutions were not replaced."""


@dataclass(frozen=True)
class StudentRecord:
    """How to rebuild a student and find its teacher; stored in every checkpoint under ``codec``."""

    N: int
    """Channels inside the transforms."""
    M: int
    """Channels of the latents."""
    replacement: str
    """A name in `codecswap.swaps.SWAPS`, or ``none``."""
    kernel_size: int | None
    """Kernel size of the replacement if it differs from the teacher's."""
    teacher: str | None
    """Path of the teacher, ``tiny``, or None for the zoo."""
    quality: int
    """Quality in the zoo."""
    metric: str
    """Metric in the zoo."""
    teacher_sha256: str | None
    """`codecswap.codecs.source.fingerprint` of the teacher."""
    same_latents: bool
    """Encoder and entropy model are the teacher's, so the student decodes its bitstreams."""
    model: str = ZOO
    """Architecture in the zoo."""
    architecture: str | None = None
    """Architecture of student and teacher, a name in `codecswap.codecs.architectures.ARCHITECTURES`; None: the weights tell."""
    gdn: str = UNCHANGED
    """A name in `codecswap.swaps.GDN_SWAPS`, or ``sqrt``."""
    gdn_pieces: int | None = None
    """Size of the GDN swap, if it has sizes."""
    gdn_part: str = "decoder"
    """Part in which GDNs were replaced, a name in `codecswap.swaps.apply.PARTS`."""
    integers: dict[str, Any] | None = None
    """The layout of a quantized decoder (`codecswap.quantized.synthesis.QuantizedSynthesis.layout`); None if it is in float."""

    @classmethod
    def of(cls, student: Codec, teacher: Codec) -> "StudentRecord":
        """Derive the record from a student's layers.

        Args:
            student: what `codecswap.swaps.apply.swap` made of ``teacher``, trained or not. The swaps of a quantized decoder,
                whose layers are gone, are those of its former record.
            teacher: codec that it was built from, as loaded.

        Raises:
            UserError: its layers are from several swaps.
        """
        source, before = teacher.source or Teacher(), student.record
        integers = student.g_s.layout() if isinstance(student.g_s, QuantizedSynthesis) else None
        if integers and before:
            keys = ("replacement", "kernel_size", "gdn", "gdn_pieces", "gdn_part")
            swaps = {key: getattr(before, key) for key in keys}
        else:
            swaps = _swaps(student, teacher)
        return cls(
            N=teacher.N,
            M=teacher.M,
            teacher=source.path,
            quality=source.quality,
            metric=source.metric,
            teacher_sha256=fingerprint(teacher),
            same_latents=student.same_latents(teacher),
            model=source.model,
            architecture=name_of(teacher),
            integers=integers,
            **swaps,
        )

    @property
    def label(self) -> str:
        """The swaps by name, and the precision of a quantized decoder, e.g. ``subpixel, gdn relu, w8a8``."""
        gdn = [] if self.gdn == UNCHANGED else [f"gdn {self.gdn}"]
        return ", ".join([self.replacement, *gdn, *([self.integers["precision"]] if self.integers else [])])

    @property
    def exact(self) -> bool:
        """Whether the decoder equals the teacher's up to rounding."""
        upsampling = self.replacement == UNSWAPPED or SWAPS[self.replacement].exact
        return self.integers is None and upsampling and (self.gdn == UNCHANGED or GDN_SWAPS[self.gdn].exact)


def describe_swaps(codec: Codec) -> str:
    """The swaps that made layers of a codec, by name, e.g. ``subpixel, gdn ramps`` or ``none``.

    The layers of a quantized decoder are gone: its record says which they were, and its precision, e.g. ``subpixel, w8a8``.
    """
    if codec.record and codec.record.integers:
        return codec.record.label
    made = {swap.name for layer in codec.modules() if (swap := swap_of(layer))}
    return ", ".join(
        [*(sorted(made & SWAPS.keys()) or [UNSWAPPED]), *(f"gdn {name}" for name in sorted(made & GDN_SWAPS.keys()))]
    )


def _swaps(student: Codec, teacher: Codec) -> dict[str, Any]:
    """Swaps of a float student."""
    made: dict[str, list[tuple[Swap, nn.Module, nn.Module]]] = {"g_a": [], "g_s": []}
    for transform, layers in made.items():
        for name, layer in student.get_submodule(transform).named_modules(prefix=transform):
            if chosen := swap_of(layer):
                layers.append((chosen, layer, teacher.get_submodule(name)))
    both = made["g_a"] + made["g_s"]
    upsampling = [found for found in both if found[0].replaces is nn.ConvTranspose2d]
    gdns = [found for found in both if found[0].replaces is GDN]
    replacement, sizes = _only(upsampling)
    theirs = {getattr(old, "kernel_size", (None,))[0] for _, _, old in upsampling}
    gdn, pieces = _only(gdns)
    where = tuple(name for name, layers in made.items() if any(found[0].replaces is GDN for found in layers))
    return {
        "replacement": replacement or UNSWAPPED,
        "kernel_size": sizes.pop() if len(sizes) == 1 and sizes != theirs else None,
        "gdn": gdn or UNCHANGED,
        "gdn_pieces": pieces.pop() if len(pieces) == 1 else None,
        "gdn_part": next((part for part, transforms in PARTS.items() if transforms == where), "decoder"),
    }


def _only(found: list[tuple[Swap, nn.Module, nn.Module]]) -> tuple[str | None, set[int]]:
    """Name of the only swap of these layers, and the set of their sizes, if it has sizes."""
    names = {chosen.name for chosen, _, _ in found}
    if len(names) > 1:
        raise UserError(f"The student's layers are of several swaps ({', '.join(sorted(names))}): make it with one.")
    return next(iter(names), None), {chosen.size_of(layer) for chosen, layer, _ in found if chosen.size_of}
