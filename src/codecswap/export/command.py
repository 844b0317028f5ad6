"""``codecswap export``: write the files, verify them, say what they hold and whether an NPU takes them."""

from codecswap.config import ExportOptions
from codecswap.console import say, track, warn
from codecswap.export.codec import export
from codecswap.export.operators import complaints
from codecswap.export.tables import show_facts
from codecswap.students.source import gdn_label, load_source, with_gdn
from codecswap.swaps import SWAPS
from codecswap.targets.target import load_target

REFUSED = 3
"""Exit code where a target does not accept the graphs."""


def main(options: ExportOptions) -> int:
    """``codecswap export``; returns 0, or 3 where ``--target`` does not accept something."""
    target = load_target(options.target) if options.target else None
    codec, name, replacement = load_source(options)
    if not options.checkpoint and (made_by := SWAPS.get(replacement)) and not made_by.exact:
        warn(
            f"--replacement {replacement} is not exact and this one is untrained: export a --checkpoint of distill or "
            "finetune."
        )
    codec, label = with_gdn(codec, options, options.part), gdn_label(replacement, options)
    how = {key: getattr(options, key) for key in ("form", "opset", "height", "width", "input", "fp16", "images")}
    manifest, found = export(codec, options.output, **how, part=options.part, name=name, replacement=label, track=track)
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
