"""Where export and quantize take their codec from."""

from itertools import islice
from pathlib import Path

import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher
from codecswap.config import CompileOptions, DeployOptions, Form, OnnxOptions, Part
from codecswap.console import say, show_table, warn
from codecswap.data.samples import CROP, VERIFIED_ON, sample_pictures
from codecswap.errors import UserError
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.checkpoint import read_student
from codecswap.swaps import GDN_SWAPS, KEPT
from codecswap.swaps.apply import swap
from codecswap.swaps.closed_form import measure, swap_and_fit

DECIDED = {
    "gdn",
    "form",
    "precision",
    "activations",
    "weight_bits",
    "equalize",
    "refit",
    "keep",
}
"""Options that a decoder in integers has an answer to."""
EXACT: dict[Form, str] = {"native": "none", "masked": "masked", "subpixel": "subpixel"}
"""Without training: the replacement whose layers have a form."""


def load_source(options: OnnxOptions | CompileOptions, form: Form | None = None) -> tuple[Codec, str, str]:
    """The codec that the options name: a student's checkpoint, or a teacher with or without a replacement.

    Args:
        options: with ``checkpoint``, ``teacher``, ``quality``, ``metric`` and ``replacement``.
        form: what the device takes, by default ``--form``, and subpixel convolutions where that is native; without a
            checkpoint and ``--replacement``, the exact replacement with this form is made.

    Returns: the codec, where it comes from in words, and its replacement (``none``: a teacher).

    Raises:
        UserError: a file is missing, damaged or another thing, or ``--replacement`` contradicts the checkpoint.
    """
    if not options.checkpoint:
        teacher = Teacher.of(options)
        codec, name = teacher.load(), Path(teacher.path).name if teacher.path else teacher.name
        form = form or ("subpixel" if options.form in (None, "native") else options.form)
        replacement = options.replacement or EXACT[form]
        if replacement != "none":
            codec, _ = swap(codec, replacement)
        return codec.requires_grad_(False), name, replacement
    loaded = read_student(options.checkpoint)
    made = loaded.replacement
    if options.replacement not in (None, made):
        raise UserError(f"{loaded.path} holds a student with --replacement {made}, not {options.replacement}.")
    gdn = loaded.record.gdn if loaded.record else KEPT
    if gdn != KEPT and options.gdn != KEPT:
        raise UserError(f"{loaded.path} holds a student with --gdn {gdn}, not {options.gdn}: leave out --gdn.")
    if isinstance(decoder := loaded.student.g_s, QuantizedSynthesis):
        same = {"precision"} if getattr(options, "precision", None) == decoder.precision else set()
        if decided := sorted(options.given & DECIDED - same):
            raise UserError(
                f"{loaded.path} holds a decoder in integers ({decoder.precision}), which decide on --{decided[0]}: "
                "leave it out."
            )
    return loaded.student.requires_grad_(False), loaded.path.name, loaded.label


def with_gdn(codec: Codec, options: DeployOptions, part: Part) -> Codec:
    """The codec with the GDNs of ``part`` as ``--gdn`` asks for; says what that costs on pictures that nothing was fitted to.

    Raises:
        UserError: the codec has no GDNs that could be replaced, or a folder holds no picture.
    """
    if options.gdn == KEPT:
        return codec
    size = options.size or CROP
    found = sample_pictures(options.calibration_images, "--calibration_images", "train", size, codec.factor)
    pictures = torch.stack([torch.from_numpy(one) for one in islice(found, options.calibration_count)])
    made, replaced, pieces = swap_and_fit(codec, options.gdn, part, pictures, tolerance=options.gdn_tolerance)
    show_table("GDN layers", ["layer", "before", "now"], [[one.name, one.before, one.after] for one in replaced])
    if GDN_SWAPS[options.gdn].exact:
        say(f"--gdn {options.gdn} equals the codec's own GDN layers.")
        return made.requires_grad_(False)
    shown = sample_pictures(options.images, "--images", "val", options.size, codec.factor)
    held_out = [torch.from_numpy(one)[None] for one in islice(shown, VERIFIED_ON)]
    how = f" in {pieces} pieces" if pieces else ""
    say(
        f"--gdn {options.gdn}{how}, on {len(held_out)} pictures it was not fitted to: {measure(codec, made, held_out)}."
    )
    if GDN_SWAPS[options.gdn].trained:
        warn(f"--gdn {options.gdn} comes close only after training: distill and fine-tune a student with it.")
    return made.requires_grad_(False)


def gdn_label(replacement: str, options: DeployOptions) -> str:
    """A codec's replacement as codec.json names it, its GDNs' among it."""
    return replacement if options.gdn == KEPT else f"{replacement}, gdn {options.gdn}"
