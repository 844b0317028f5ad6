"""``codecswap compile``: write a codec's networks for an NPU, run its compiler, and measure it in the vendor's simulator."""

import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import Teacher
from codecswap.compile import TOOLCHAINS
from codecswap.compile.compiler import Result, check_codec, choose_target, compile
from codecswap.compile.measure import EncoderQuality
from codecswap.compile.recommend import TOLERATED, recommend
from codecswap.config import CompileOptions
from codecswap.console import alarm, say, show_table, track
from codecswap.data.samples import VERIFIED_ON, calibration_pictures, held_out_pictures
from codecswap.errors import UserError
from codecswap.export.tables import show_frontier, show_gdn
from codecswap.quantize.loss import BAD_LOSS, complaint
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.source import check_fixed_options, load_source
from codecswap.swaps.closed_form import fit_gdn

CPU_NEEDED = 3
"""Exit code if an operator does not run on the NPU; the same as `BAD_LOSS`."""
UNCHECKED = "whether it compiles, what runs on the NPU, cycles, memory, and the picture in the NPU's arithmetic"


def main(options: CompileOptions) -> int:
    """``codecswap compile``; returns 0, or 3 where something does not run on the NPU, or too much is lost."""
    assert options.target and options.height and options.width
    target = choose_target(options.target, options.precision)  # before anything is loaded
    form = options.form or target.form
    codec, name = load_source(Teacher.of(options), options.checkpoint, replacement=options.replacement, form=form)
    check_fixed_options(codec, name, options.explicit())
    check_codec(codec, (options.height, options.width), target, options.part)
    fitted = fit_gdn(
        codec,
        options.gdn,
        options.part,
        calibration=calibration_pictures(options.calibration_images, options.size, options.calibration_count),
        held_out=islice(held_out_pictures(options.images, options.size, codec.multiple), VERIFIED_ON),
        tolerance=options.gdn_tolerance,
    )
    show_gdn(fitted)
    names = [
        "target",
        "part",
        "max_loss",
        "max_cost",
        "form",
        "height",
        "width",
        "toolchain_python",
        "images",
        "calibration_images",
        "calibration_count",
    ]
    how = {key: getattr(options, key) for key in names} | {"reference": codec, "name": name, "track": track}
    toolchain, trained = TOOLCHAINS[target.toolchain or ""], isinstance(codec.g_s, QuantizedSynthesis)
    precision = options.precision
    budget = options.max_loss is not None or options.max_cost is not None
    asked = precision or trained or budget or len(target.precisions) == 1
    if not asked and toolchain.installed(options.toolchain_python):
        precision = _recommended(fitted.codec, target.precisions, how)
    made = compile(fitted.codec, output=options.output, precision=precision, **how)
    results = [made, made.encoder] if made.encoder else [made]
    for result in results:
        show(result)
    say(f"Written: {options.output}.")
    bad = [(one.job, one.quality) for one in results if one.quality and not one.quality.loss.acceptable]
    for job, quality in bad:
        remedies = [f"--precision {other}" for other in target.precisions if other != job.precision and not trained]
        if job.part == "decoder":
            remedies.append("quantization-aware training: `codecswap finetune --quantized`")
        what = f"The {job.part} in {job.precision} on {target.chip}"
        alarm(complaint(what, quality.loss, quality.reason, remedies))
    return BAD_LOSS if bad else 0 if made.on_npu else CPU_NEEDED


