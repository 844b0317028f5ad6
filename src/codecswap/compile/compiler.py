"""`codecswap compile` as a function: compile a decoder for an NPU, and measure it in the NPU's arithmetic."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.toolchain import Compiled, Decode, Job
from codecswap.config import Form
from codecswap.console import Track, silent
from codecswap.data.samples import calibration_pictures, held_out_pictures
from codecswap.errors import UserError
from codecswap.export.folder import check_size
from codecswap.export.operators import complaints
from codecswap.inference.manifest import replaced_folder
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.tiles import in_tiles
from codecswap.metrics import psnr, to_8_bits
from codecswap.quantize.budget import Budget, search
from codecswap.quantize.codec import QuantizedCodec, encode_samples
from codecswap.quantize.loss import Loss
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.record import describe_swaps
from codecswap.targets.target import Target, chips, load_target

SIZE = (256, 256)
"""Default height and width of the pictures or tiles."""
HIGHEST = 150.0
"""PSNR in dB that stands for equal pictures."""
REPORT = "report.json"
"""File with all results, beside the compiled files."""


@dataclass(frozen=True)
class Quality:
    """Means over held-out pictures, in dB. PSNR against the picture is of 8-bit values, the others of what is not rounded."""

    pictures: int
    float32: float
    """PSNR of the float codec against the picture."""
    file: float
    """PSNR of the folder's decoder.onnx against the picture."""
    file_to_float: float
    """PSNR of decoder.onnx against the float codec: what quantization changes."""
    compiled: float | None = None
    """PSNR of the compiled decoder, in the simulator, against the picture; as the following, None without a simulator."""
    to_file: float | None = None
    """PSNR of the compiled decoder against decoder.onnx: what the compiler and the NPU's arithmetic change."""
    to_float: float | None = None
    """PSNR of the compiled decoder against the float codec."""

    @property
    def loss(self) -> Loss:
        """What the NPU loses, or without a simulator what the file loses."""
        return Loss(self.float32 - (self.file if self.compiled is None else self.compiled))

    @property
    def reason(self) -> str:
        """Where most of the loss comes from, as a clause."""
        own = self.float32 - self.file
        if self.compiled is None or not own < (self.float32 - self.compiled) / 2:
            return f"the file itself loses {own:.2f} dB by its rounding"
        return f"the file loses {own:.2f} dB, the compiler's scales and arithmetic the rest"


@dataclass(frozen=True)
class Result:
    """Result of `compile`."""

    job: Job
    compiled: Compiled
    """Its paths are outdated (from before the folder was replaced); ``report`` names the files."""
    quality: Quality | None
    """None if nothing was measured."""
    refused: tuple[str, ...] | None
    """Unsupported operators by the target's list, if its compiler is not installed and reads ONNX; None: not checked."""
    report: dict[str, Any]
    """Contents of report.json."""

    @property
    def on_npu(self) -> bool:
        """Whether no operator is known to run on the CPU."""
        return all(one.on_npu for one in self.compiled.operators) and not self.refused


def compile(
    codec: Codec,
    target: str,
    output: str | Path,
    *,
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
    """Write a codec's decoder for an NPU, run its compiler if it is installed, and measure it in its arithmetic.

    Args:
        codec: a teacher or a student without a context model.
        target: a name that docs/npu.md lists, or a TOML file (`codecswap.targets.target`).
        output: the folder; it is replaced whole, or stays as it is.
        precision: one of the target's; None: its best.
        form: lowering of upsampling layers; None: the target's.
        height, width: size of the pictures, or of tiles for larger pictures; multiples of `Codec.multiple`.
        calibration_images, calibration_count: folder of pictures for quantization, and how many at most; None: the package's.
        max_loss, max_cost: `codecswap.quantize.budget.Budget.of`, for an integer precision.
        images: folder of pictures to measure on; None: the package's.
        measured: measure the file, and the compiled decoder in the vendor's simulator, if there is one.
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
    check_codec(codec, size, chosen)
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
        if max_loss is not None or max_cost is not None:
            job = replace(job, quantized=_to_budget(job, Budget.of(max_loss, max_cost), images))
        compiled = toolchain.compile(job)
        quality = None
        if measured:
            quality = measure(reference or codec, made, compiled.decode, size, images, track, most)
        ask = not compiled.compiler and compiled.files[0].suffix == ".onnx"
        refused = tuple(complaints(compiled.files[0], chosen)) if ask else None
        report = _report(job, compiled, quality)
        (made / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    for file in before - set(report["files"]):
        (output / file).unlink(missing_ok=True)
    return Result(job, compiled, quality, refused, report)


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


def check_codec(codec: Codec, size: tuple[int, int], target: Target) -> None:
    """Refuse codecs with a context model or trained for another target, and sizes that a network or its tiles cannot have.

    Raises:
        UserError: see there.
    """
    if isinstance(codec.g_s, QuantizedSynthesis) and codec.g_s.target != target.toolchain:
        raise UserError(
            f"This codec was not fine-tuned for {target.asked}: compile the float student, or fine-tune it "
            f"with --quantized and --target {target.asked}."
        )
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


def _to_budget(job: Job, budget: Budget, images: str | None) -> QuantizedCodec:
    if job.precision not in PRECISIONS:
        raise UserError(
            f"--max_loss and --max_cost are for integers: take --precision {' or '.join(job.target.quantized)}."
        )
    held_out = held_out_pictures(images, job.size[::-1], job.codec.multiple)
    how: dict[str, Any] = {"form": job.form, "size": job.size, "prices": job.target.prices}
    return search(job.codec, job.samples, held_out, job.target.scheme(job.precision), budget, **how)


def measure(
    codec: Codec,
    folder: Path,
    decode: Decode | None,
    size: tuple[int, int],
    images: str | None = None,
    track: Track = silent,
    most: int | None = None,
) -> Quality:
    """Measure the folder's decoder.onnx and the compiled decoder, on pictures of a folder (None: the package's).

    Pictures larger than the compiled size are decoded in tiles.
    """
    teacher, written = TorchCodec(codec), OnnxCodec(folder)
    tile = (size[0] // codec.factor, size[1] // codec.factor)
    found = islice(held_out_pictures(images, None, codec.multiple), most)
    scores: list[list[float]] = []
    for picture in track("Measure", [_at_least(one, size) for one in found], unit="pictures"):
        quantized = written.entropy.quantize(teacher.analyze(picture), teacher.hyper_analyze)
        given = written.decoder_input(quantized.symbols, quantized.means)
        decoded = [teacher.synthesize(quantized.symbols, quantized.means), written.run_decoder(given)]
        if decode:
            decoded.append(in_tiles(decode, given, tile, codec.margin, scale_in=1, scale_out=codec.factor))
        x, y, file, *there = (torch.from_numpy(one)[None] for one in (picture, *decoded))
        pairs = [(to_8_bits(y), x), (to_8_bits(file), x), (file, y)]
        pairs += [pair for z in there for pair in ((to_8_bits(z), x), (z, file), (z, y))]
        scores.append([min(psnr(*pair).item(), HIGHEST) for pair in pairs])
    return Quality(len(scores), *np.mean(scores, axis=0).tolist())


def _report(job: Job, compiled: Compiled, quality: Quality | None) -> dict[str, Any]:
    first = [path.name for path in compiled.files]
    return {
        "codec": job.name,
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


def _at_least(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pad a picture to at least the compiled size by repeating its edge."""
    missing = (max(0, least - side) for least, side in zip(size, picture.shape[1:], strict=True))
    return np.pad(picture, ((0, 0), *((0, more) for more in missing)), mode="edge")
