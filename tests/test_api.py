"""The public API: what it holds, what its docstrings say, and that it prints nothing."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import codecswap

FUNCTIONS = [name for name in codecswap.__all__ if inspect.isfunction(getattr(codecswap, name))]
NEVER_RAISE = {"encode", "psnr"}
"""Functions that judge nothing of their arguments."""


def test_the_package_shows_its_api_and_nothing_else() -> None:
    assert dir(codecswap) == sorted(codecswap.__all__)
    assert set(codecswap.__all__) - set(FUNCTIONS) == {"UserError"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = codecswap.nothing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_say_arguments_result_and_errors(name: str) -> None:
    function = getattr(codecswap, name)
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    arguments = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.M | re.S)
    assert arguments, "no Args"
    named = {word for line in re.findall(r"^ {4}(\w[^:]*):", arguments[1], re.M) for word in re.split(r"[\s,]+", line)}
    assert named == set(signature.parameters)
    assert ("\nReturns: " in text) == (signature.return_annotation not in (None, "None"))
    assert ("\nRaises:\n" in text) == (name not in NEVER_RAISE)


def test_the_package_names_every_function_in_its_docstring() -> None:
    assert set(codecswap.__all__) <= set(re.findall(r"`(\w+)`", codecswap.__doc__ or ""))


def test_functions_print_nothing(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    teacher = codecswap.load_codec("tiny")
    x = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    student, replaced = codecswap.swap(teacher, "upsample")
    fits = codecswap.calibrate(teacher, student, codecswap.encode(teacher, x), positions=512)
    assert [one.name for one in fits] == [one.name for one in replaced]
    codecswap.save_student(student, tmp_path / "student.pt", teacher)
    student = codecswap.load_student(tmp_path / "student.pt")
    codecswap.export(student, tmp_path / "float", images=str(pictures))
    codecswap.quantize(student, tmp_path / "int8", height=64, width=64, calibration_count=1)
    opened = codecswap.open_codec(tmp_path / "float")
    found = codecswap.evaluate([("noise", x[0])], {"float": opened}, teacher=teacher)
    assert [one.name for one in found] == ["teacher", "float"]
    assert codecswap.psnr(x, x).isinf().all() and codecswap.ms_ssim(x, x).item() == pytest.approx(1)
    codecswap.compile(student, "rk3588", tmp_path / "npu", calibration_count=1, measured=False)
    said = capsys.readouterr()
    assert said.out == said.err == ""
