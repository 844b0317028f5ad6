"""The seam: a swap is a value, and the rest asks it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
import torch
from torch import nn

import codecswap
from codecswap import swaps
from codecswap.advice.advise import multiply_adds
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.config import Gdn, Replacement
from codecswap.export.backends.onnx import export_decoder
from codecswap.graph import onnx_graph as graph
from codecswap.students import checkpoint
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.swap import copy_convolution
from codecswap.training.student import TeacherStudent

SOURCE = Path(codecswap.__file__).parent


def test_no_name_is_compared() -> None:
    names = "|".join({*swaps.SWAPS, *swaps.GDN_SWAPS, swaps.UNCHANGED} - {"none"})  # which other options have, too
    comparison = re.compile(
        rf"""[!=]=\s*["']({names})["']|["']({names})["']\s*[!=]=|\bin\s*[(\[{{]\s*["']({names})["']"""
    )
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if comparison.search(line) and not re.search(r"\bform\b", line)  # forms have names of exact swaps
    ]
    assert found == []


def test_the_option_has_the_names_of_the_table() -> None:
    assert set(get_args(Replacement)) == set(swaps.SWAPS)
    assert set(get_args(Gdn)) == {*swaps.GDN_SWAPS, swaps.UNCHANGED}
    assert all(name == value.name for table in (swaps.SWAPS, swaps.GDN_SWAPS) for name, value in table.items())


@pytest.mark.parametrize("name", swaps.SWAPS)
def test_what_a_swap_says_of_itself_is_so(name: str) -> None:
    value = swaps.SWAPS[name]
    torch.manual_seed(0)
    old = nn.ConvTranspose2d(3, 4, 5, stride=2, padding=2, output_padding=1)
    assert value.refusal(old) is None
    new, error = value.replace(old)
    x = torch.randn(1, 3, 4, 6)
    assert torch.allclose(new(x), old(x), atol=1e-5) == value.exact == (error == float("-inf"))
    assert swaps.swap_of(new) is value
    assert swaps.swap_of(old) is None
    assert (value.calibration is None) == value.exact
    noise, unknown = value.replace(old, init="random")
    assert unknown is None
    assert not torch.allclose(noise(x), new(x))


@pytest.mark.parametrize("name", swaps.SWAPS)
def test_an_exported_layer_has_the_operators_of_its_swap(teacher: FactorizedPrior, tmp_path: Path, name: str) -> None:
    path = tmp_path / "decoder.onnx"
    export_decoder(swap(teacher, name)[0], path, height=64, width=64)
    needed = set(swaps.SWAPS[name].operators)
    assert set(graph.facts(path, (1, 80, 4, 4)).operators) == needed | {"Conv", "Mul", "Sqrt"}


class Doubling(nn.Sequential):
    """A convolution, then PixelShuffle, as a class that the package does not know."""


def _build(layer: nn.ConvTranspose2d, size: int | None) -> nn.Module:
    return Doubling(nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 3, padding=1), nn.PixelShuffle(2))


def _fit(new: Any, layer: nn.ConvTranspose2d) -> float:
    known, _ = swaps.SUBPIXEL.replace(layer)
    copy_convolution(new[0], known[0].weight, known[0].bias)
    return float("-inf")


def test_a_new_swap_is_one_value_in_the_table(
    teacher: FactorizedPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = replace(
        swaps.SUBPIXEL,
        name="doubling",
        build=_build,
        fit=_fit,
        recognizes=lambda layer: isinstance(layer, Doubling),
        describe=lambda layer: "Doubling",
    )
    monkeypatch.setitem(swaps.SWAPS, new.name, new)
    student, report = swap(teacher, "doubling")
    assert [entry.after for entry in report] == ["Doubling"] * 4
    latents = torch.randn(1, 80, 4, 4).round()
    with torch.no_grad():
        wanted = teacher.g_s(latents)  # far outside [0, 1] for latents that no picture has
        torch.testing.assert_close(student.g_s(latents), wanted, rtol=0, atol=5e-6 * wanted.abs().max().item())
    assert calibrate(teacher, student, latents) == []
    assert multiply_adds(student.g_s, latents) == multiply_adds(swap(teacher, "subpixel")[0].g_s, latents)
    pair = TeacherStudent(teacher, student)
    assert {name for name, p in pair.student.named_parameters() if p.requires_grad} == {
        f"g_s.{index}.0.{kind}" for index in (0, 2, 4, 6) for kind in ("weight", "bias")
    }
    path = tmp_path / "decoder.onnx"
    export_decoder(student, path)
    assert set(graph.facts(path, (1, 80, 4, 4)).operators) == {"Conv", "DepthToSpace", "Mul", "Sqrt"}
    checkpoint.save_student(student, tmp_path / "last.pt", teacher)
    loaded = checkpoint.read_student(tmp_path / "last.pt")
    assert loaded.replacement == "doubling"
    assert torch.equal(loaded.student.g_s(latents), student.g_s(latents))


def test_both_counts_of_multiply_adds_agree(teacher: FactorizedPrior, tmp_path: Path) -> None:
    shape = (1, 80, 4, 6)
    for codec in (teacher, swap(teacher, "subpixel")[0]):
        export_decoder(codec, tmp_path / "decoder.onnx")
        of_nodes = graph.multiply_adds(onnx.load(tmp_path / "decoder.onnx"), shape)
        assert sum(of_nodes.values()) == multiply_adds(codec.g_s, torch.zeros(shape)) * 64 * 96
