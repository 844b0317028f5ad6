"""Evaluation: real bytes, PSNR and MS-SSIM per picture, teacher and student side by side."""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from codecswap import start
from codecswap.checkpoint import latents_equal, load_student
from codecswap.codecs import FactorizedPrior, fingerprint, load_codec, teacher_name
from codecswap.config import EvalOptions
from codecswap.console import say, show_table, warn
from codecswap.data.coco import ValidationPictures, find_pictures, list_pictures, validation_crop, whole_picture
from codecswap.errors import UserError
from codecswap.files import whole
from codecswap.metrics import SMALLEST_SIDE, ms_ssim, psnr, to_8_bits

FACTOR = 16
"""A picture's sides are padded to multiples of this before it is encoded."""


@dataclass(frozen=True)
class Scores:
    """One picture, compared with another."""

    psnr: float
    """dB, on 8-bit pictures; infinite where they are identical."""
    ms_ssim: float
    """0 to 1; NaN where a side is too short for it."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Scores":
        """Compare two pictures ``(1, 3, H, W)`` in [0, 1] that are rounded to 8 bits."""
        similarity = ms_ssim(x, y).item() if min(x.shape[-2:]) >= SMALLEST_SIDE else math.nan
        return cls(psnr(x, y).item(), similarity)


@dataclass(frozen=True)
class PictureResult:
    """What was measured on one picture."""

    name: str
    teacher_bpp: float
    teacher: Scores
    """Teacher against the picture."""
    student_bpp: float | None = None
    student: Scores | None = None
    """Student against the picture."""
    against_teacher: Scores | None = None
    """Student against teacher."""


@torch.no_grad()
def code(codec: FactorizedPrior, x: Tensor) -> tuple[float, Tensor]:
    """Compress a picture with the real entropy coder.

    Args:
        x: ``(1, 3, H, W)`` in [0, 1], of any size: padded to multiples of 16 by repeating its edge.

    Returns: bits per pixel of the picture as it was, and the latents ``(1, M, H/16, W/16)`` read back from the bytes.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % FACTOR, 0, -height % FACTOR), mode="replicate")
    y = codec.g_a(padded)
    strings = codec.entropy_bottleneck.compress(y)
    latents = codec.entropy_bottleneck.decompress(strings, y.shape[-2:])
    return 8 * len(strings[0]) / (height * width), latents


@torch.no_grad()
def show(codec: FactorizedPrior, latents: Tensor, like: Tensor) -> Tensor:
    """Decode latents to an 8-bit picture cropped to the size of ``like``."""
    return to_8_bits(codec.g_s(latents)[..., : like.shape[-2], : like.shape[-1]])


def evaluate(
    teacher: FactorizedPrior, student: FactorizedPrior | None, pictures: Iterable[tuple[str, Tensor]]
) -> list[PictureResult]:
    """Measure teacher and student on named pictures ``(3, H, W)`` in [0, 1]."""
    results = []
    shared = student is not None and latents_equal(teacher, student)
    device = next(teacher.parameters()).device
    for name, picture in pictures:
        x = picture[None].to(device)
        bpp, latents = code(teacher, x)
        decoded = show(teacher, latents, x)
        scores = Scores.of(decoded, x)
        if student is None:
            results.append(PictureResult(name, bpp, scores))
            continue
        student_bpp, student_latents = (bpp, latents) if shared else code(student, x)
        mine = show(student, student_latents, x)
        results.append(PictureResult(name, bpp, scores, student_bpp, Scores.of(mine, x), Scores.of(mine, decoded)))
    return results


