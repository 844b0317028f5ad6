"""The advice: costs by an independent count, the choice by what a target has."""

from pathlib import Path

import pytest
import torch
from torch import nn

from codecswap.advice.advise import OPERATORS, advise, cheapest_exact, multiply_adds
from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.swaps.apply import swap

LATENTS = torch.zeros(1, 80, 2, 2)


def counted(decoder: nn.Module, side: int) -> float:
    """Multiply-adds per output pixel, from the shapes that really occur."""
    total = 0
    x = torch.zeros(1, 80, side, side)
    for layer in decoder:
        y = layer(x)
        if isinstance(layer, nn.ConvTranspose2d):
            total += layer.weight.numel() * x.shape[-1] ** 2
        elif hasattr(layer, "gamma"):
            total += layer.gamma.numel() * x.shape[-1] ** 2
        elif hasattr(layer, "folded_weight"):
            total += layer.folded_weight().numel() * x.shape[-1] ** 2
        else:
            total += layer[0].weight.numel() * x.shape[-1] ** 2
        x = y
    return total / x.shape[-1] ** 2


@pytest.mark.parametrize("choice", OPERATORS)
def test_multiply_adds(teacher, choice: str) -> None:
    decoder = teacher.g_s if choice == "transposed" else swap(teacher, choice)[0].g_s
    assert multiply_adds(decoder, LATENTS) == pytest.approx(counted(decoder, 2))
    plain = multiply_adds(decoder, LATENTS, folded=False)
    folded = multiply_adds(decoder, LATENTS)
    assert plain > folded if choice in ("upsample", "masked") else plain == folded


def test_the_cheapest_exact_choice() -> None:
    costs = {"transposed": 6.0, "subpixel": 9.0, "masked": 9.5, "upsample": 1.0}
    assert cheapest_exact(costs, None) == "transposed"
    assert cheapest_exact(costs, {"Conv", "DepthToSpace", "Resize", "Mul"}) == "subpixel"
    assert cheapest_exact(costs, {"Conv", "Resize", "Mul"}) == "masked"
    assert cheapest_exact(costs, {"Conv", "Resize"}) is None


@pytest.mark.slow
def test_the_command(capsys: pytest.CaptureFixture) -> None:
    assert run("advise", ["--teacher", "tiny", "--operators", "Conv,Resize,Mul,Sqrt"]) == 0
    said = capsys.readouterr().out
    assert "Use --replacement masked" in said
    figures = {line.split("│")[1].strip(): float(line.split("│")[3]) for line in said.splitlines() if "│" in line}
    assert figures["subpixel"] == figures["masked"] == figures["transposed"] > figures["upsample"] + 3
    assert run("advise", ["--teacher", "tiny", "--operators", "Conv,Resize"]) == 0
    assert "Only --replacement upsample runs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_without_a_root_gets_a_gdn_without_one(capsys: pytest.CaptureFixture) -> None:
    assert run("advise", ["--teacher", "tiny", "--operators", "Conv,DepthToSpace,Mul,Relu"]) == 0
    said = capsys.readouterr().out
    assert "lacks Sqrt for the inverse GDNs: add --gdn ramps" in said and "Use --replacement subpixel" in said
    lost = {line.split("│")[1].split(",")[0].strip(): line.split("│")[3] for line in said.splitlines() if "│" in line}
    assert float(lost["sqrt"]) == float(lost["rsqrt"]) == 0 < float(lost["ramps"]) < 0.03


@pytest.mark.slow
def test_a_codec_of_blocks_and_without_gdn(residual: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    codec, counted = load_codec(str(residual)), 0.0

    def count(layer: nn.Module, _: object, y: torch.Tensor) -> None:
        nonlocal counted
        spread = y[0].numel() if isinstance(layer, nn.Conv2d) else y[0].numel() / 4
        counted += (
            layer.weight[0].numel() * spread if isinstance(layer, nn.Conv2d) else layer.weight[:, 0].numel() * spread
        )

    for layer in codec.g_s.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    codec.g_s(torch.zeros(1, 24, 2, 2))
    codec = load_codec(str(residual))
    found = advise(codec, operators=["Conv", "DepthToSpace", "Add", "Relu", "Mul"], images=str(pictures / "train"))
    assert found.upsampling[0].multiply_adds == pytest.approx(counted / 32**2)
    assert found.gdn == () and found.replacement == "subpixel" and found.pictures == 4
    assert found.other["Sigmoid"] == "g_s.0" and "ConvTranspose" not in found.other
    losses = {choice.name: (choice.lost, choice.error) for choice in found.upsampling}
    assert losses["subpixel"][1] < 1e-5 > losses["masked"][1] and losses["upsample"][0] > 0.1 > losses["subpixel"][0]
    lacking, use = found.sentences()
    assert "lacks operators of layers that no swap replaces" in lacking and "Sigmoid (first in g_s.0)" in lacking
    assert "Use --replacement subpixel" in use
    assert run("advise", ["--teacher", str(residual), "--target", "opset13", "--images", str(pictures / "train")]) == 0
    assert "Keep the transposed convolutions" in capsys.readouterr().out
