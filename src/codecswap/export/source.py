"""Where export and quantise take their codec from."""

from pathlib import Path
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher
from codecswap.errors import UserError
from codecswap.swaps.apply import swap
from codecswap.training.checkpoint import load_student


def load_source(options: Any, typed: set[str]) -> tuple[Codec, str, str]:
    """The codec that the options name: a student's checkpoint, or a teacher with or without a replacement.

    Args:
        options: with ``checkpoint``, ``teacher``, ``quality``, ``metric`` and ``replacement``.
        typed: names of the options that were typed.

    Returns: the codec, where it comes from in words, and its replacement (``none``: a teacher).

    Raises:
        UserError: a file is missing, damaged or another thing, or ``--replacement`` contradicts the checkpoint.
    """
    if not options.checkpoint:
        teacher = Teacher.of(options)
        codec, name = teacher.load(), Path(teacher.path).name if teacher.path else teacher.name
        if options.replacement != "none":
            codec, _ = swap(codec, options.replacement)
        return codec.requires_grad_(False), name, options.replacement
    loaded = load_student(options.checkpoint)
    made = loaded.replacement
    if "replacement" in typed and options.replacement != made:
        raise UserError(f"{loaded.path} holds a student with --replacement {made}, not {options.replacement}.")
    return loaded.student.requires_grad_(False), loaded.path.name, made
