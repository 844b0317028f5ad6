"""OpenVINO in the place of ONNX Runtime: the same pictures, and the same check before a folder is used."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from saturating import SaturatingSession

from codecswap import cli
from codecswap.codecs.source import load_codec
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.inference import runtime
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    arguments = ["--teacher", "tiny", "--replacement", "subpixel", "--images", str(pictures)]
    assert cli.main(["export", *arguments, "--output", str(folder)]) == 0
    return folder


def test_encode_and_decode_with_openvino(exported: Path, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    picture = sorted((pictures / "val").iterdir())[0]
    decoded = {}
    for name in ("openvino", "onnxruntime"):
        coded, shown = tmp_path / f"{name}.csw", tmp_path / f"{name}.png"
        common = ["--codec", str(exported), "--threads", "1", "--runtime", name]
        assert cli.main(["encode", *common, "--input", str(picture), "--output", str(coded)]) == 0
        assert cli.main(["decode", *common, "--input", str(coded), "--output", str(shown)]) == 0
        decoded[name] = np.asarray(Image.open(shown), int)
    assert (decoded["openvino"] != decoded["onnxruntime"]).mean() < 0.01  # a symbol on a boundary changes some


@pytest.mark.slow
def test_an_overflowing_openvino_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, _ = swap(load_codec("tiny"), "subpixel")
    samples = list(islice(sample_pictures(None, "", "train", (192, 128)), 2))
    quantize(codec, tmp_path, calibration_images=samples)

    def saturating(content: bytes, threads: int | None) -> Any:
        return SaturatingSession(content)

    monkeypatch.setattr(runtime, "OpenVinoSession", saturating)
    symbols = np.ones((codec.M, 4, 4), np.int32)
    with pytest.raises(UserError, match=r"OpenVINO .*--weight_bits 7, update openvino"):
        OnnxCodec(tmp_path, runtime="openvino").synthesize(symbols)
    assert np.isfinite(OnnxCodec(tmp_path).synthesize(symbols)).all()


def test_what_openvino_cannot_do_is_said(
    exported: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    picture = sorted((pictures / "val").iterdir())[0]
    files = ["--input", str(picture), "--output", str(tmp_path / "x.csw"), "--runtime"]
    assert cli.main(["encode", "--codec", "tiny", *files, "openvino"]) == 2
    assert "exported folders" in capsys.readouterr().err
    assert cli.main(["encode", "--codec", str(exported), *files, "tensorrt"]) == 2
    assert "openvino" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert cli.main(["encode", "--codec", str(exported), *files, "openvino"]) == 2
    assert "pip install openvino" in capsys.readouterr().err
    assert not (tmp_path / "x.csw").exists()
