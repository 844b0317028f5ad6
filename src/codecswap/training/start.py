"""Start of a run: its teacher, its student, its folder."""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import Teacher, fingerprint
from codecswap.config import DistillOptions
from codecswap.console import is_first_process, progress, say, show_table, warn
from codecswap.data.discovery import Pictures
from codecswap.data.transforms import first_readable
from codecswap.errors import UserError, how_to_install
from codecswap.files import atomic_write
from codecswap.metrics import psnr
from codecswap.quantize.scheme import COPIES, PRICES, Scheme, words
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.stages.stage import Stage
from codecswap.students.record import StudentRecord
from codecswap.students.teacher import check_teacher
from codecswap.swaps import GDN_SWAPS, SWAPS, UNCHANGED, replacing
from codecswap.swaps.apply import PARTS, swap, swap_gdn
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import measure, swap_and_fit
from codecswap.targets.target import Target, load_target
from codecswap.training.resume import RunStart
from codecswap.training.student import TeacherStudent

SIZED_ON = 64
"""Number of pictures from which the size of a GDN swap is chosen."""
RANGE_PICTURES = 32
"""Number of pictures to quantize a decoder on: fewer give a worse fit of weights, more give wider ranges."""
FRONTIER = "frontier.json"
"""File in a run's folder with the `codecswap.quantize.scheme.Frontier` of --max_loss and --max_cost."""
SHOWN = 16
"""Number of pictures on which the loss of an inexact replacement is measured."""


def make_folder(stage: Stage, options: Any, resumed: str | None) -> Path:
    """Create the run's folder and save its options there, before slow steps.

    Args:
        resumed: checkpoint that the run resumes from.

    Raises:
        UserError: it cannot be written to.
    """
    folder = Path(options.save_dir)
    if not is_first_process():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumed:
            (folder / FRONTIER).unlink(missing_ok=True)
        text = yaml.safe_dump(asdict(options), sort_keys=False)
        with atomic_write(folder / "config.yaml") as beside:
            beside.write_text(text, encoding="utf-8")
        best = Path(resumed).with_name(stage.best) if resumed else None
        if best and best.exists() and best.parent.resolve() != folder.resolve():  # copy the best checkpoint, too
            with atomic_write(folder / stage.best) as beside:
                shutil.copyfile(best, beside)
    except OSError as error:
        raise UserError(f"--save_dir {folder} cannot be written to ({error.strerror}): name another folder.") from error
    return folder


def find_target(options: Any) -> Target | None:
    """The NPU that the decoder is trained for, if ``--quantized`` and ``--target`` name one.

    Raises:
        UserError: there is no such target, or it does not support the precision.
    """
    if not getattr(options, "quantized", None) or not options.target:
        return None
    target = load_target(options.target)
    known = target.quantized if target.toolchain else ()
    if options.quantized not in known:
        raise UserError(
            f"--target {options.target} takes no {options.quantized}: it takes {' or '.join(known) or 'nothing in integers'}."
        )
    return target


def build(stage: Stage, run_start: RunStart, pictures: Pictures) -> tuple[TeacherStudent, StudentRecord, list[str]]:
    """Load the teacher, build or load the student, and print what was done.

    Returns: both codecs, the student's record, and checks that ``--force`` overrode.
    """
    options = run_start.options
    source = Teacher.of(options)
    teacher = source.load()
    identity = fingerprint(teacher)
    forced: list[str] = []
    say(f"Teacher: {source.name}, N={teacher.N}, M={teacher.M}.")
    if run_start.student:
        student = run_start.student.student
        student.record = student.record or StudentRecord.of(student, teacher)
        forced = check_teacher(run_start.student, identity, source.name, force=options.force)
        say(f"Student: {run_start.student.path}.")
        if isinstance(student.g_s, QuantizedSynthesis):
            _check_quantized(student.g_s, run_start)
        elif getattr(options, "quantized", None):
            student.g_s = _quantized(student, options, pictures)
    else:
        student = new_student(teacher, options, pictures.train)
    pair = TeacherStudent(teacher, student, **stage.trained(options))
    say(f"Training {_amount(student.parameters(), trained=True)} of {_amount(student.parameters())}.")
    if options.unfreeze_all:
        warn("--unfreeze_all trains encoder and entropy model: bitstreams change, and the teacher's no longer decode.")
    student.record = replace(StudentRecord.of(student, teacher), same_latents=pair.same_latents)
    return pair, student.record, forced


