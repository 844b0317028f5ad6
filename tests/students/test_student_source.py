"""Where export, quantize and compile take their codec from."""

from pathlib import Path

import pytest

from codecswap.codecs.source import Teacher, load_codec
from codecswap.errors import UserError
from codecswap.students.checkpoint import save_student
from codecswap.students.record import describe_swaps
from codecswap.students.source import check_fixed_options, load_source
from codecswap.swaps.apply import swap

TINY = Teacher("tiny")


@pytest.mark.parametrize(
    ("replacement", "form", "wanted"),
    [
        (None, None, "subpixel"),
        (None, "native", "none"),
        (None, "masked", "masked"),
        (None, "subpixel", "subpixel"),
        ("none", "masked", "none"),
        ("upsample", "subpixel", "upsample"),
    ],
)
def test_a_teacher_gets_the_exact_replacement_of_the_form_unless_another_is_asked(
    replacement: str | None, form: str | None, wanted: str
) -> None:
    codec, name = load_source(TINY, replacement=replacement, form=form)
    assert (describe_swaps(codec), name) == (wanted, "tiny")
    assert not any(one.requires_grad for one in codec.parameters())


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    teacher = load_codec("tiny")
    save_student(swap(teacher, "masked", gdn="ramps")[0], tmp_path / "student.pt", teacher)
    codec, name = load_source(TINY, str(tmp_path / "student.pt"), form="subpixel")
    assert (describe_swaps(codec), name) == ("masked, gdn ramps", "student.pt")
    with pytest.raises(UserError, match="holds a student with --replacement masked, not subpixel"):
        load_source(TINY, str(tmp_path / "student.pt"), replacement="subpixel")
    check_fixed_options(codec, name, {"gdn": "sqrt", "precision": "w8a8"})
    with pytest.raises(UserError, match="holds a student with --gdn ramps, not rsqrt"):
        check_fixed_options(codec, name, {"gdn": "rsqrt"})
