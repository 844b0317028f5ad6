"""The codecs of an evaluation: teachers, the students of each, and exported folders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codecswap.codecs.protocol import Codec
from codecswap.codecs.safe_load import read_state
from codecswap.codecs.source import Teacher, fingerprint
from codecswap.config import EvalOptions
from codecswap.errors import UserError
from codecswap.evaluation.exported import Folder, curve_names, pair_folders
from codecswap.evaluation.measure import Exported, ExportedCodecs, MeasuredCodecs, TeacherAndStudents
from codecswap.inference.runtime import OnnxCodec
from codecswap.stages import STAGES
from codecswap.students.checkpoint import StudentCheckpoint, read_student
from codecswap.students.teacher import check_teacher


@dataclass(frozen=True)
class EvaluationSet:
    """All learned codecs of an evaluation."""

    teachers: list[Teacher]
    measured: list[MeasuredCodecs]
    """One per teacher, then one for folders without a teacher, if there are any."""
    checkpoints: dict[str, StudentCheckpoint]
    """Checkpoints by the names of the students."""
    folders: dict[str, Folder]
    """Folders by name."""

    @property
    def rates(self) -> int:
        """Number of codecs of different rates; several make curves."""
        fixed = max(len(self.teachers), len({folder.codec.tables.digest() for folder in self.folders.values()}))
        variable = [
            len(folder.codec.entropy.rates.gains) for folder in self.folders.values() if folder.codec.entropy.rates
        ]
        groups = [each for each in self.measured if isinstance(each, TeacherAndStudents)]
        return max(fixed, *variable, *(len(each.codecs[0].gains) for each in groups), 1)

    @property
    def title(self) -> str:
        """Short title for tables."""
        kinds = ["Teacher"] if self.teachers else []
        kinds += ["student"] if self.checkpoints else []
        kinds += ["exported codecs"] if self.folders else []
        return " and ".join(kinds).capitalize()

    @property
    def source(self) -> str:
        """Short names of the teachers, or of the folders."""
        if not self.teachers:
            return ", ".join(self.folders)
        first = self.teachers[0]
        if len(self.teachers) == 1:
            return first.name
        if first.path is None:
            qualities = ", ".join(str(teacher.quality) for teacher in self.teachers)
            return f"{first.model} qualities {qualities} ({first.metric})"
        return f"{len(self.teachers)} local teachers"


def build_evaluation_set(
    options: EvalOptions, device: torch.device, file: Callable[[str], tuple[bytes, float]] | None = None
) -> EvaluationSet:
    """Load the teachers, students and folders that the options name, and group students and folders by teacher.

    Args:
        options: the command's.
        device: where codecs in PyTorch compute.
        file: as in `ExportedCodecs`; for folders alone.

    Raises:
        UserError: a file is missing or damaged, a quality does not exist, a student's teacher is not among those named, or
            a folder has no encoder and no teacher has its entropy tables.
    """
    paths = list(dict.fromkeys(options.checkpoint))
    named = _named(options)
    loaded = dict(
        zip(_names(paths, parts=2, single="student"), [read_student(path, named) for path in paths], strict=True)
    )
    teachers = _teachers(options, list(loaded.values()))
    codecs = [each.load() for each in teachers]
    identities = [fingerprint(codec) for codec in codecs]
    students: list[dict[str, StudentCheckpoint]] = [{} for _ in teachers]
    for name, checkpoint in loaded.items():
        students[_teacher_index(checkpoint, teachers, codecs, identities)][name] = checkpoint
    local = _names([each.path or f"q{each.quality}" for each in teachers], parts=1)
    names = ["teacher"] if len(teachers) == 1 else [f"teacher {label}" for label in local]
    curves = _curves(students)
    paths = list(dict.fromkeys(path.rstrip("/") for path in options.codec))
    labels = _names(paths, parts=1)
    taken = {"teacher", *loaded}
    labels = [f"{label} (folder)" if label in taken else label for label in labels]
    opened = [OnnxCodec(Path(path), torch.get_num_threads()) for path in paths]
    folders = pair_folders(opened, labels, dict(zip(names, codecs, strict=True)), encode=file is None)
    exported: dict[int | None, list[Exported]] = {}
    for folder, curve in zip(folders, curve_names(folders, len(teachers)), strict=True):
        exported.setdefault(folder.teacher, []).extend(
            [folder.measured(curve)] if file else folder.measured(curve).at_gains()
        )
    measured: list[MeasuredCodecs] = []
    for index, (name, codec, mine) in enumerate(zip(names, codecs, students, strict=True)):
        gains = codec.gains or (None,)
        for gain in gains:
            group = TeacherAndStudents(
                codec.to(device),
                {student: checkpoint.student.to(device) for student, checkpoint in mine.items()},
                name=name,
                curves=["teacher" if len(gains) == 1 else name, *(curves[student] for student in mine)],
                exported=[one for one in exported.get(index, ()) if one.gain in (gain, None)],
                gain=gain,
            )
            measured.append(group)
    if alone := exported.get(None):
        measured.append(ExportedCodecs(alone, file))
    return EvaluationSet(teachers, measured, loaded, {folder.name: folder for folder in folders})


def _named(options: EvalOptions) -> list[Teacher]:
    """The teachers of ``--teacher``."""
    paths = dict.fromkeys(options.teacher)
    return [Teacher(path, options.qualities[0], options.metric, run_code=True) for path in paths]


def _teachers(options: EvalOptions, students: list[StudentCheckpoint]) -> list[Teacher]:
    """The teachers of the options, or the one that the students' checkpoints name; empty if only folders are named."""
    qualities = options.qualities
    if options.teacher:
        return _named(options)
    if options.codec and not students and not options.given & {"quality", "metric", "model"}:
        return []
    recorded = [student for student in students if student.record]
    if options.given & {"model", "quality"} or not recorded:
        return [Teacher(None, quality, options.metric, options.model) for quality in qualities]
    named = [Teacher.of(r) for student in recorded if (r := student.record)]
    for student, teacher in zip(recorded, named, strict=True):
        if _identity(student) != _identity(recorded[0]):
            raise UserError(
                f"{student.path} has another teacher ({teacher.name}) than {recorded[0].path} ({named[0].name}): evaluate "
                "them one at a time, or name all their teachers (--quality 1,2,... or --teacher A --teacher B) for curves."
            )
    return named[:1]


