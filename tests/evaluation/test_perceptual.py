"""LPIPS with a backbone of random weights, and without one."""

import csv
import json
import math
import socket
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from codecswap.cli import run
from codecswap.metrics import perceptual
from codecswap.metrics.perceptual import load_lpips, lpips
from codecswap.metrics.table import METRICS, compare


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Each test loads the backbone again."""
    perceptual._network.cache_clear()
    yield
    perceptual._network.cache_clear()


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's AlexNet, always the same random weights, instead of a download."""
    real = torchvision.models.alexnet

    def build(weights: object) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return real(weights=None)

    monkeypatch.setattr(torchvision.models, "alexnet", build)


def test_it_is_torchmetrics_own(backbone: None) -> None:
    assert load_lpips(torch.device("cpu"))
    x, y = torch.rand(1, 3, 70, 81), torch.rand(1, 3, 70, 81)
    wanted = learned_perceptual_image_patch_similarity(x, y, net_type="alex", normalize=True).item()
    assert lpips(x, y).item() == pytest.approx(wanted, rel=1e-5) and wanted > 0
    assert lpips(torch.cat([x, x]), torch.cat([x, y])).tolist() == [0, pytest.approx(wanted, rel=1e-5)]
    (narrow,) = compare(x[..., :31], y[..., :31], [METRICS["lpips"]]).values()
    assert math.isnan(narrow), "AlexNet has nothing left of 31 pixels"
    assert lpips(x[..., :32, :32], y[..., :32, :32]).isfinite().all()


def test_the_command_measures_it(backbone: None, folder: Path, tmp_path: Path, capsys) -> None:
    command = [
        "--images",
        str(folder),
        "--teacher",
        "tiny",
        "--num_workers",
        "0",
        "--anchors",
        "50",
        "--metrics",
        "lpips",
    ]
    assert run("eval", [*command, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    with (tmp_path / "pictures.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["codec"] == "teacher"]
    values = [float(row["lpips"]) for row in rows]
    assert len(values) == 2 and min(values) > 0
    curve = json.loads((tmp_path / "curves" / "teacher.json").read_text())["results"]
    assert curve["lpips"] == [pytest.approx(sum(values) / 2)]
    assert "LPIPS" in said and f"{curve['lpips'][0]:.4f}" in said


def test_a_missing_backbone_is_a_sentence_and_an_empty_column(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    patience = []

    def refuse(weights: object) -> None:
        patience.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no such\n host")

    monkeypatch.setattr(torchvision.models, "alexnet", refuse)
    command = [
        "--images",
        str(folder),
        "--teacher",
        "tiny",
        "--num_workers",
        "0",
        "--anchors",
        "none",
        "--metrics",
        "lpips",
    ]
    assert run("eval", [*command, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert patience == [perceptual.DOWNLOAD_TIMEOUT] and socket.getdefaulttimeout() is None, "it must not wait for ever"
    (line,) = [line for line in said.err.splitlines() if "LPIPS" in line]
    assert "no such host" in line and "https://download.pytorch.org/models/alexnet" in line and "checkpoints" in line
    assert "LPIPS" in said.out
    with (tmp_path / "pictures.csv").open() as file:
        assert [row["lpips"] for row in csv.DictReader(file)] == ["", ""]
    assert "lpips" not in json.loads((tmp_path / "curves" / "teacher.json").read_text())["results"]
