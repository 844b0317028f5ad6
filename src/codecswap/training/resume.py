"""Resuming: find the checkpoint, merge its options, and check what must not have changed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from codecswap.codecs.source import Teacher
from codecswap.console import say, warn
from codecswap.errors import UserError
from codecswap.stages.stage import Stage
from codecswap.students.checkpoint import StudentCheckpoint, read_student
from codecswap.training.state import place

AUTO = "auto"
"""``--resume auto``: the newest undamaged checkpoint of the run's folder, or a new run."""
FIXED = (
    "optimizer",
    "replacement",
    "kernel_size",
    "gdn",
    "part",
    "unfreeze_all",
    "train_igdn",
    "freeze_igdn",
    "quantized",
    "target",
)
"""Options that determine the trained parameters: they cannot change on resuming."""
NEEDED = {"epoch", "batch", "best", "progress", "directions", "forced", "wandb_id", "rate_weight", "random"}
"""Keys of a run's checkpoint besides those of its student and of Lightning."""
FIXED_WITHIN = ("batch_size", "seed")
"""Options that determine the order of pictures: they cannot change within an epoch."""


@dataclass(frozen=True)
class RunStart:
    """Start of a run: options, student and progress."""

    options: Any
    """Options of the run, merged with those of a resumed checkpoint."""
    student: StudentCheckpoint | None
    """The student to start from; None for a new one."""
    resume: str | None = None
    """Checkpoint whose optimizer state and epoch are continued."""
    epochs_done: int = 0
    """Finished epochs of a checkpoint of the original recipe; 0 unless the run resumes from one."""
    directions: dict[str, Tensor] | None = None
    """Directions (`codecswap.training.rotated_adam`) of the resumed run, in whose basis its optimizer state is."""
    forced: list[str] = field(default_factory=list)
    """Checks that ``--force`` overrode in the resumed run."""
    wandb_id: str | None = None
    """Id of the resumed run in W&B."""

    @property
    def progress(self) -> tuple[int, int]:
        """Number of finished epochs, and of finished batches in the current one."""
        return self.student.progress if self.resume and self.student else (self.epochs_done, 0)


def read_run_start(stage: Stage, options: Any) -> RunStart:
    """Merge options with those of a checkpoint, and report which explicitly set ones override it.

    Raises:
        UserError: fine-tuning without a student, a checkpoint of the other stage, or an option that cannot change.
    """
    resume = getattr(options, stage.resume)
    student = None
    if resume:
        student = _newest(stage, options) if resume == AUTO else read_student(resume, [Teacher.of(options)])
    if student and student.from_recipe:
        return _from_recipe(options, student)
    if student:
        content = student.content
        try:
            if missing := NEEDED - content.keys():
                raise LookupError(f"it has no {min(missing)}")
            run_start = RunStart(
                _resumed(stage, options, student),
                student,
                str(student.path),
                directions=dict(content["directions"]),
                forced=list(content["forced"]),
                wandb_id=content["wandb_id"],
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{student.path} is damaged ({error}): copy it again or name another.") from error
        say(f"Resuming {student.path}, after {place(*student.progress)}.")
        return run_start
    if stage.student is None:
        return RunStart(options, None)
    path = getattr(options, stage.student)
    if not path:
        raise UserError(
            f"{stage.name} starts from a student: name its checkpoint with --{stage.student} checkpoints/best_msssim.pt."
        )
    student = read_student(path, [Teacher.of(options)])
    return RunStart(with_teacher_of(options, student), student)


def _from_recipe(options: Any, student: StudentCheckpoint) -> RunStart:
    """Continue from the original recipe's ``last.pt`` or ``ft_last.pt`` with the options of the command line."""
    epochs = student.progress[0]
    say(
        f"Resuming {student.path} of the original recipe, after {place(epochs, 0)}: its weights and its epoch are taken over; "
        "its optimizer, schedule, random numbers and best value are not (the learning rate follows --lr and --epochs from "
        "here, the best is measured anew), nor are its options (type them)."
    )
    return RunStart(options, student, epochs_done=epochs)


def _newest(stage: Stage, options: Any) -> StudentCheckpoint | None:
    """The undamaged checkpoint of a run's folder with the most progress; prints a message and returns None if there is none."""
    found, folder = [], Path(options.save_dir)
    for path in (folder / stage.last, folder / stage.best):
        try:
            if path.exists():
                found.append(read_student(path, [Teacher.of(options)]))
        except UserError as error:
            warn(f"{error} It is left out.")
    if not found:
        say(f"There is no checkpoint in {folder} yet: a fresh start.")
        return None
    return max(found, key=lambda student: student.progress)  # the first one (last.pt) if both have the same progress


def with_teacher_of(options: Any, student: StudentCheckpoint) -> Any:
    """Options with the teacher of a student's checkpoint; an explicitly set ``teacher`` is its new path."""
    if student.record is None or options.given & {"teacher", "model", "quality"}:
        return options
    return options.replace(**{key: getattr(student.record, key) for key in ("teacher", "model", "quality", "metric")})


def _resumed(stage: Stage, options: Any, student: StudentCheckpoint) -> Any:
    content = student.content
    if content.get("stage") != stage.name or "optimizer_states" not in content:
        wrote = content.get("stage", "the original recipe")
        raise UserError(
            f"{student.path} was written by {wrote}: --{stage.resume} goes on from a checkpoint of {stage.name}."
        )
    values, changed = dict(student.config), []
    for name in sorted(options.given - {stage.resume, "force"}):
        new, old = getattr(options, name), values.get(name)
        if name in FIXED and new != old:
            raise UserError(f"--{name} is {old} in {student.path} and cannot change on resuming.")
        if name in FIXED_WITHIN and new != old and student.progress[1]:
            raise UserError(
                f"--{name} is {old} in {student.path}, which is in the middle of an epoch, and can only change between epochs."
            )
        if new != old:
            changed.append(f"--{name} {new} (was {old})")
        values[name] = new
    values |= {stage.resume: getattr(options, stage.resume), "force": options.force}
    if changed:
        say(f"Options that override the checkpoint's: {', '.join(changed)}.")
    known = {name: value for name, value in values.items() if hasattr(options, name)}
    return options.replace(**known)


def check_pictures(run_start: RunStart, data: dict[str, Any]) -> list[str]:
    """Refuse to resume with other pictures.

    Args:
        data: `codecswap.data.discovery.Pictures.identity` of the current pictures.

    Returns: checks that ``--force`` overrode.

    Raises:
        UserError: they differ.
    """
    expected = run_start.student.content.get("pictures") if run_start.resume and run_start.student else None
    if not expected or expected["sha256"] == data["sha256"]:
        return []
    before, now = (f"{d['train']} for training and {d['val']} held out, {d['sha256'][:12]}" for d in (expected, data))
    difference = (
        f"The pictures of {data['folder']} ({now}) are not those that {run_start.resume} was trained on ({before}, in "
        f"{expected['folder']}): names, sizes or the split differ"
    )
    if not run_start.options.force:
        raise UserError(f"{difference}. Name the right folder with --coco_dir, or go on with these with --force.")
    warn(f"{difference}; --force goes on.")
    return [difference]