def _identity(student: StudentCheckpoint) -> str | None:
    return student.record.teacher_sha256 if student.record else None


def _teacher_index(
    student: StudentCheckpoint, teachers: list[Teacher], codecs: list[Codec], identities: list[str]
) -> int:
    """Index of a student's teacher, by the checkpoint's record or (for files of the original recipe) by the encoder."""
    if len(teachers) == 1:
        check_teacher(student, identities[0], teachers[0].name)
        teacher, mine = codecs[0], student.student
        if (mine.N, mine.M) != (teacher.N, teacher.M):
            raise UserError(
                f"{student.path} is a student of N={mine.N}, M={mine.M}, the teacher {teachers[0].name} has N={teacher.N}, "
                f"M={teacher.M}: name its own with --teacher or --quality."
            )
        return 0
    if identity := _identity(student):
        found = [index for index, other in enumerate(identities) if other == identity]
        known = f" ({Teacher.of(r).name})" if (r := student.record) else ""
    else:
        alike = [(c.N, c.M) == (student.student.N, student.student.M) for c in codecs]
        found = [i for i, codec in enumerate(codecs) if alike[i] and student.student.same_latents(codec)]
        known = ""
    if not found:
        raise UserError(
            f"The teacher of {student.path}{known} is not among those named: add it to --quality or --teacher, or leave this "
            "checkpoint out."
        )
    return found[0]


def _names(paths: list[str], *, parts: int, single: str | None = None) -> list[str]:
    """Short unique names for paths: their last ``parts`` components, or more if needed."""
    if single and len(paths) == 1:
        return [single]
    split = [Path(path).parts for path in paths]
    for count in range(parts, max((len(each) for each in split), default=0) + 1):
        names = ["/".join(each[-count:]) for each in split]
        if len(set(names)) == len(names):
            return names
    return paths


def _curves(students: list[dict[str, StudentCheckpoint]]) -> dict[str, str]:
    """Curve of each student: its own with one teacher, else one per replacement and stage."""
    if len(students) == 1:
        return {name: name for name in students[0]}
    found = {}
    for mine in students:
        seen: dict[str, int] = {}
        for name, student in mine.items():
            kernel = f" {student.kernel_size}x{student.kernel_size}" if student.kernel_size else ""
            stage = STAGES.get(student.content.get("stage", ""))
            kind = f"{student.label}{kernel}, {stage.label if stage else 'trained elsewhere'}"
            seen[kind] = seen.get(kind, 0) + 1
            found[name] = kind if seen[kind] == 1 else f"{kind} ({seen[kind]})"
    return found


def progress(student: StudentCheckpoint) -> str | None:
    """A sentence about a student whose run is unfinished, or None.

    It is read from the latest checkpoint beside it, since the best checkpoint is often an early one.
    """
    done, epochs, batch = _done(student.content)
    if done is None or epochs is None:
        return None
    stage = STAGES.get(student.content.get("stage", ""))
    latest = student.path.with_name(stage.last) if stage else student.path
    came, of, batch, known = done, epochs, batch, student.path.name == latest.name
    if not known and latest.is_file():
        try:
            last_done, last_epochs, last_batch = _done(read_state(latest))
        except UserError:
            last_done = None
        if last_done is not None and last_done >= done:
            came, of, batch, known = last_done, last_epochs or epochs, last_batch, True
    if came >= of:
        return None
    here = (
        f"{student.path} is from after {done} of {of} epochs" if done else f"{student.path} is from before any training"
    )
    if not known:
        return f"{here}; whether its run has finished is not known, {latest.name} is not beside it."
    more = f" and {batch} steps of the next" if batch else ""
    return f"{here}, and its run is unfinished: it has come to {came} of {of} epochs{more}."


def _done(content: dict[str, Any]) -> tuple[int | None, int | None, int]:
    """Finished epochs, requested epochs, and finished batches of the next epoch, from a checkpoint."""
    epoch, epochs = content.get("epoch"), content.get("config", {}).get("epochs")
    batch = content.get("batch", 0)
    if not isinstance(epoch, int) or not isinstance(epochs, int):
        return None, None, 0
    return epoch + 1, epochs, batch if isinstance(batch, int) else 0
