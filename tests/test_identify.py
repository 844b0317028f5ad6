"""Whatever refuses a file names what it found, and what reads it."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codecswap.cli import run
from codecswap.entropy.bitstream import MAGIC
from codecswap.identify import describe


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file or folder of each kind."""
    root = tmp_path_factory.mktemp("kinds")
    picture = Image.new("RGB", (16, 16))
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.bmp", "a.gif"):
        picture.save(root / name)
    (root / "a.csw").write_bytes(MAGIC + b"\1" + bytes(40))
    torch.save({"state_dict": {"g_a.0.weight": torch.zeros(2)}}, root / "a.pth")
    torch.save({}, root / "legacy.pth", _use_new_zipfile_serialization=False)
    np.savez(root / "a.npz", x=np.zeros(2))
    (root / "a.tflite").write_bytes(bytes(4) + b"TFL3" + bytes(20))
    (root / "a.html").write_text("\n<!DOCTYPE html><html>")
    (root / "a.txt").write_text("hello")
    (root / "a.json").write_text("[1, 2]")
    (root / "empty").touch()
    (root / "noise").write_bytes(bytes(range(200, 256)) * 3)
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("folder/codec.json", "{}")
    for folder, name in (("exported", "codec.json"), ("run", "run.json"), ("photos", "a.png"), ("models", "best.pt")):
        (root / folder).mkdir()
        (root / folder / name).write_text("{}")
    (root / "nothing").mkdir()
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.png", "a PNG picture, which `codecswap encode` reads"),
        ("a.jpg", "a JPEG picture"),
        ("a.webp", "a WebP picture"),
        ("a.tif", "a TIFF picture"),
        ("a.bmp", "a BMP picture"),
        ("a.gif", "a GIF, which nothing here reads"),
        ("a.csw", "a coded picture, which `codecswap decode` reads"),
        ("a.pth", "a checkpoint of PyTorch"),
        ("legacy.pth", "a pickle, as older versions of PyTorch"),
        ("a.npz", "an archive of NumPy arrays"),
        ("a.tflite", "a TensorFlow Lite model"),
        ("a.html", "a web page"),
        ("a.txt", "a text file"),
        ("a.json", "a JSON file"),
        ("exported/codec.json", "a file of an exported codec: its folder"),
        ("a.zip", "a zip of an exported codec"),
        ("empty", "an empty file"),
        ("noise", "of no kind that is known"),
        ("exported", "an exported codec's folder"),
        ("run", "a run's folder, which `codecswap report` reads"),
        ("photos", "a folder of pictures"),
        ("models", "a folder of checkpoints (best.pt)"),
        ("nothing", "an empty folder"),
        ("missing", "not there"),
        ("pipe", "a pipe, a socket or a device"),
        ("/dev/zero", "a pipe, a socket or a device"),
    ],
)
def test_each_kind_is_known(kinds: Path, name: str, words: str) -> None:
    assert words in describe(kinds / name)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("encode {}/a.csw -o {}/out --codec tiny", "a coded picture, which `codecswap decode` reads"),
        ("encode {}/a.gif -o {}/out --codec tiny", "a GIF, which nothing here reads"),
        ("decode {}/a.png -o {}/out --codec tiny", "a PNG picture, which `codecswap encode` reads"),
        ("decode {}/a.csw -o {}/out --codec {}/run", "a run's folder"),
        ("decode {}/a.csw -o {}/out --codec {}/a.png", "a PNG picture"),
        ("decode {}/a.csw -o {}/out --codec {}/models", "a folder of checkpoints (best.pt): name one of them"),
        ("page {}/a.pth --output {}/out", "a checkpoint of PyTorch"),
        ("report {}/a.pth", "a checkpoint of PyTorch"),
        ("report {}/photos", "a folder of pictures"),
        ("eval --images {}/a.png", "a PNG picture"),
        ("eval --teacher {}/run --images {}/photos", "a run's folder"),
        ("eval --checkpoint {}/a.pth --images {}/photos", "holds a codec's weights, which --teacher and --codec read"),
        ("eval --teacher {}/a.tflite --images {}/photos", "a TensorFlow Lite model"),
        ("prepare --images {}/a.zip --out_dir {}/out", "a zip of an exported codec"),
        ("rewrite {}/a.pth --output {}/out", "a checkpoint of PyTorch"),
        ("rewrite {}/a.html --output {}/out", "a web page"),
        ("rewrite {}/exported --output {}/out", "an exported codec's folder"),
        ("rewrite {}/pipe --output {}/out", "a pipe, a socket or a device"),
        ("encode {}/pipe -o {}/out --codec tiny", "a pipe, a socket or a device"),
        ("decode {}/pipe -o {}/out --codec tiny", "a pipe, a socket or a device"),
        ("decode {}/a.csw -o {}/out --codec {}/pipe", "a pipe, a socket or a device"),
        ("decode {}/a.csw -o {}/out --codec tiny --config {}/pipe", "a pipe, a socket or a device"),
        ("quantize --teacher {}/a.html --output {}/out", "a web page"),
        ("quantize --teacher {}/exported --output {}/out", "an exported codec's folder"),
        ("quantize --checkpoint {}/a.png --output {}/out", "a PNG picture"),
        ("compile --target openvino --teacher {}/a.html --output {}/out", "a web page"),
        ("compile --target openvino --checkpoint {}/nothing --output {}/out", "an empty folder"),
        ("compile --target openvino --teacher {}/exported/codec.json --output {}/out", "a file of an exported codec"),
        ("report {}/a.html", "a web page"),
        ("report {}/exported", "an exported codec's folder"),
        ("page {}/a.png --output {}/out", "a PNG picture"),
        ("page {}/exported/codec.json --output {}/out", "a file of an exported codec: name its folder"),
        ("eval --codec {}/a.html --images {}/photos", "a web page"),
        ("eval --codec {}/nothing --images {}/photos", "an empty folder"),
        ("page {}/exported --output {}/a.png", "a PNG picture, which `codecswap encode` reads, not a web page"),
        ("report {}/run --output {}/a.png", "is not overwritten"),
        ("rewrite {}/a.pth --output {}/a.png", "is not overwritten"),
        ("rewrite {}/a.pth --output {}/out --report {}/a.png", "which `codecswap encode` reads, not a JSON file"),
        ("export --teacher tiny --output {}/a.png", "not a folder"),
        ("quantize --teacher tiny --output {}/a.png/out", "not a folder: --output cannot be written into it"),
        ("compile --target openvino --teacher tiny --output {}/a.png", "not a folder"),
        ("prepare --coco_dir {}/a.png", "not a folder"),
        ("prepare --images {}/photos --out_dir {}/a.png", "not a folder"),
        ("distill --coco_dir {}/photos --teacher tiny --save_dir {}/a.png", "not a folder"),
        ("encode {}/a.png -o {}/pipe --codec tiny", "name a file to write"),
    ],
)
def test_every_command_says_what_it_found(kinds: Path, capsys: pytest.CaptureFixture, command: str, words: str) -> None:
    name, *arguments = command.replace("{}", str(kinds)).split()
    assert run(name, arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (kinds / "out").exists()
    Image.open(kinds / "a.png").load()
