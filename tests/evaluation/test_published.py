"""Kodak is recognized, and the zoo's figures on it are compared with those published."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from codecswap.cli import run
from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import Teacher
from codecswap.config import ZOO
from codecswap.evaluation.evaluation_set import EvaluationSet
from codecswap.evaluation.measure import TeacherAndStudents
from codecswap.evaluation.published import distance, is_kodak, published
from codecswap.evaluation.result import Coded
from codecswap.evaluation.summary import against_published

NAMES = [f"kodim{number:02d}" for number in range(1, 25)]


def test_the_figures_are_those_of_the_issue() -> None:
    psnr = [26.906, 28.214, 29.611, 31.268, 32.944, 35.360, 37.365, 39.569]
    ms_ssim = [0.90990, 0.93596, 0.95539, 0.97027, 0.98055, 0.98779, 0.99212, 0.99502]
    bpp = [0.1226, 0.1885, 0.2878, 0.4404, 0.6481, 0.9670, 1.3512, 1.8333]
    results = published(ZOO)["results"]
    assert results["psnr-rgb"] == pytest.approx(psnr, abs=6e-4)
    assert results["ms-ssim-rgb"] == pytest.approx(ms_ssim, abs=6e-6)
    assert results["bpp"] == pytest.approx(bpp, abs=6e-5)
    assert "github.com/InterDigitalInc/CompressAI, results/image/8bit-decoded/kodak" in published(ZOO)["description"]
    far = distance({"psnr": 31.0, "ms_ssim": 0.98, "bpp": 0.5}, 4)
    assert far == {
        "psnr": pytest.approx(-0.268, abs=1e-3),
        "ms_ssim": pytest.approx(0.00973, abs=1e-5),
        "bpp": pytest.approx(0.0596, abs=1e-4),
    }


def test_each_model_of_the_zoo_has_its_own() -> None:
    at_5 = {"bmshj2018_hyperprior": (34.509, 0.6687), "mbt2018_mean": (34.950, 0.6617), "mbt2018": (35.075, 0.6388)}
    at_5 |= {"cheng2020_anchor": (35.100, 0.5945), "cheng2020_attn": (34.931, 0.5953)}
    fixed = {name for name, architecture in ARCHITECTURES.items() if len(architecture.zoo.get("mse", ())) > 1}
    assert {*at_5, "bmshj2018_factorized"} == fixed
    for model, (psnr, bpp) in at_5.items():
        figures = published(model)
        assert figures["results"]["psnr-rgb"][4] == pytest.approx(psnr, abs=6e-4)
        assert figures["results"]["bpp"][4] == pytest.approx(bpp, abs=6e-5)
        count = len(ARCHITECTURES[model].zoo["mse"])
        assert all(len(values) == count and values == sorted(values) for values in figures["results"].values())
        assert (
            figures["name"] == f"{model.replace('_', '-')}-mse, published" and "results/image" in figures["description"]
        )
        assert distance({"psnr": psnr, "ms_ssim": 1.0, "bpp": bpp}, 5, model)["psnr"] == pytest.approx(0, abs=1e-3)


def test_curves_of_one_checkpoint_and_of_a_paper() -> None:
    at_1 = {"bmshj2018_hyperprior_vbr": (0.1382, 27.413), "mbt2018_mean_vbr": (0.1360, 27.763)}
    at_1 |= {"mbt2018_vbr": (0.1310, 27.628), "elic2022_official": (0.1235, 29.113)}
    for model, (bpp, psnr) in at_1.items():
        figures = published(model)
        assert figures["results"]["bpp"][0] == pytest.approx(bpp, abs=6e-5)
        assert figures["results"]["psnr-rgb"][0] == pytest.approx(psnr, abs=6e-4)
        assert all(values == sorted(values) for values in figures["results"].values())
        assert {len(values) for values in figures["results"].values()} == {6 if "elic" in model else 16}
        assert "github.com/InterDigitalInc/CompressAI, results/image/kodak/" in figures["description"]


@pytest.mark.parametrize("model", ["mbt2018_mean", "mbt2018_mean_vbr"])
def test_a_point_of_variable_rate_is_compared_with_no_quality(model: str) -> None:
    codec, quality = ARCHITECTURES[model](4, 4), 8
    measured = TeacherAndStudents(codec, {})
    measured.results[0].coded.append(Coded("a", 0.5, {"psnr": 30.0, "ms_ssim": 0.9}, 1.0, 1.0, None))
    codecs = EvaluationSet([Teacher(None, quality, "mse", model)], [measured], {}, {})
    assert len(against_published(codecs)) == (model == "mbt2018_mean")


def test_kodak_is_recognized_by_names_and_sizes() -> None:
    right = [(f"{name}.png", (512, 768)) for name in NAMES]
    right[3] = ("sub/KODIM04.PNG", (768, 512))
    assert is_kodak(right)
    assert not is_kodak(right[:-1]) and not is_kodak([*right, ("more.png", (512, 768))])
    assert not is_kodak([*right[:-1], ("kodim24.png", (256, 384))]), "half the size is not Kodak"
    assert not is_kodak([*right[:-1], right[0]])


@pytest.fixture
def kodak(tmp_path: Path) -> Path:
    folder = tmp_path / "kodak"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        size = (512, 768) if index % 6 == 0 else (768, 512)
        Image.linear_gradient("L").resize(size).point(lambda v, i=index: (v + 9 * i) % 256).convert("RGB").save(
            folder / f"{name}.jpg"
        )
    return folder


@pytest.mark.slow
def test_the_zoo_on_kodak_is_compared(kodak: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def small(teacher: Teacher) -> FactorizedPrior:
        torch.manual_seed(teacher.quality)
        codec = FactorizedPrior(4, 4).eval()
        codec.update()
        return codec

    monkeypatch.setattr(Teacher, "load", small)
    command = ["--images", str(kodak), "--num_workers", "0", "--anchors", "none", "--output", str(tmp_path / "out")]
    assert run("eval", [*command, "--quality", "2,5"]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    second = summary["published"][1]
    measured = summary["codecs"][1]["mean"]
    assert (
        summary["pictures"]["kodak"] and second["quality"] == 5 and second["published"]["psnr-rgb"] == 32.94364643096924
    )
    assert second["distance"]["psnr"] == pytest.approx(measured["psnr"] - 32.94364643096924)
    assert second["distance"]["ms_ssim"] == pytest.approx(measured["ms_ssim"] - 0.9805546849966049)
    assert "What CompressAI publishes for Kodak" in said
    line = next(line for line in said.splitlines() if "quality 5" in line)
    assert (
        "32.944" in line
        and f"{second['distance']['psnr']:+.3f}" in line
        and f"{second['distance']['bpp']:+.4f}" in line
    )
    assert json.loads((tmp_path / "out" / summary["curves"][published(ZOO)["name"]]).read_text()) == published(ZOO)


def test_an_architecture_that_the_zoo_does_not_have_has_no_figures() -> None:
    assert published("residual")["results"] == {}