def _recommended(codec: Codec, precisions: Sequence[str], how: dict[str, Any]) -> str | None:
    """Compile each precision for a look at a few pictures, print the table, and choose."""
    results = {}
    for precision in precisions:
        with tempfile.TemporaryDirectory() as folder:
            try:
                results[precision] = compile(codec, output=folder, precision=precision, most=VERIFIED_ON, **how)
            except UserError as error:
                say(f"--precision {precision}: {error}")
    if not results:
        return None
    rows = []
    for precision, made in results.items():
        compiled, quality = made.compiled, made.quality
        lost = f"{quality.loss.decibels:.3f}" if quality else ""
        cycles, ms = _amount(compiled.cycles and compiled.cycles / 1e6, "", 2), _amount(compiled.milliseconds, "", 1)
        rows.append([precision, lost, cycles, ms, "yes" if made.on_npu else "no"])
    columns = ["--precision", f"loses on {VERIFIED_ON} pictures, dB", "10^6 cycles", "ms", "without the CPU?"]
    show_table(f"What {how['target']} offers", columns, rows)
    chosen = recommend(results)
    say(f"Recommended, and taken: --precision {chosen} (the fastest that loses at most {TOLERATED} dB, or the best).")
    return chosen


def show(made: Result) -> None:
    """Print the results of the compiler and the simulator."""
    job, compiled, quality = made.job, made.compiled, made.quality
    title = f"{job.name}, {job.part} for {job.target.chip}, {job.precision}, {job.size[1]}x{job.size[0]}"
    if compiled.operators:
        layers = dict.fromkeys(one.layer for one in compiled.operators)
        rows = []
        for layer in layers:
            inside = [one for one in compiled.operators if one.layer == layer]
            words = (", ".join(one.operator for one in inside if one.on_npu is side) for side in (True, False))
            rows.append([layer, *words, _amount(_total(one.cycles for one in inside), "")])
        show_table(title, ["layer", "on the NPU", "on the CPU", "cycles"], rows)
    if job.quantized and job.quantized.frontier:
        show_frontier(job.quantized.frontier)
    on_npu = sum(one.on_npu for one in compiled.operators)
    figures = [
        f"{on_npu} operators on the NPU, {len(compiled.operators) - on_npu} on the CPU" if compiled.operators else "",
        _amount(compiled.cycles, "cycles"),
        _amount(compiled.milliseconds, "ms", 1),
        _amount(compiled.memory and compiled.memory / 1024, "KiB of memory"),
    ]
    if compiled.compiler:
        say(f"{compiled.compiler}: {'; '.join(filter(None, figures)) or 'compiled'}.")
    if isinstance(quality, EncoderQuality):
        shown = quality.file, quality.file_bits
        if quality.compiled is not None and quality.compiled_bits is not None:
            shown = quality.compiled, quality.compiled_bits
        what = "encoder.onnx" if quality.compiled is None else compiled.computed_by
        say(f"What {what} encodes of {quality.pictures} pictures: {shown[0]:.3f} dB at {shown[1]:.4f} bits per pixel.")
        say(
            f"In float32: {quality.float32:.3f} dB at {quality.float32_bits:.4f} ({-quality.loss.decibels:+.3f} dB, "
            f"{quality.loss.bits:+.2%} bits)."
        )
    elif quality:
        trained = isinstance(job.codec.g_s, QuantizedSynthesis)
        reference = "as it was trained, in PyTorch" if trained else "in float32"
        say(f"The file, decoder.onnx, against the decoder {reference}: {quality.file_to_float:.1f} dB.")
        file = ("decoder.onnx", quality.file)
        if quality.compiled is not None:
            by = compiled.computed_by
            say(f"Against the file, {by}: {quality.to_file:.1f} dB.")
            file = (by, quality.compiled)
        say(
            f"PSNR of {file[0]} against {quality.pictures} pictures: {file[1]:.3f} dB, {quality.float32:.3f} {reference} "
            f"({file[1] - quality.float32:+.3f})."
        )
    for note in (*job.target.notes, *compiled.notes):
        say(note)
    if compiled.compiler is None:
        say(f"Not installed: {TOOLCHAINS[job.target.toolchain or ''].install}. Not checked: {UNCHECKED}.")
    if made.refused is not None:
        say(f"By its list of operators {job.target.name} accepts {'not all:' if made.refused else 'all.'}")
        for line in made.refused:
            say(f"  {line}.")


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _amount(value: float | None, unit: str, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f} {unit}".rstrip()
