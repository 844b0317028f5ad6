"""Write and read checkpoints of students."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecswap.codecs.architectures import ARCHITECTURES, check, untrained
from codecswap.codecs.protocol import Codec
from codecswap.codecs.safe_load import read_state
from codecswap.codecs.source import Teacher, state_digest
from codecswap.config import names_code
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.record import UNSWAPPED, StudentRecord
from codecswap.swaps import GDN_SWAPS, SWAPS, UNCHANGED
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.swaps.subpixel import SUBPIXEL
from codecswap.swaps.upsample import UPSAMPLE

FORMAT = 1
"""Version of the checkpoint format."""


@dataclass(frozen=True)
class StudentCheckpoint:
    """A student read from a file."""

    path: Path
    student: Codec
    """The student, in eval mode."""
    replacement: str
    """A name in `codecswap.swaps.SWAPS`."""
    kernel_size: int | None
    """Kernel size of the replacement if it differs from the teacher's."""
    record: StudentRecord | None
    """None for files of the original recipe, which do not name their teacher."""
    content: dict[str, Any]
    """Full contents of the file."""

    @property
    def exact(self) -> bool:
        """Whether the decoder equals the teacher's up to rounding."""
        return self.record.exact if self.record else SWAPS[self.replacement].exact

    @property
    def label(self) -> str:
        """Names of the replacements, and the precision of a quantized decoder (`StudentRecord.label`)."""
        return self.record.label if self.record else self.replacement

    @property
    def config(self) -> dict[str, Any]:
        """Options of the run that wrote the file."""
        return dict(self.content.get("config", {}))

    @property
    def from_recipe(self) -> bool:
        """Whether the original recipe wrote the file."""
        return self.record is None and "stage" not in self.content

    @property
    def progress(self) -> tuple[int, int]:
        """Number of finished epochs, and of finished batches in the current one."""
        return int(self.content.get("epoch", -1)) + 1, int(self.content.get("batch", 0))


def save_student(student: Codec, path: str | Path, teacher: Codec | None = None) -> None:
    """Write a student into a file that `load_student` and the commands read (``--checkpoint``, ``--resume_student``).

    Args:
        student: result of `codecswap.swaps.apply.swap` for ``teacher``, trained or not.
        path: the file, ``student.pt`` for example; it is replaced.
        teacher: codec that the student was built from; optional for a student that was loaded or trained.

    Raises:
        UserError: there is no teacher, or the file cannot be written.
    """
    if teacher is None and student.record is None:
        raise UserError("A student is saved with what says its teacher: give save_student the teacher, too.")
    record = StudentRecord.of(student, teacher) if teacher else student.record
    try:
        with atomic_write(Path(path)) as beside, beside.open("wb") as file:
            torch.save(student_content(student, record), file)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file.") from error


def load_student(path: str | Path, teacher: str | None = None) -> Codec:
    """Rebuild a student from a file.

    Args:
        path: what `save_student`, ``distill``, ``finetune`` or the original recipe wrote.
        teacher: ``file.py:function`` of a student of such a teacher; it is run (`codecswap.codecs.from_code`).

    Returns: the codec, in eval mode; its ``record`` (`codecswap.students.record.StudentRecord`) says how it was built and from
    which teacher. It is None for files of the original recipe, which do not name their teacher.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, not a student, or of a newer version of codecswap.
    """
    return read_student(path, [Teacher(teacher, run_code=True)]).student


def student_content(student: Codec, record: StudentRecord) -> dict[str, Any]:
    """Content of a checkpoint that describes the student, without that of a run."""
    state = {name: value.detach().clone() for name, value in student.state_dict().items()}
    return {
        "format": FORMAT,
        "codec": asdict(record),
        "student_state": state,
        "student_sha256": state_digest(state),
    }


