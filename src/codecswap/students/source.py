"""Where export, quantize and compile take their codec from."""

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
from codecswap.swaps.apply import swap

DECIDED = {"gdn", "form", "precision", "activations", "weight_bits", "equalize", "refit", "keep"}
"""Options that a quantized decoder has an answer to."""
EXACT: dict[Form | None, str] = {None: "subpixel", "native": "none", "masked": "masked", "subpixel": "subpixel"}
"""The exact replacement whose layers have a form."""


def load_source(
    teacher: Teacher, checkpoint: str | None = None, *, replacement: str | None = None, form: Form | None = None
) -> tuple[Codec, str]:
    """Load a student's checkpoint, or a teacher with a replacement that needs no training.

    Args:
        teacher: it is loaded where there is no checkpoint.
        checkpoint: a student's file.
        replacement: of the teacher's transposed convolutions (``none``: it keeps them), or what the checkpoint must have; None:
            the exact one of the form.
        form: how the device takes upsampling layers; None: any.

    Returns: the codec, and where it comes from in words.

    Raises:
        UserError: a file is missing, damaged or another thing, or the checkpoint has another replacement.
    """
    if not checkpoint:
        codec, replacement = teacher.load(), replacement or EXACT[form]
        if replacement != "none":
            codec, _ = swap(codec, replacement)
        return codec.requires_grad_(False), Path(teacher.path).name if teacher.path else teacher.name
    loaded = read_student(checkpoint)
    if replacement not in (None, loaded.replacement):
        raise UserError(f"{loaded.path} holds a student with --replacement {loaded.replacement}, not {replacement}.")
    return loaded.student.requires_grad_(False), loaded.path.name


def check_undecided(codec: Codec, name: str, given: Mapping[str, Any]) -> None:
    """Refuse options that a student has decided already.

    Args:
        codec: the student, or any other codec, which has decided nothing.
        name: where it comes from, in words.
        given: the options that were explicitly set, by name.

    Raises:
        UserError: it has other GDN layers, or its quantized decoder has its own precision, form, ...
    """
    gdn = codec.record.gdn if codec.record else UNCHANGED
    if gdn != UNCHANGED and (asked := given.get("gdn", UNCHANGED)) != UNCHANGED:
        raise UserError(f"{name} holds a student with --gdn {gdn}, not {asked}: leave out --gdn.")
    if isinstance(decoder := codec.g_s, QuantizedSynthesis):
        same = {"precision"} if given.get("precision") == decoder.precision else set()
        if decided := sorted(given.keys() & DECIDED - same):
            raise UserError(
                f"{name} holds a quantized decoder ({decoder.precision}), which decides on --{decided[0]}: leave it out."
            )
