"""Students in files: saved and loaded with how they were made, whatever the shape of their transforms."""

from pathlib import Path
from typing import Any

import pytest
import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import fingerprint, load_codec
from codecswap.errors import UserError
from codecswap.students.checkpoint import load_student, read_student, save_student
from codecswap.students.record import StudentRecord
from codecswap.swaps.apply import swap, swap_gdn


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"replacement": "upsample"}, {"kernel_size": None, "gdn": "sqrt", "exact": False}),
        ({"replacement": "upsample", "kernel_size": 7}, {"kernel_size": 7}),
        ({"replacement": "subpixel"}, {"exact": True}),
        ({"replacement": "subpixel", "gdn": "rsqrt", "part": "both"}, {"gdn_part": "both", "exact": True}),
        ({"replacement": "masked", "gdn": "ramps", "gdn_pieces": 3}, {"gdn": "ramps", "gdn_pieces": 3, "exact": False}),
        ({"replacement": "masked", "gdn": "relu", "part": "encoder"}, {"gdn_part": "encoder", "gdn_pieces": None}),
    ],
)
def test_what_was_swapped_is_read_off_the_layers(
    teacher: FactorizedPrior, tmp_path: Path, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    student, _ = swap(teacher, **options)
    with torch.no_grad():
        next(student.g_s.parameters()).mul_(1.5)
    save_student(student, tmp_path / "student.pt", teacher)
    loaded = load_student(tmp_path / "student.pt")
    record = loaded.record
    assert isinstance(record, StudentRecord) and record.replacement == options["replacement"]
    assert {key: getattr(record, key) for key in expected} == expected
    assert (record.teacher, record.teacher_sha256, record.N, record.M) == ("tiny", fingerprint(teacher), 48, 80)
    assert record.same_latents == student.same_latents(teacher) == (options.get("part") != "encoder")
    state = student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    save_student(loaded, tmp_path / "again.pt")
    assert load_student(tmp_path / "again.pt").record == record


def test_a_student_with_its_transposed_convolutions(teacher: FactorizedPrior, tmp_path: Path) -> None:
    student, _ = swap_gdn(teacher, "gdn1")
    save_student(student, tmp_path / "student.pt", teacher)
    loaded = read_student(tmp_path / "student.pt")
    assert loaded.label == "none, gdn gdn1" and not loaded.exact and not loaded.from_recipe
    latents = torch.randn(1, 80, 3, 3)
    assert torch.equal(loaded.student.g_s(latents), student.g_s(latents))


def test_a_residual_student(residual: Path, tmp_path: Path) -> None:
    codec = load_codec(str(residual))
    student, _ = swap(codec, "upsample", kernel_size=3)
    save_student(student, tmp_path / "student.pt", codec)
    loaded = load_student(tmp_path / "student.pt")
    assert (loaded.record.replacement, loaded.record.kernel_size, loaded.record.teacher) == (
        "upsample",
        3,
        str(residual),
    )
    latents = torch.randn(1, 24, 3, 3)
    assert torch.equal(loaded.g_s(latents), student.g_s(latents)) and loaded.same_latents(codec)


def test_what_cannot_be_saved(teacher: FactorizedPrior, tmp_path: Path) -> None:
    student, _ = swap(teacher)
    with pytest.raises(UserError, match="give save_student the teacher"):
        save_student(student, tmp_path / "student.pt")
    with pytest.raises(UserError, match="cannot be written"):
        save_student(student, tmp_path / "no" / "student.pt", teacher)
    student.g_s[0] = swap(teacher, "subpixel")[0].g_s[0]
    with pytest.raises(UserError, match=r"several swaps \(subpixel, upsample\)"):
        save_student(student, tmp_path / "student.pt", teacher)
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_original_recipe_has_no_record(teacher: FactorizedPrior, tmp_path: Path) -> None:
    student, _ = swap(teacher, kernel_size=3)
    torch.save({"epoch": 4, "student_state": student.state_dict()}, tmp_path / "best.pt")
    assert load_student(tmp_path / "best.pt").record is None
    loaded = read_student(tmp_path / "best.pt")
    assert (loaded.from_recipe, loaded.replacement, loaded.kernel_size, loaded.progress) == (
        True,
        "upsample",
        3,
        (5, 0),
    )
