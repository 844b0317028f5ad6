"""``codecswap quantize``: a codec in integers, what that costs, and where."""

from itertools import islice

from codecswap.codecs.source import Teacher
from codecswap.config import QuantizeOptions
from codecswap.console import alarm, bar, say, warn
from codecswap.data.samples import VERIFIED_ON, calibration_pictures, held_out_pictures
from codecswap.export.codec import quantize
from codecswap.export.folder import agreement_sentences, equalization_sentences, finer_sentence
from codecswap.export.tables import show_costs, show_facts, show_frontier, show_gdn, show_quality
from codecswap.inference.folder import read_folder
from codecswap.quantize.budget import CANDIDATES
from codecswap.quantize.codec import STEPS, QuantizedCodec
from codecswap.quantize.loss import BAD_LOSS, complaint
from codecswap.quantize.sensitivity import Cost
from codecswap.quantized.precision import PRECISIONS
from codecswap.students.source import check_fixed_options, load_source
from codecswap.swaps.closed_form import fit_gdn


def main(options: QuantizeOptions) -> int:
    """``codecswap quantize``; returns 0, or 3 where too much is lost."""
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
    worst = []
    for key, network in networks.networks.items():
        if not networks.frontier:
            worst.append(show_costs(key, network))
        for sentence in (*equalization_sentences(network), finer_sentence(network)):
            if sentence:
                say(sentence)
    if networks.frontier:
        show_frontier(networks.frontier)
    for sentence in agreement_sentences(agreements):
        say(sentence)
    if "encoder" in networks.networks:
        warn("a quantized encoder gives other latents: files are as valid, but not the float encoder's byte for byte.")
    show_facts(options.output, read_folder(options.output)[0])
    loss = show_quality(codec, options.output, held_out, part=options.part, form=options.form)
    say(f"Written: {options.output}.")
    if loss.acceptable:
        return 0
    largest = max((cost for cost in worst if cost), key=lambda cost: cost.mse, default=None)
    reason = f"most of it comes from {largest.layer} ({largest.tensor})" if largest else ""
    what = f"{' and '.join(networks.networks)} in {networks.precision}"
    alarm(complaint(f"The {what}", loss, reason, _remedies(networks, largest)))
    return BAD_LOSS


def _remedies(made: QuantizedCodec, worst: Cost | None) -> list[str]:
    names = list(PRECISIONS)
    more = [f"--precision {name}" for name in names[names.index(made.precision) + 1 :][-1:]]
    return [*more, *([f"--keep '[{worst.layer}]'"] if worst else []), "a float codec of `codecswap export`"]
