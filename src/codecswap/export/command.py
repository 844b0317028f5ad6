"""``codecswap export``: write the files, verify them, say what they hold and whether an NPU takes them."""

from itertools import islice

from codecswap.codecs.source import Teacher
from codecswap.config import ExportOptions
from codecswap.console import say, track, warn
from codecswap.data.samples import VERIFIED_ON, calibration_pictures, held_out_pictures
from codecswap.export.codec import export
from codecswap.export.operators import complaints
from codecswap.export.tables import show_facts, show_gdn
from codecswap.students.source import check_fixed_options, load_source
from codecswap.swaps import SWAPS
from codecswap.swaps.closed_form import fit_gdn
from codecswap.targets.target import load_target

REFUSED = 3
"""Exit code if a target does not accept the graphs."""


def main(options: ExportOptions) -> int:
    """``codecswap export``; returns 0, or 3 where ``--target`` does not accept something."""
    target = load_target(options.target) if options.target else None
    codec, name = load_source(
        Teacher.of(options),
        options.checkpoint,
        replacement=options.replacement,
        form=None if options.form == "native" else options.form,
    )
    check_fixed_options(codec, name, options.explicit())
    if not options.checkpoint and (chosen := SWAPS.get(options.replacement or "")) and not chosen.exact:
        warn(
            f"--replacement {chosen.name} is not exact and this one is untrained: export a --checkpoint of distill or "
            "finetune."
        )
    fitted = fit_gdn(
        codec,
        options.gdn,
        options.part,
        calibration=calibration_pictures(options.calibration_images, options.size, options.calibration_count),
        held_out=islice(held_out_pictures(options.images, options.size, codec.multiple), VERIFIED_ON),
        tolerance=options.gdn_tolerance,
    )
    show_gdn(fitted)
    how = {key: getattr(options, key) for key in ("form", "opset", "height", "width", "input", "fp16", "images")}
    manifest, found = export(fitted.codec, options.output, **how, part=options.part, name=name, track=track)
    show_facts(options.output, manifest)
    for sentence in found.sentences():
        say(sentence)
    say(f"Written: {options.output}.")
    if target is None:
        return 0
    refused = {n.file: complaints(options.output / n.file, target) for n in manifest.networks}
    for note in target.notes:
        say(f"{target.name}: {note}")
    for file, lines in refused.items():
        say(f"{target.name} does not accept in {file}:" if lines else f"{target.name} accepts {file}.")
        for line in lines:
            say(f"  {line}.")
    say(f"(The list was read from {target.source}.)")
    return REFUSED if any(refused.values()) else 0
