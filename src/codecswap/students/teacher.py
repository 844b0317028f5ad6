"""Check that a teacher is the one that a student was built from."""

from codecswap.console import warn
from codecswap.errors import UserError
from codecswap.students.checkpoint import StudentCheckpoint


def check_teacher(student: StudentCheckpoint, identity: str, name: str, *, force: bool = False) -> list[str]:
    """Refuse a teacher that is not the one the student was built from.

    Returns: checks that ``force`` overrode.

    Raises:
        UserError: the weights differ.
    """
    expected = student.record.teacher_sha256 if student.record else None
    if not expected or expected == identity:
        return []
    difference = (
        f"The teacher {name} is not the one that {student.path} was made from (weights {identity[:12]}, expected "
        f"{expected[:12]})"
    )
    if not force:
        raise UserError(f"{difference}: name the right one with --teacher.")
    warn(f"{difference}; --force goes on.")
    return [difference]
