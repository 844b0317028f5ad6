"""`codecswap compile` as a function: compile a codec's networks for an NPU, and measure them in the NPU's arithmetic."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from codecswap.codecs.protocol import Codec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.measure import EncoderQuality, Quality, measure_decoder, measure_encoder
from codecswap.compile.toolchain import Compiled, Job, Network, Toolchain
from codecswap.config import Form, Part
from codecswap.console import Track, silent
from codecswap.data.samples import calibration_pictures, held_out_pictures
from codecswap.errors import UserError
from codecswap.export.folder import check_operators, check_size
from codecswap.export.operators import complaints
from codecswap.inference.folder import replaced_folder
from codecswap.quantize.budget import Budget, search
from codecswap.quantize.codec import QuantizedCodec, encode_samples
from codecswap.quantize.scheme import FLOAT
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.record import describe_swaps
from codecswap.targets.target import Target, chips, load_target

SIZE = (256, 256)
"""Default height and width of the pictures or tiles."""
NETWORKS: tuple[Network, ...] = ("decoder", "encoder")
"""In the order in which they are compiled."""
IN_FLOAT = "float16"
"""Precision of layers with the remedy `FLOAT`."""
ONLY_DECODERS = ("pack", "drp-ai")
"""Toolchains whose files have inputs of decoders."""
REPORT = "report.json"
"""File with all results, beside the compiled files."""


@dataclass(frozen=True)
class Result:
    """Result of `compile`."""

    job: Job
    compiled: Compiled
    """Its paths are outdated (from before the folder was replaced); ``report`` names the files."""
    quality: Quality | EncoderQuality | None
    """None if nothing was measured."""
    refused: tuple[str, ...] | None
    """Unsupported operators by the target's list, if its compiler is not installed and reads ONNX; None: not checked."""
    report: dict[str, Any]
    """Contents of report.json."""
    encoder: "Result | None" = None
    """The encoder's result, if both networks were compiled; all else is the decoder's."""

    @property
    def on_npu(self) -> bool:
        """Whether no operator is known to run on the CPU."""
        alone = all(one.on_npu for one in self.compiled.operators) and not self.refused
        return alone and (self.encoder is None or self.encoder.on_npu)


def compile(
    codec: Codec,
    target: str,
    output: str | Path,
    *,
    part: Part = "decoder",
    precision: str | None = None,
    form: Form | None = None,
    height: int = SIZE[0],
    width: int = SIZE[1],
    calibration_images: str | None = None,
    calibration_count: int = 32,
    max_loss: float | str | None = None,
    max_cost: float | str | None = None,
    images: str | None = None,
    measured: bool = True,
    most: int | None = None,
    reference: Codec | None = None,
    toolchain_python: Path | None = None,
    name: str = "",
    track: Track = silent,
) -> Result:
    """Write a codec's networks for an NPU, run its compiler if it is installed, and measure them in its arithmetic.

    Args:
        codec: a teacher or a student.
        target: a name that docs/npu.md lists, or a TOML file (`codecswap.targets.target`).
        output: the folder; it is replaced whole, or stays as it is.
        part: ``decoder``, ``encoder`` or ``both``.
        precision: one of the target's; None: its best.
        form: lowering of upsampling layers; None: the target's.
        height, width: size of the pictures, or of tiles for larger pictures; multiples of `Codec.multiple`.
        calibration_images, calibration_count: folder of pictures for quantization, and how many at most; None: the package's.
        max_loss, max_cost: `codecswap.quantize.budget.Budget.of`, for an integer precision.
        images: folder of pictures to measure on; None: the package's.
        measured: measure the file, and the compiled network in the vendor's simulator, if there is one.
        most: largest number of pictures to measure on.
        reference: float codec to compare with; None: ``codec``.
        toolchain_python: Python interpreter of the compiler's own environment, if it needs one.
        name: where the codec comes from, in words.
        track: shows progress.

    Returns: what the compiler says, what the simulator decodes (in dB), and report.json's content.

    Raises:
        UserError: the target, the precision or the size is not supported, or the compiler fails.
    """
    chosen, size, output = choose_target(target, precision), (height, width), Path(output)
    check_codec(codec, size, chosen, part)
    check_operators(codec, part, form or chosen.form, size)
    before, toolchain = _files(output), TOOLCHAINS[chosen.toolchain or ""]
    with replaced_folder(output) as made:
        job = make_job(
            codec,
            made,
            chosen,
            precision=precision,
            form=form,
            size=size,
            calibration_images=calibration_images,
            calibration_count=calibration_count,
            python=toolchain_python,
            name=name,
        )
        results = []
        for network in [one for one in NETWORKS if part in (one, "both")]:
            job = replace(job, part=network, quantized=None)
            if max_loss is not None or max_cost is not None:
                job = replace(job, quantized=_to_budget(job, Budget.of(max_loss, max_cost), images, toolchain))
            compiled, quality = toolchain.compile(job), None
            if measured:
                measure = measure_decoder if network == "decoder" else measure_encoder
                quality = measure(reference or codec, made, compiled.run, size, images, track, most)
            ask = not compiled.compiler and compiled.files[0].suffix == ".onnx"
            refused = tuple(complaints(compiled.files[0], chosen)) if ask else None
            results.append(Result(job, compiled, quality, refused, _report(job, compiled, quality)))
        result, *others = results
        for other in others:
            report = result.report | {"files": other.report["files"], "encoder": other.report}
            result = replace(result, report=report, encoder=other)
        (made / REPORT).write_text(json.dumps(result.report, indent=2) + "\n", "utf-8")
    for file in before - set(result.report["files"]):
        if (output / file).is_dir():
            shutil.rmtree(output / file)
        else:
            (output / file).unlink(missing_ok=True)
    return result


