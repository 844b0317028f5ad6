"""Load the codec for export, quantize and compile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher
from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.checkpoint import read_student
from codecswap.swaps import UNCHANGED
from codecswap.swaps.apply import can_swap, swap

FIXED_IF_QUANTIZED = {"gdn", "form", "precision", "activations", "weight_bits", "equalize", "refit", "keep"}
"""Options that a quantized decoder fixes."""
EXACT: dict[Form | None, str] = {None: "subpixel", "native": "none", "masked": "masked", "subpixel": "subpixel"}
"""Exact replacement for each lowering."""


def load_source(
    teacher: Teacher, checkpoint: str | None = None, *, replacement: str | None = None, form: Form | None = None
) -> tuple[Codec, str]:
    """Load a student's checkpoint, or a teacher with an exact replacement.

    Args:
        teacher: loaded if there is no checkpoint.
        checkpoint: file of a student.
        replacement: of the teacher's transposed convolutions (``none``: it keeps them), or what the checkpoint must have; None:
            the exact one for the lowering, if the decoder has any.
        form: lowering that the device needs; None: any.

    Returns: the codec, and its source as text.

    Raises:
        UserError: a file is missing, damaged or of another kind, the checkpoint has another replacement, or the teacher's
            decoder has nothing to replace.
    """
    if not checkpoint:
        codec, chosen = teacher.load(), replacement or EXACT[form]
        if chosen != "none" and (replacement or can_swap(codec, chosen)):
            codec, _ = swap(codec, chosen)
        return codec.requires_grad_(False), Path(teacher.path).name if teacher.path else teacher.name
    loaded = read_student(checkpoint, [teacher])
    if replacement not in (None, loaded.replacement):
        raise UserError(f"{loaded.path} holds a student with --replacement {loaded.replacement}, not {replacement}.")
    return loaded.student.requires_grad_(False), loaded.path.name


def check_fixed_options(codec: Codec, name: str, given: Mapping[str, Any]) -> None:
    """Refuse options that contradict a student.

    Args:
        codec: a student, or any other codec, which fixes nothing.
        name: source of the codec, as text.
        given: the options that were explicitly set, by name.

    Raises:
        UserError: it has other GDN layers, or its quantized decoder fixes the precision, form, ...
    """
    gdn = codec.record.gdn if codec.record else UNCHANGED
    if gdn != UNCHANGED and (asked := given.get("gdn", UNCHANGED)) != UNCHANGED:
        raise UserError(f"{name} holds a student with --gdn {gdn}, not {asked}: leave out --gdn.")
    if isinstance(decoder := codec.g_s, QuantizedSynthesis):
        same = {"precision"} if given.get("precision") == decoder.precision else set()
        if decided := sorted(given.keys() & FIXED_IF_QUANTIZED - same):
            raise UserError(
                f"{name} holds a quantized decoder ({decoder.precision}), which fixes --{decided[0]}: leave it out."
            )
