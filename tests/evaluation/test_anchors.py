"""JPEG, WebP and AVIF against what Pillow itself writes."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from codecswap.data.transforms import whole_picture
from codecswap.evaluation import anchors
from codecswap.evaluation.anchors import Anchors
from codecswap.evaluation.evaluate import evaluate

NEEDED = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@pytest.mark.parametrize("name", ["JPEG", "WebP", pytest.param("AVIF", marks=NEEDED)])
def test_bytes_and_picture_are_pillows(name: str, photos: list[Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description " * 200
    original = Image.open(photos[0]).convert("RGB").crop((200, 200, 373, 381))
    original.save(tmp_path / "a.png", exif=exif)
    results = evaluate([tmp_path / "a.png"], anchors=(20, 80))
    assert {result.kind for result in results} == {"anchor"}
    for quality in (20, 80):
        (result,) = [result for result in results if result.name == f"{name} q{quality}"]
        assert result.curve == name
        file = io.BytesIO()
        original.info.clear()
        original.save(file, name, quality=quality, **({"max_threads": 1} if name == "AVIF" else {}))
        assert result.coded[0].bpp == 8 * len(file.getvalue()) / (173 * 181), "no metadata among the bytes"
        decoded = np.asarray(Image.open(file).convert("RGB"), dtype=float)
        error = ((decoded - np.asarray(original, dtype=float)) ** 2).mean()
        assert result.coded[0].scores["psnr"] == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
        assert result.coded[0].encoding_time > 0 and result.coded[0].decoding_time > 0


def test_a_format_that_pillow_lacks_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    check = features.check
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif" and check(feature))
    assert [result.name for result in Anchors((50,)).results] == ["JPEG q50", "WebP q50"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "AVIF" in said and "pip install --upgrade pillow" in said


def test_a_picture_that_a_format_cannot_hold_drops_the_format(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (16_400, 16)).save(tmp_path / "wide.png")
    pictures = [
        ("small", whole_picture(tmp_path / "wide.png")[:, :, :64]),
        ("wide", whole_picture(tmp_path / "wide.png")),
    ]
    results = evaluate(pictures, anchors=(50,))
    assert "WebP q50" not in [result.name for result in results] and "JPEG q50" in [result.name for result in results]
    assert all(len(result.coded) == 2 for result in results)
    assert "WebP cannot code wide" in capsys.readouterr().err


def test_threads_change_no_figure(photos: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    pictures = [(path.name, whole_picture(path)[:, 100:280, 100:300]) for path in photos[:2]]
    pictures.append(("wide", torch.zeros(3, 16, 16_400)))

    def figures(threads: int) -> list[tuple[str, str, float, dict[str, float]]]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(threads)))
        monkeypatch.setattr("codecswap.evaluation.evaluate.cores", lambda: threads)
        results = evaluate(pictures, anchors=(30, 60))
        return [(result.name, one.picture, one.bpp, one.scores) for result in results for one in result.coded]

    before = torch.get_num_threads()
    alone, together = figures(1), figures(3)
    assert torch.get_num_threads() == before
    assert str(alone) == str(together) and len(alone) >= 6, "as text: NaN where MS-SSIM is not defined"
    assert capsys.readouterr().err.count("WebP cannot code wide") == 2, "and a format that fails is left out, too"


def test_each_is_coded_once_and_then_known(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, teacher
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    coded: list[tuple[str, int]] = []
    encode = anchors._encode
    monkeypatch.setattr(anchors, "_encode", lambda x, *how: coded.append(how) or encode(x, *how))
    x = whole_picture(photos[0])[:, 100:280, 100:300]
    first = evaluate([("a", x)], teacher=teacher, anchors=(30, 60))
    assert sorted(coded) == sorted((name, quality) for name in anchors.FORMATS for quality in (30, 60)), (
        "once, not twice"
    )
    again = evaluate([("b", x)], anchors=(60, 90))
    assert len(coded) == 9 and {quality for _, quality in coded[6:]} == {90}, "the same pixels under another name"
    assert [one.coded[0].scores for one in again[::2]] == [one.coded[0].scores for one in first[2::2]]
    assert again[0].coded[0].picture == "b" and again[0].coded[0].encoding_time == first[2].coded[0].encoding_time
    evaluate([("c", x + 1 / 255 * (x < 0.5))], anchors=(60,))
    assert len(coded) == 12, "other pixels"
    monkeypatch.setattr(anchors, "_encoder", lambda name: "another version")
    evaluate([("a", x)], anchors=(60,))
    assert len(coded) == 15, "another encoder"
    for path in (tmp_path / "codecswap" / "anchors").iterdir():
        path.write_text("damaged")
    assert evaluate([("a", x)], anchors=(60,))[0].coded[0].scores == again[0].coded[0].scores and len(coded) == 18
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert evaluate([("a", x)], anchors=(60,))[0].coded[0].scores == again[0].coded[0].scores, "no room is no error"