def _amount(parameters: Iterable[nn.Parameter], *, trained: bool = False) -> str:
    found = [parameter for parameter in parameters if parameter.requires_grad or not trained]
    return f"{sum(parameter.numel() for parameter in found):,} parameters in {len(found)} tensors"


def _quantized(student: Codec, options: Any, pictures: Pictures) -> QuantizedSynthesis:
    """Quantize the student's decoder as `codecswap quantize` (or, for a target, `codecswap compile`) does."""
    try:
        from codecswap.quantize.budget import CONFIRMED, Budget, decoder_to_budget
        from codecswap.quantize.codec import quantized_decoder
    except ModuleNotFoundError as error:
        raise UserError(
            f"--quantized needs {error.name}, which is not installed: {how_to_install('deploy')}."
        ) from None
    target = find_target(options)
    scheme = target.scheme(options.quantized) if target else Scheme(options.quantized, copies=COPIES)
    form = target.form if target else "native"
    crops, _ = first_readable(pictures.train, RANGE_PICTURES)
    name = target.toolchain if target else None
    if options.has_budget:
        held_out, _ = first_readable(pictures.val, CONFIRMED)
        prices = target.prices if target else PRICES
        budget = Budget.of(options.max_loss, options.max_cost)
        decoder, found = decoder_to_budget(
            student, list(crops.numpy()), list(held_out.numpy()), scheme, budget, prices=prices, form=form, target=name
        )
        if is_first_process():
            with atomic_write(Path(options.save_dir) / FRONTIER) as beside:
                beside.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
        held = "held" if found.held else "not held, which is the best that was found"
        say(
            f"Asked: {found.asked}. Remedies: {words(decoder.remedies)} ({found.chosen.loss:.3f} dB, {found.chosen.cost:.2f} "
            f"times the cost: {held})."
        )
    else:
        decoder = quantized_decoder(student, list(crops.numpy()), scheme, form=form, target=name)
    say(f"The decoder trains in integers ({decoder.precision}): weights, their scales and biases.")
    return decoder


def new_student(teacher: Codec, options: DistillOptions, pictures: list[Path]) -> Codec:
    """Build an untrained student, and print what was replaced and the loss.

    Args:
        pictures: training pictures; calibration uses the first ``calibration_count`` of them.

    Raises:
        UserError: the decoder is not trained, and does not equal the teacher's.
    """
    # only the first process calibrates; the others receive its weights when training starts
    chosen, transforms, pieces = SWAPS[options.replacement], PARTS[options.part], None
    if "g_s" not in transforms and not chosen.exact:
        raise UserError(
            f"--part {options.part} keeps the decoder as it is, and --replacement {chosen.name} would change it: add "
            f"--replacement {' or '.join(other.name for other in replacing(chosen.replaces) if other.exact)}."
        )
    exact = chosen.exact and (options.gdn == UNCHANGED or GDN_SWAPS[options.gdn].exact)
    calibrated = options.init == "calibrated" and not exact and is_first_process()
    init = "random" if options.init == "random" else "weights"
    student, replaced = swap(teacher, options.replacement, kernel_size=options.kernel_size, init=init)
    crops, _ = first_readable(pictures, options.calibration_count) if not exact else (torch.empty(0), [])
    if options.gdn != UNCHANGED:
        if GDN_SWAPS[options.gdn].sizes:
            few, tolerance = crops[:SIZED_ON], options.gdn_tolerance
            _, _, pieces = swap_and_fit(teacher, options.gdn, options.part, few, tolerance=tolerance, seed=options.seed)
        student, more = swap_gdn(student, options.gdn, options.part, pieces=pieces, init=init)
        replaced += more
    rows = [[r.name, r.before, r.after, _decibels(r.error_db)] for r in replaced]
    columns = ["layer", "teacher", "student", "kernel error, dB"]
    if not exact:
        device = torch.device("cuda" if torch.cuda.is_available() and options.accelerator != "cpu" else "cpu")
        teacher, student = teacher.to(device), student.to(device)
        latents = torch.cat([encode(teacher, batch.to(device)) for batch in crops.split(8)])
        if calibrated:
            began = time.perf_counter()
            inputs = {"g_a": crops, "g_s": latents}
            fits: dict[str, list[str]] = {}
            for part in transforms:
                with progress("Calibrate", unit="steps") as show:
                    found = calibrate(teacher, student, inputs[part], seed=options.seed, transform=part, progress=show)
                fits |= {fit.name: [f"{fit.error_before_db:.2f}", f"{fit.error_db:.2f}"] for fit in found}
            rows += [[name, "as before", "refitted", ""] for name in fits if name not in {row[0] for row in rows}]
            rows = [[*row, *fits.get(row[0], ["", ""])] for row in rows]
            columns += ["output error, dB", "calibrated, dB"]
            say(f"Calibrated on {len(crops)} pictures in {time.perf_counter() - began:.0f} s.")
        show_table("Replaced in the student", columns, rows)
        _report_loss(options, teacher, student, crops[:SHOWN].to(device))
    else:
        show_table("Replaced in the student", columns, rows)
    return student


