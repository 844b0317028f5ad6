"""The calibration pack: real inputs, in the layouts that the page names, of a decoder that is still the codec."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture, to_array
from codecswap.inference.runtime import OnnxCodec

SIDE = 80


def compiled(target: str, pictures: Path, folder: Path) -> int:
    """Run the command on a small size."""
    size = ["--height", str(SIDE), "--width", str(SIDE)]
    sources = ["--teacher", "tiny", "--calibration_images", str(pictures / "train"), "--images", str(pictures / "val")]
    return cli.main(["compile", "--target", target, "--output", str(folder), *size, *sources])


def test_inputs_are_the_symbols_of_the_pictures_in_both_layouts(
    teacher: FactorizedPrior, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "pack"
    assert compiled("pack", pictures, folder) == 0
    assert "README.md" in capsys.readouterr().out
    codec, names = OnnxCodec(folder), (folder / "dataset.txt").read_text().split()
    together = np.load(folder / "calibration_nhwc.npy")
    assert len(names) == len(together) == 8 and codec.manifest.precision == "float32"
    session = onnxruntime.InferenceSession(folder / "decoder.onnx")
    shape = session.get_inputs()[0].shape
    for name, nhwc in zip(names, together, strict=True):
        one = np.load(folder / name)
        assert list(one.shape) == shape and one.dtype == np.float32
        assert (one[0].transpose(1, 2, 0) == nhwc).all() and (one == np.rint(one)).all() and np.abs(one).max() > 3
    picture = to_array(load_picture(scan(pictures / "val")[0]).crop((0, 0, SIDE, SIDE)))
    reference = TorchCodec(teacher)
    symbols = reference.tables.to_symbols(reference.analyze(picture))
    assert np.abs(codec.synthesize(symbols) - reference.synthesize(symbols)).max() < 1e-4
    given = codec.decoder_input(symbols)[None]
    assert np.abs(session.run(None, {"split_inputs": given})[0][0] - reference.synthesize(symbols)).max() < 1e-4


def test_the_page_names_the_files_and_an_address_for_each_converter(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    assert compiled("pack", pictures, folder) == compiled("pack", pictures, folder) == 0  # again, into the same folder
    assert sorted(path.name for path in (folder / "calibration").iterdir()) == [f"{i:03}.npy" for i in range(8)]
    page = (folder / "README.md").read_text()
    sections = page.split("\n## ")[1:]
    assert len(sections) == 5 and "$" not in page
    for section in sections:
        assert "https://" in section and "decoder.onnx" in page
        assert any(name in section for name in ("dataset.txt", "calibration_nhwc.npy"))
