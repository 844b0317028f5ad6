"""``codecswap quantize``: a codec in integers, what that costs, and where."""

from itertools import islice

from codecswap.codecs.source import Teacher
from codecswap.config import QuantizeOptions
from codecswap.console import bar, say, warn
from codecswap.data.samples import VERIFIED_ON, calibration_pictures, held_out_pictures
from codecswap.export.codec import quantize
from codecswap.export.folder import agreement_sentences, equalization_sentences
from codecswap.export.tables import show_costs, show_facts, show_frontier, show_gdn, show_quality
from codecswap.inference.manifest import read_folder
from codecswap.quantize.budget import CANDIDATES
from codecswap.quantize.codec import STEPS
from codecswap.students.source import check_fixed_options, load_source
from codecswap.swaps.closed_form import fit_gdn


def main(options: QuantizeOptions) -> int:
    """``codecswap quantize``."""
    codec, name = load_source(
        Teacher.of(options),
        options.checkpoint,
        replacement=options.replacement,
        form=None if options.form == "native" else options.form,
    )
    check_fixed_options(codec, name, options.explicit())
    pictures = list(calibration_pictures(options.calibration_images, options.size, options.calibration_count))
    held_out = list(islice(held_out_pictures(options.images, options.size, codec.multiple), VERIFIED_ON))
    fitted = fit_gdn(
        codec, options.gdn, options.part, calibration=pictures, held_out=held_out, tolerance=options.gdn_tolerance
    )
    show_gdn(fitted)
    codec = fitted.codec
    say(f"Calibrating on {len(pictures)} pictures.")
    names = ("precision", "activations", "weight_bits", "equalize", "refit", "keep", "max_loss", "max_cost", "images")
    how = {key: getattr(options, key) for key in (*names, "form", "opset", "height", "width")}
    how |= {"part": options.part, "name": name}
    steps = len(pictures) + (CANDIDATES if options.has_budget else STEPS * (2 if options.part == "both" else 1))
    with bar("Quantize", steps, unit="steps") as advance:
        networks, agreements = quantize(codec, options.output, calibration_images=pictures, **how, advance=advance)
    for key, network in networks.networks.items():
        if not networks.frontier:
            show_costs(key, network)
        for sentence in equalization_sentences(network):
            say(sentence)
    if networks.frontier:
        show_frontier(networks.frontier)
    for sentence in agreement_sentences(agreements):
        say(sentence)
    if "encoder" in networks.networks:
        warn("a quantized encoder gives other latents: files are as valid, but not the float encoder's byte for byte.")
    show_facts(options.output, read_folder(options.output)[0])
    show_quality(codec, options.output, held_out, part=options.part, form=options.form)
    say(f"Written: {options.output}.")
    return 0