def _report_loss(options: DistillOptions, teacher: Codec, student: Codec, pictures: Tensor) -> None:
    """Measure and print the loss of inexact replacements before training."""
    found, chosen = measure(teacher, student, pictures.split(8)), SWAPS[options.replacement]
    inexact = [] if chosen.exact else [f"--replacement {chosen.name}"]
    if options.gdn != UNCHANGED and not GDN_SWAPS[options.gdn].exact:
        inexact.append(f"--gdn {options.gdn}")
    bits = f", at {found.percent:+.2f} % of its bits" if found.symbols else ""
    say(
        f"{' and '.join(inexact)} cannot equal this teacher: on {len(pictures)} training pictures the teacher has "
        f"{found.psnr_before:.2f} dB, the student starts at {found.psnr:.2f} dB{bits} ({found.psnr_before - found.psnr:.2f} dB "
        "lost), and training wins back a part."
    )
    if not chosen.exact:
        exact = " and ".join(
            f"{swap.name} ({', '.join(swap.operators)})" for swap in replacing(chosen.replaces) if swap.exact
        )
        say(f"--replacement {exact} lose nothing and need no training.")


def _check_quantized(decoder: QuantizedSynthesis, run_start: RunStart) -> None:
    """Refuse options that a quantized decoder cannot change.

    Raises:
        UserError: another precision or target is set, or the stage does not train quantized decoders.
    """
    assert run_start.student
    options, path = run_start.options, run_start.student.path
    if not hasattr(options, "quantized"):
        raise UserError(f"{path} holds a quantized decoder: only finetune trains it.")
    if options.quantized not in (None, decoder.precision):
        raise UserError(
            f"{path} holds a decoder in {decoder.precision}: --quantized {options.quantized} cannot change it."
        )
    if options.target and not run_start.resume:
        raise UserError(f"{path} holds a quantized decoder, which --target cannot change: leave it out.")
    say(f"Its decoder is in integers ({decoder.precision}), and stays so.")


def report_exactness(pair: TeacherStudent, pictures: Tensor, replacement: str) -> None:
    """Print that an exact student needs no training, with its error on ``pictures: (B, 3, H, W)``."""
    with torch.no_grad():
        latents, _ = pair.both_latents(pictures)
        teacher, student = pair.teach(latents), pair.student.g_s(latents)
    error = (teacher - student).abs().max().item()
    decibels = psnr(student, teacher).min().item()
    say(
        f"--replacement {replacement} equals its teacher and needs no training: largest error {error:.1e} of 1, "
        f"PSNR {decibels:.1f} dB against the teacher on {len(pictures)} pictures (8 bits alone cost 58.9 dB)."
    )


def _decibels(value: float | None) -> str:
    if value is None:
        return "random start"
    return "exact" if value == float("-inf") else f"{value:.2f}"