def read_student(path: str | Path, teachers: Sequence[Teacher] = ()) -> StudentCheckpoint:
    """Rebuild the student stored in a checkpoint of this project, or of the original recipe (``{'student_state': ...}``).

    Args:
        path: the file.
        teachers: those that the user named: what is built by code of theirs is run for a student of it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, not a student, or of a newer version of codecswap.
    """
    path = Path(path)
    content = read_state(path)
    _check_format(path, content.get("format", FORMAT))  # files of the original recipe have none
    state = content.get("student_state")
    if not isinstance(state, dict):
        weights = "a codec's weights, which --teacher and --codec read, but " if "g_a" in _names(content) else ""
        raise UserError(
            f"{path} holds {weights}no student (no student_state in it): name a checkpoint that distill or finetune wrote."
        )
    if not isinstance(content.get("config", {}), dict):
        raise UserError(f"{path} is damaged (its config is no table of options): copy it again or name another.")
    try:
        state = {name.removeprefix("module."): value for name, value in state.items()}
        record = StudentRecord(**content["codec"]) if "codec" in content else None
        with torch.random.fork_rng(devices=[]):  # building a model draws random numbers
            codec = _untrained(path, content, record, state, teachers)
            replacement, kernel = _replacement(state, codec, record)
            student = codec
            if replacement != UNSWAPPED:
                student, _ = swap(codec, replacement, kernel_size=kernel, init="random")
            if record:
                student, _ = swap_gdn(student, record.gdn, record.gdn_part, pieces=record.gdn_pieces, init="random")
            if record and record.integers:
                prefix = "g_s."
                decoder = {key.removeprefix(prefix): one for key, one in state.items() if key.startswith(prefix)}
                student.g_s = QuantizedSynthesis.of(record.integers, decoder)
        student.load_state_dict(state)
        digest = state_digest(state)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} holds a student of another architecture: only {', '.join(ARCHITECTURES)} codecs are known."
        ) from error
    if content.get("student_sha256", digest) != digest:
        raise UserError(
            f"{path} is damaged (its weights are not those that were saved): copy it again or name another."
        )
    check(student, path)
    student.record = record
    student.source = record and Teacher.of(record)
    return StudentCheckpoint(path, student.eval(), replacement, kernel, record, content)


def _untrained(
    path: Path,
    content: dict[str, Any],
    record: StudentRecord | None,
    state: dict[str, Tensor],
    teachers: Sequence[Teacher],
) -> Codec:
    """A codec of the student's architecture; code is run only if the user named it."""
    recorded = (record.teacher if record else None, content.get("config", {}).get("teacher"))
    code = next((name for name in recorded if isinstance(name, str) and names_code(name)), None)
    if code is None:
        return untrained(state, record.architecture if record else None)
    named = [teacher for teacher in teachers if teacher.run_code and names_code(teacher.path)]
    if not named:
        raise UserError(
            f"{path} holds a student of {ascii(code)[1:-1]}, which is code and runs only if you name it: add --teacher "
            f"{ascii(code)[1:-1]}."
        )
    return copy.deepcopy(next((one for one in named if one.path == code), named[0]).load())


def _names(content: dict[str, Any]) -> set[str]:
    """The parts of all names in a checkpoint, two levels deep."""
    nested = [value for value in content.values() if isinstance(value, dict)]
    return {part for names in (content, *nested) for name in names for part in str(name).split(".")}


def _check_format(path: Path, version: object) -> None:
    """Refuse formats of other versions."""
    if not isinstance(version, int):
        raise UserError(f"{path} is damaged (its format is no number): copy it again or name another.")
    if version > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of codecswap (format {version}, this one reads up to {FORMAT}): "
            "update codecswap."
        )


def _replacement(state: dict[str, Tensor], codec: Codec, record: StudentRecord | None) -> tuple[str, int | None]:
    """Replacement and kernel size of a student; for files of the original recipe they are derived from the weights.

    Raises:
        KeyError, ValueError, AttributeError: the weights are of another architecture, or not the record's.
    """
    n, m = codec.N, codec.M
    if record and (n, m) != (record.N, record.M):
        raise ValueError(f"the record has {record.N} and {record.M} channels, the weights have {n} and {m}")
    if record and record.gdn != UNCHANGED and record.gdn_pieces not in (None, *GDN_SWAPS[record.gdn].sizes):
        raise ValueError(f"{record.gdn} has no {record.gdn_pieces} pieces")
    if record:
        replacement, kernel = record.replacement, record.kernel_size
    elif "g_s.0.0.weight" in state:
        replacement, kernel = SUBPIXEL.name, None
    else:
        replacement, kernel = UPSAMPLE.name, state["g_s.0.1.weight"].shape[-1]
    if kernel is not None and kernel not in SWAPS[replacement].sizes:
        raise ValueError(f"{replacement} has no kernel of {kernel}")
    return replacement, kernel