def summarise(results: list[PictureResult]) -> dict[str, Any]:
    """Means over pictures: per codec and comparison PSNR (dB), MS-SSIM and bits per pixel."""

    def mean(values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def row(bpp: list[float], scores: list[Scores]) -> dict[str, float]:
        return {"psnr": mean([s.psnr for s in scores]), "ms_ssim": mean([s.ms_ssim for s in scores]), "bpp": mean(bpp)}

    summary: dict[str, Any] = {
        "pictures": len(results),
        "teacher": row([r.teacher_bpp for r in results], [r.teacher for r in results]),
    }
    if results and results[0].student:
        summary["student"] = row([r.student_bpp or 0 for r in results], [r.student for r in results if r.student])
        against = [r.against_teacher for r in results if r.against_teacher]
        summary["student_against_teacher"] = {k: v for k, v in row([], against).items() if k != "bpp"}
    return summary


def main(options: EvalOptions, typed: set[str]) -> int:
    """``codecswap eval``: print the table, and write it with ``--output``."""
    loaded = load_student(options.checkpoint) if options.checkpoint else None
    if loaded:
        options = start.with_record(options, typed, loaded)
    device = _device(options.accelerator)
    teacher = load_codec(options.teacher, options.quality, options.metric)
    name = teacher_name(options.teacher, options.quality, options.metric)
    if loaded:
        start.check_teacher(loaded, fingerprint(teacher), name)
    student = loaded.student if loaded else None
    if student is not None and (student.N, student.M) != (teacher.N, teacher.M):
        raise UserError(
            f"{options.checkpoint} is a student of N={student.N}, M={student.M}, the teacher {name} has N={teacher.N}, "
            f"M={teacher.M}: name its own with --teacher or --quality."
        )
    same = student is not None and latents_equal(teacher, student)
    results = evaluate(teacher.to(device), student.to(device) if student else None, _pictures(options))
    summary = {
        "name": name,
        "checkpoint": options.checkpoint,
        "same_latents": same if student else None,
        **summarise(results),
    }
    print_summary(summary)
    if options.output:
        write_results(options.output, summary, results)
        say(f"Written: {options.output / 'summary.json'} and {options.output / 'pictures.csv'}.")
    return 0


def print_summary(summary: dict[str, Any]) -> None:
    """The table that `eval` ends with."""
    rows = [_cells("teacher against the picture", summary["teacher"])]
    if "student" in summary:
        rows.append(_cells("student against the picture", summary["student"]))
        rows.append(_cells("student against the teacher", summary["student_against_teacher"]))
    show_table(
        f"{summary['name']}, {summary['pictures']} pictures", ["", "PSNR, dB", "MS-SSIM", "bits per pixel"], rows
    )
    if summary.get("same_latents") is False:
        warn("this student's encoder or entropy model was trained: the teacher's bitstreams do not decode with it.")
    elif summary.get("same_latents"):
        say("Encoder and entropy model are the teacher's, bit for bit: every bitstream of the teacher decodes.")


def _cells(name: str, row: dict[str, float]) -> list[str]:
    decibels = "identical" if math.isinf(row["psnr"]) else f"{row['psnr']:.3f}"
    similarity = "not defined" if math.isnan(row["ms_ssim"]) else f"{row['ms_ssim']:.5f}"
    return [name, decibels, similarity, f"{row['bpp']:.4f}" if "bpp" in row else ""]


def write_results(folder: Path, summary: dict[str, Any], results: list[PictureResult]) -> None:
    """Write ``summary.json`` and ``pictures.csv``; infinite PSNR is ``"inf"``, undefined MS-SSIM empty or null."""
    folder.mkdir(parents=True, exist_ok=True)

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else "inf"
        return value

    text = json.dumps(clean(summary), indent=2, ensure_ascii=False) + "\n"
    with whole(folder / "summary.json") as beside:
        beside.write_text(text, encoding="utf-8")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    scores = ("teacher", "student", "student_against_teacher")
    writer.writerow(
        ["picture", "teacher_bpp", "student_bpp", *(f"{s}_{m}" for s in scores for m in ("psnr", "ms_ssim"))]
    )
    for result in results:
        cells: list[Any] = [result.name, result.teacher_bpp, result.student_bpp]
        for comparison in (result.teacher, result.student, result.against_teacher):
            cells += [comparison.psnr, comparison.ms_ssim] if comparison else [None, None]
        writer.writerow(["" if cell is None or cell != cell else cell for cell in cells])
    with whole(folder / "pictures.csv") as beside:
        beside.write_text(table.getvalue(), encoding="utf-8")


def _pictures(options: EvalOptions) -> Iterable[tuple[str, Tensor]]:
    """The named pictures to measure; unreadable ones are named and skipped, and one at least must be left."""
    if options.images:
        paths, read = list_pictures(options.images, "--images"), whole_picture
    else:
        found = find_pictures(
            options.coco_dir,
            val_ratio=options.val_ratio,
            use_prepared=options.use_prepared,
            max_images=options.max_images,
        )
        paths, read = found.val, validation_crop
    left = len(paths)
    for sample in DataLoader(ValidationPictures(paths, read), batch_size=None, num_workers=options.num_workers):
        if sample.image is None:
            warn(f"{sample.path} cannot be read and is skipped.")
            left -= 1
        else:
            yield sample.path.name, sample.image
    if not left:
        raise UserError(f"None of the {len(paths)} pictures in {options.images or options.coco_dir} can be read.")


def _device(accelerator: str) -> torch.device:
    if accelerator not in ("auto", "cpu", "cuda", "gpu"):
        raise UserError(f"--accelerator is auto, cpu or cuda, not {accelerator}.")
    if accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise UserError(
            "--accelerator cuda: this machine has no CUDA device that PyTorch can use; leave the option out."
        )
    return torch.device("cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu")
