"""`decode --region`: the pixels of the whole picture, from the tiles that the region needs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codecswap import export
from codecswap.cli import main
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.inference.runtime import OnnxCodec

WIDTH, HEIGHT = 430, 390


@pytest.fixture(scope="module", params=["tiny", "tiny_hyper"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("codec") / request.param
    export(load_codec(request.param), target)
    return target


@pytest.fixture
def picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_pixels_are_those_of_the_whole_and_only_the_tiles_needed_are_computed(
    exported: Path, picture: Image.Image, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = (18, 20)
    codec = OnnxCodec(exported, 1, tile) if kind == "onnx" else TorchCodec(load_codec(exported.name), tile)
    whole_tiles = OnnxCodec(exported, 1) if kind == "onnx" else TorchCodec(load_codec(exported.name))
    data, calls = bitstream.encode(whole_tiles, picture), []
    if kind == "onnx":
        codec.load("decoder")
        session = codec._sessions["decoder"]

        class Counting:
            def run(self, *given: object) -> object:
                calls.append(1)
                return session.run(*given)

        codec._sessions["decoder"] = Counting()
    else:
        codec.codec.g_s.register_forward_hook(lambda *_: calls.append(1))
    whole = np.asarray(bitstream.decode(codec, data))
    every, calls[:] = len(calls), []
    regions = [(0, 0, 1, 1), (WIDTH - 1, HEIGHT - 1, 1, 1), (0, 0, WIDTH, HEIGHT), (150, 90, 40, 33), (17, 100, 280, 3)]
    counts = []
    for left, top, width, height in regions:
        part = np.asarray(bitstream.decode(codec, data, (left, top, width, height)))
        assert part.tobytes() == whole[top : top + height, left : left + width].tobytes()
        counts.append(len(calls))
        calls.clear()
    assert counts[:3] == [1, 1, every] and all(1 <= count < every for count in counts[3:])
    for region in ((0, 0, WIDTH + 1, 1), (5, HEIGHT, 1, 1), (0, 0, 0, 4), (-1, 0, 3, 3)):
        with pytest.raises(bitstream.BadFile, match=f"{WIDTH}x{HEIGHT} pixels, and the region"):
            bitstream.decode(codec, data, region)
    if kind == "onnx":
        assert codec.decompress(data, region=(3, 2, 5, 4)).size == (5, 4)
        with pytest.raises(UserError, match="The coded picture has"):
            codec.decompress(data, region=(400, 2, 50, 4))


@pytest.mark.parametrize("exported", ["tiny"], indirect=True)
def test_the_command_crops_files_and_archives(exported: Path, picture: Image.Image, tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "a.png")
    picture.resize((40, 30)).save(tmp_path / "in" / "small.png")
    codec = ["--codec", str(exported), "--jobs", "1"]
    coded, archive = str(tmp_path / "coded"), str(tmp_path / "archive")
    assert main(["encode", str(tmp_path / "in"), "-o", coded, *codec]) == 0
    whole, part = tmp_path / "whole.png", tmp_path / "part.png"
    assert main(["decode", f"{coded}/a.csw", "-o", str(whole), *codec]) == 0
    expected = np.asarray(Image.open(whole))[20:70, 100:164]
    region = ["--region", "100,20,64,50"]
    assert main(["decode", f"{coded}/a.csw", "-o", str(part), *codec, *region]) == 0
    assert np.array_equal(np.asarray(Image.open(part)), expected)
    capsys.readouterr()
    other = tmp_path / "other.png"
    for words, why in (
        ("0,0,500,10", "has 430x390 pixels, and the region 0,0,500,10 is not inside"),
        ("430,0,1,1", "is not inside"),
        ("0,0,0,10", "has no pixels"),
        ("0,-1,5,5", "four numbers"),
        ("0,0,5", "four numbers"),
        ("0,0,5,x", "four numbers"),
        ("0,0,5,5.5", "four numbers"),
        ("", "four numbers"),
    ):
        assert main(["decode", f"{coded}/a.csw", "-o", str(other), *codec, f"--region={words}"]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1 and not other.exists()

    pytest.importorskip("pyarrow")
    assert main(["encode", str(tmp_path / "in"), "--archive", "tar", "-o", archive, *codec]) == 0
    out = tmp_path / "parts"
    assert main(["decode", archive, "-o", str(out), *codec, *region]) == 3  # one is smaller
    assert [path.name for path in (out / "files").iterdir()] == ["a.png"]
    assert np.array_equal(np.asarray(Image.open(out / "files" / "a.png")), expected)
    capsys.readouterr()
    assert main(["decode", archive, "-o", str(out), *codec, "--region", "0,0,8,8"]) == 2
    assert "region 100,20,64,50, not 0,0,8,8" in capsys.readouterr().err
