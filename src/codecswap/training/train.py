"""Distillation and fine-tuning as functions of codecs; they write no files and print nothing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor

from codecswap.codecs.protocol import Codec
from codecswap.config import Part
from codecswap.data.discovery import find_pictures
from codecswap.devices import be_deterministic
from codecswap.errors import RunFailure
from codecswap.stages import STAGES, Stage
from codecswap.students.record import StudentRecord
from codecswap.training.callbacks import EpochRows
from codecswap.training.lightning import L
from codecswap.training.loop import fit
from codecswap.training.run import check_pictures
from codecswap.training.saving import IN_A_ROW
from codecswap.training.state import TrainingState
from codecswap.training.student import TeacherStudent


class TrainingArguments(TypedDict, total=False):
    """Options that `distill` and `finetune` have in common: names, types and defaults are those of the commands."""

    epochs: int
    batch_size: int
    optimizer: Literal["adam", "soap"]
    lr: float
    warmup_steps: int
    lambda_l1: float
    lambda_msssim: float
    lambda_mse: float
    lambda_rate: float | None
    unfreeze_all: bool
    part: Part
    seed: int
    deterministic: bool
    amp: Literal["32", "bf16-mixed", "16-mixed"]
    compile: bool
    accelerator: str
    max_images: int | None
    val_ratio: float
    num_workers: int


class DistillArguments(TrainingArguments, total=False):
    """Options of `distill`."""

    recipe: Literal["original", "fast"]
    train_igdn: bool


class FinetuneArguments(TrainingArguments, total=False):
    """Options of `finetune`."""

    freeze_igdn: bool


Progress = Callable[[dict[str, float]], None]
"""Called with the metrics (named as in ``metrics.csv``) after each epoch, and before the first (``epoch`` -1)."""


def distill(
    student: Codec,
    teacher: Codec,
    pictures: str | Path,
    *,
    progress: Progress | None = None,
    **options: Unpack[DistillArguments],
) -> Codec:
    """Train a student to reproduce its teacher's reconstructions.

    Args:
        student: result of `codecswap.swap` for ``teacher``; it is not changed.
        teacher: codec that the student was built from.
        pictures: a folder of pictures; a share of them (``val_ratio``) is held out to choose the best epoch.
        progress: called after each epoch with its metrics: ``epoch``, ``train_loss``, ``psnr_teacher``, ``seconds``, ...
        options: those of ``codecswap distill`` (docs/options.md) with the same defaults.

    Returns: the student after its best epoch, by MS-SSIM against the teacher; the initial student if no epoch was better.
    An exact student is returned unchanged.

    Raises:
        TypeError: the command has no such option, or it concerns only files.
        UserError: an option has an impossible value, or the pictures cannot be read or are too few.
        RunFailure: the training diverges.
    """
    return _train(
        STAGES["distill"], student, teacher, pictures, progress, DistillArguments.__optional_keys__, dict(options)
    )


def finetune(
    student: Codec,
    teacher: Codec,
    pictures: str | Path,
    *,
    progress: Progress | None = None,
    **options: Unpack[FinetuneArguments],
) -> Codec:
    """Train a student further, with the pictures themselves as the target.

    Args:
        student: result of `distill`, or any other student; it is not changed.
        teacher: codec that the student was built from, for comparison.
        pictures, progress: as in `distill`.
        options: those of ``codecswap finetune`` (docs/options.md) with the same defaults.

    Returns: the student after its best epoch, by MS-SSIM against the pictures; the initial student if no epoch was better.

    Raises:
        TypeError, UserError, RunFailure: as in `distill`.
    """
    return _train(
        STAGES["finetune"], student, teacher, pictures, progress, FinetuneArguments.__optional_keys__, dict(options)
    )


def _train(
    stage: Stage,
    student: Codec,
    teacher: Codec,
    folder: str | Path,
    progress: Progress | None,
    allowed: frozenset[str],
    given: dict[str, Any],
) -> Codec:
    if unknown := given.keys() - allowed:
        raise TypeError(f"{stage.name}() takes no {min(unknown)}; it takes {', '.join(sorted(allowed))}")
    options = stage.options(**given, coco_dir=str(folder))
    found = find_pictures(folder, val_ratio=options.val_ratio, max_images=options.max_images)
    shown, _ = check_pictures(found, options)
    student, original = copy.deepcopy(student), copy.deepcopy(teacher)
    if stage.trains_exact or options.unfreeze_all or not StudentRecord.of(student, teacher).exact:
        if options.deterministic:
            be_deterministic()
        L.seed_everything(options.seed, workers=True, verbose=False)
        pair, state = TeacherStudent(original, student, **stage.trained(options)), TrainingState()
        best = _Best(stage, state, student, progress)
        fit(pair, options, stage, state, found, shown, callbacks=[best])
        student.cpu().load_state_dict(best.weights)
        if options.unfreeze_all:
            tables: Any = student
            tables.update(force=True)
    student.record = StudentRecord.of(student, teacher)
    return student.eval().requires_grad_(False)


class _Best(EpochRows):
    """Stores the weights of the best epoch in memory."""

    def __init__(self, stage: Stage, state: TrainingState, student: Codec, progress: Progress | None) -> None:
        super().__init__(stage, state)
        self.student, self.progress = student, progress
        self.weights: dict[str, Tensor] = {}

    def write(self, trainer: L.Trainer, row: dict[str, float], *, start: bool) -> None:
        if self.state.score > self.state.best or not self.weights:
            self.state.best = self.state.score
            self.weights = {name: value.detach().cpu().clone() for name, value in self.student.state_dict().items()}
        if self.progress and trainer.is_global_zero:
            self.progress(row)

    def on_train_batch_end(self, *args: Any) -> None:
        if self.state.skipped_in_a_row >= IN_A_ROW:
            raise RunFailure(
                f"The training has diverged: {IN_A_ROW} steps in a row without a finite loss and gradient; take a lower lr."
            )