def choose_target(name: str, precision: str | None) -> Target:
    """Load a target that has a toolchain and this precision (None: any).

    Raises:
        UserError: there is no such target, toolchain or precision.
    """
    target = load_target(name)
    if target.toolchain not in TOOLCHAINS:
        known = ", ".join(chip for chip, file in chips().items() if load_target(file).toolchain in TOOLCHAINS)
        raise UserError(
            f"{name} has no toolchain that this program calls: take one of {known}, or `codecswap export --target "
            f"{name}`, which checks the operators."
        )
    if precision and precision not in target.precisions:
        raise UserError(f"{name} has no --precision {precision}: it is {' or '.join(target.precisions)}.")
    return target


def check_codec(codec: Codec, size: tuple[int, int], target: Target, part: Part = "decoder") -> None:
    """Refuse codecs trained for another target, and sizes that a network or its tiles cannot have.

    Raises:
        UserError: see there.
    """
    if isinstance(codec.g_s, QuantizedSynthesis) and codec.g_s.target != target.toolchain:
        raise UserError(
            f"This codec was not fine-tuned for {target.asked}: compile the float student, or fine-tune it "
            f"with --quantized and --target {target.asked}."
        )
    if part != "decoder" and target.toolchain in ONLY_DECODERS:
        raise UserError(f"{target.asked} is for decoders: leave out --part {part}.")
    check_size(codec, size)
    least = 2 * codec.margin * codec.factor
    if min(size) <= least:
        raise UserError(
            f"--height and --width are more than {least}: larger pictures are decoded in tiles that overlap."
        )


def make_job(
    codec: Codec,
    folder: Path,
    target: Target,
    *,
    precision: str | None = None,
    form: Form | None = None,
    size: tuple[int, int] = SIZE,
    calibration_images: str | None = None,
    calibration_count: int = 32,
    python: Path | None = None,
    name: str = "",
) -> Job:
    """Build a job with pictures for quantization; ``folder`` must be empty, other arguments as in `compile`.

    Raises:
        UserError: there are no such pictures.
    """
    found = calibration_pictures(calibration_images, size[::-1], calibration_count)
    samples = encode_samples(codec, list(found))
    trained = codec.g_s.precision if isinstance(codec.g_s, QuantizedSynthesis) else None
    precision = trained or precision or target.precisions[0]
    return Job(codec, name, folder, target, precision, form or target.form, size, samples, python)


def _to_budget(job: Job, budget: Budget, images: str | None, toolchain: Toolchain) -> QuantizedCodec:
    if job.precision not in PRECISIONS:
        raise UserError(
            f"--max_loss and --max_cost are for integers: take --precision {' or '.join(job.target.quantized)}."
        )
    held_out = held_out_pictures(images, job.size[::-1], job.codec.multiple)
    how: dict[str, Any] = {"form": job.form, "size": job.size, "prices": job.target.prices}
    how["cycles"] = _cycles(job, toolchain)
    return search(job.codec, job.samples, held_out, job.target.scheme(job.precision), budget, part=job.part, **how)


def _cycles(job: Job, toolchain: Toolchain) -> tuple[dict[str, float], dict[str, float]] | None:
    """The compiler's cycles for each layer, in the job's precision and in float16; None if it has none."""
    if FLOAT not in job.target.prices or IN_FLOAT not in job.target.precisions or not toolchain.installed(job.python):
        return None
    quickly = replace(job.target, base=replace(job.target.base, refit=False))  # other weights take as long
    found = []
    for precision in (job.precision, IN_FLOAT):
        with tempfile.TemporaryDirectory() as folder:
            made = toolchain.compile(replace(job, target=quickly, precision=precision, folder=Path(folder)))
        layers: dict[str, float] = {}
        for one in made.operators:
            layers[one.layer] = layers.get(one.layer, 0) + (one.cycles or 0)
        found.append(layers)
    return (found[0], found[1]) if any(found[0].values()) else None


def _report(job: Job, compiled: Compiled, quality: Quality | EncoderQuality | None) -> dict[str, Any]:
    first = [path.name for path in compiled.files]
    return {
        "codec": job.name,
        "part": job.part,
        "replacement": describe_swaps(job.codec),
        "target": job.target.asked,
        "chip": job.target.chip,
        "toolchain": job.target.toolchain,
        "compiler": compiled.compiler,
        "form": job.form,
        "precision": job.precision,
        "height": job.size[0],
        "width": job.size[1],
        "files": [*first, *sorted({path.name for path in job.folder.iterdir()} - set(first))],
        "operators": [asdict(one) for one in compiled.operators],
        "cycles": compiled.cycles,
        "milliseconds": compiled.milliseconds,
        "memory": compiled.memory,
        "quality": quality and asdict(quality),
        "notes": list(compiled.notes),
        "remedies": dict(job.quantized.remedies) if job.quantized else {},
        "frontier": asdict(job.quantized.frontier) if job.quantized and job.quantized.frontier else None,
    }


def _files(folder: Path) -> set[str]:
    """Files that a folder's report names."""
    try:
        names = json.loads((folder / REPORT).read_bytes())["files"]
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
