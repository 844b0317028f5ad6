"""`codecswap.evaluate`: codecs in PyTorch and opened folders, without a command."""

from pathlib import Path

import pytest
import torch

import codecswap
from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.errors import UserError
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap


def test_codecs_and_folders_together(
    teacher: FactorizedPrior, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    for target, part in ((whole, "both"), (half, "decoder")):
        words = ["--teacher", "tiny", "--replacement", "subpixel", "--part", part, "--output", str(target)]
        assert run("export", words) == 0
    capsys.readouterr()
    codecs = {"half": OnnxCodec(half), "mine": swap(teacher, "masked")[0], "whole": OnnxCodec(whole)}
    done: list[int] = []
    results = codecswap.evaluate([folder / "a.png"], codecs, teacher=teacher, anchors=(50,), progress=done.append)
    assert [result.name for result in results][:4] == ["teacher", "half", "mine", "whole"], "the order given"
    assert [result.kind for result in results][:4] == ["teacher", "exported", "student", "exported"] and done == [1]
    means = [result.mean() for result in results]
    assert means[1]["bpp"] == means[0]["bpp"] == means[2]["bpp"], "the teacher encodes for them"
    assert all(mean["psnr_to_teacher"] > 50 for mean in means[1:4])
    assert results[4].name == "JPEG q50" and capsys.readouterr() == ("", "")
    alone = codecswap.evaluate([folder / "a.png"], {"half": codecs["half"], "whole": codecs["whole"]})
    assert alone[0].coded[0].scores == alone[1].coded[0].scores and "psnr_to_teacher" not in alone[0].mean()
    both = codecswap.evaluate([folder / "a.png"], {"a": teacher, "b": codecs["mine"]})
    assert [result.name for result in both] == ["a", "b"] and both[1].mean()["psnr"] == means[2]["psnr"]


def test_what_cannot_be_measured_is_said(teacher: FactorizedPrior, tmp_path: Path) -> None:
    pictures = [("a", torch.rand(3, 32, 32))]
    with pytest.raises(UserError, match="nothing to measure"):
        codecswap.evaluate(pictures)
    with pytest.raises(UserError, match="no metric 'vmaf'"):
        codecswap.evaluate(pictures, teacher=teacher, metrics=["vmaf"])
    with pytest.raises(FileNotFoundError):
        codecswap.evaluate([tmp_path / "missing.png"], teacher=teacher)
