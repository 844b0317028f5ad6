"""``codecswap compile``: the decoder for an NPU, what its compiler says, and what it decodes in the vendor's simulator."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.toolchain import Compiled, Decode, Job
from codecswap.config import CompileOptions
from codecswap.console import say, show_table, track
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.operators import Target, chips, complaints, load_target
from codecswap.inference.manifest import replaced_folder
from codecswap.inference.tiles import in_tiles
from codecswap.metrics import psnr, to_8_bits
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.source import gdn_label, load_source, with_gdn

CPU_NEEDED = 3
"""Exit code where an operator does not run on the NPU."""
UNCHECKED = "whether it compiles, what runs on the NPU, cycles, memory, and the picture in the NPU's arithmetic"
HIGHEST = 150.0
"""dB that equal pictures are given."""
REPORT = "report.json"
"""Beside the files: all that is printed."""


@dataclass(frozen=True)
class Quality:
    """Means over pictures that were not calibrated on, in dB."""

    pictures: int
    float32: float
    """PSNR of the float codec against the picture, both rounded to 8 bits."""
    compiled: float
    """PSNR of the compiled decoder against the picture."""
    to_float: float
    """PSNR of the compiled decoder against the float codec's picture, neither of them rounded or clamped."""


def main(options: CompileOptions) -> int:
    """``codecswap compile``; returns 0, or 3 where something does not run on the NPU."""
    assert options.target
    target = load_target(options.target)
    if target.toolchain not in TOOLCHAINS:
        known = ", ".join(chip for chip, name in chips().items() if load_target(name).toolchain in TOOLCHAINS)
        raise UserError(
            f"{options.target} has no toolchain that this program calls: take one of {known}, or `codecswap export --target "
            f"{options.target}`, which checks the operators."
        )
    precision = options.precision or target.precisions[0]
    if precision not in target.precisions:
        raise UserError(f"{options.target} has no --precision {precision}: it is {' or '.join(target.precisions)}.")
    codec, name, replacement = load_source(options, options.form or target.form)
    if isinstance(codec.g_s, QuantizedSynthesis):
        if codec.g_s.target != target.toolchain:
            raise UserError(
                f"{name} was not fine-tuned in {options.target}'s integers: compile its student of before, or fine-tune that "
                f"with --quantized and --target {options.target}."
            )
        precision = codec.g_s.precision
    if codec.predicts_means:
        raise UserError(
            "compile is for factorized priors so far: take `codecswap export` for a codec with a hyperprior."
        )
    least = 2 * codec.margin * codec.factor
    if min(options.size or ()) <= least:
        raise UserError(
            f"--height and --width are more than {least}: larger pictures are decoded in tiles that overlap."
        )
    options = options.replace(form=options.form or target.form)
    toolchain, before = TOOLCHAINS[target.toolchain], _files(options.output)
    with replaced_folder(options.output) as made:
        job = job_for(codec, name, replacement, made, target, precision, options)
        compiled = toolchain.compile(job)
        quality = measure(codec, compiled.decode, options) if compiled.decode else None
        show(job, compiled, quality)
        if compiled.compiler is None:
            say(f"Not installed: {toolchain.install}. Not checked: {UNCHECKED}.")
        refused = _refused(job, compiled)
        content = report(job, compiled, quality)
        (made / REPORT).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    for file in before - set(content["files"]):
        (options.output / file).unlink(missing_ok=True)
    say(f"Written: {options.output}.")
    return 0 if all(one.on_npu for one in compiled.operators) and not refused else CPU_NEEDED


def job_for(
    codec: Codec, name: str, replacement: str, folder: Path, target: Target, precision: str, options: CompileOptions
) -> Job:
    """A job with pictures to calibrate on, and their symbols.

    Args:
        codec: as it is; the job's GDNs are as ``options`` ask for.
        folder: empty.
        options: with ``form``.

    Raises:
        UserError: there are no such pictures.
    """
    given = sample_pictures(options.calibration_images, "--calibration_images", "train", options.size)
    pictures, teacher = list(islice(given, options.calibration_count)), TorchCodec(codec)
    symbols = [teacher.tables.to_symbols(teacher.analyze(one)) for one in pictures]
    made, label = with_gdn(codec, options, "decoder"), gdn_label(replacement, options)
    return Job(made, name, label, folder, target, precision, options, pictures, symbols)


def measure(codec: Codec, decode: Decode, options: CompileOptions) -> Quality:
    """Decode validation pictures, larger ones than the compiled size in tiles."""
    assert options.height and options.width
    teacher = TorchCodec(codec)
    size = (options.height // codec.factor, options.width // codec.factor)
    found = sample_pictures(options.images, "--images", "val", None, codec.factor)
    scores: list[tuple[float, ...]] = []
    for picture in track("Measure", [_at_least(one, options) for one in found], unit="pictures"):
        symbols = teacher.tables.to_symbols(teacher.analyze(picture))
        wanted = teacher.synthesize(symbols)
        got = in_tiles(decode, symbols, size, codec.margin, scale_in=1, scale_out=codec.factor)
        x, y, z = (torch.from_numpy(one)[None] for one in (picture, wanted, got))
        pairs = ((to_8_bits(y), x), (to_8_bits(z), x), (z, y))
        scores.append(tuple(min(psnr(*pair).item(), HIGHEST) for pair in pairs))
    return Quality(len(scores), *np.mean(scores, axis=0).tolist())


def show(job: Job, compiled: Compiled, quality: Quality | None) -> None:
    """Print what the compiler and the simulator say."""
    title = f"{job.name} for {job.target.chip}, {job.precision}, {job.options.width}x{job.options.height}"
    if compiled.operators:
        layers = dict.fromkeys(one.layer for one in compiled.operators)
        rows = []
        for layer in layers:
            inside = [one for one in compiled.operators if one.layer == layer]
            words = (", ".join(one.operator for one in inside if one.on_npu is side) for side in (True, False))
            rows.append([layer, *words, _amount(_total(one.cycles for one in inside), "")])
        show_table(title, ["layer", "on the NPU", "on the CPU", "cycles"], rows)
    on_npu = sum(one.on_npu for one in compiled.operators)
    figures = [
        f"{on_npu} operators on the NPU, {len(compiled.operators) - on_npu} on the CPU" if compiled.operators else "",
        _amount(compiled.cycles, "cycles"),
        _amount(compiled.milliseconds, "ms", 1),
        _amount(compiled.memory and compiled.memory / 1024, "KiB of memory"),
    ]
    if compiled.compiler:
        say(f"{compiled.compiler}: {'; '.join(filter(None, figures)) or 'compiled'}.")
    if quality:
        trained = isinstance(job.codec.g_s, QuantizedSynthesis)
        reference = "as it was trained, in PyTorch" if trained else "in float32"
        say(
            f"PSNR over {quality.pictures} pictures: {quality.compiled:.3f} dB, {quality.float32:.3f} {reference} "
            f"({quality.compiled - quality.float32:+.3f}); against that decoder {quality.to_float:.1f} dB."
        )
    for note in (*job.target.notes, *compiled.notes):
        say(note)


def report(job: Job, compiled: Compiled, quality: Quality | None) -> dict[str, Any]:
    """All that is printed, and what it was made of, for report.json."""
    first = [path.name for path in compiled.files]
    return {
        "codec": job.name,
        "replacement": job.replacement,
        "target": job.options.target,
        "chip": job.target.chip,
        "toolchain": job.target.toolchain,
        "compiler": compiled.compiler,
        "form": job.options.form,
        "precision": job.precision,
        "height": job.options.height,
        "width": job.options.width,
        "files": [*first, *sorted({path.name for path in job.folder.iterdir()} - set(first))],
        "operators": [asdict(one) for one in compiled.operators],
        "cycles": compiled.cycles,
        "milliseconds": compiled.milliseconds,
        "memory": compiled.memory,
        "quality": quality and asdict(quality),
        "notes": list(compiled.notes),
    }


def _refused(job: Job, compiled: Compiled) -> list[str]:
    """Say what the target's list of operators lacks, where no compiler was there to ask and the NPU takes ONNX."""
    if compiled.compiler or compiled.files[0].suffix != ".onnx":
        return []
    refused = complaints(compiled.files[0], job.target)
    say(f"By its list of operators {job.target.name} accepts {'not all:' if refused else 'all.'}")
    for line in refused:
        say(f"  {line}.")
    return refused


def _files(folder: Path) -> set[str]:
    """The files that a folder's report names."""
    try:
        names = json.loads((folder / REPORT).read_bytes())["files"]
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _at_least(picture: np.ndarray, options: CompileOptions) -> np.ndarray:
    """A picture whose edge is repeated up to the compiled size, where it is smaller."""
    missing = (
        max(0, (least or 0) - side)
        for least, side in zip((options.height, options.width), picture.shape[1:], strict=True)
    )
    return np.pad(picture, ((0, 0), *((0, more) for more in missing)), mode="edge")


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _amount(value: float | None, unit: str, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f} {unit}".rstrip()
