"""Names of files are bytes: they come through a run, an evaluation and their files unchanged, and nothing raises."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from codecswap.cli import parse, run

NAMES = [
    b"latin-\xe9.png",
    unicodedata.normalize("NFD", "d\u00e9compos\u00e9.png").encode(),
    "\u6e05 \U0001f4f7.png".encode(),
    b"new\nline \x1b[31m.png",
    b"<b>&\"'.png",
    b"=1+2,;.png",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in a folder that is not in UTF-8 either."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \x1b")
    try:
        (folder / "pictures").mkdir(parents=True)
        for index, name in enumerate(NAMES):
            picture = Image.linear_gradient("L").resize((224, 230)).rotate(30 * index)
            picture.convert("RGB").save(folder / "pictures" / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    return folder


@pytest.mark.slow
def test_names_come_through_every_file(folder: Path, capsys: pytest.CaptureFixture) -> None:
    pictures, trained = folder / "pictures", folder / "run"
    training = ["--coco_dir", str(pictures), "--val_ratio", "0.5", "--batch_size", "2", "--num_workers", "0"]
    training += ["--teacher", "tiny", "--init", "weights", "--epochs", "0", "--save_dir", str(trained)]
    assert run("distill", training) == 0
    assert json.loads((trained / "run.json").read_text("utf-8"))["pictures"]["folder"] == str(pictures)
    again = parse("distill", ["--config", str(trained / "config.yaml")])
    assert again.coco_dir == str(pictures) and again.save_dir == str(trained)

    measured = folder / "measured"
    evaluation = ["--checkpoint", str(trained / "last.pt"), "--images", str(pictures), "--anchors", "none"]
    assert run("eval", [*evaluation, "--output", str(measured)]) == 0
    with (measured / "pictures.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        names = {row["picture"] for row in csv.DictReader(file)}
    assert {os.fsencode(name) for name in names} == set(NAMES)
    json.loads((measured / "summary.json").read_text("utf-8"))

    assert run("report", [str(trained), "--output", str(folder / "report.html"), "--pictures", "1"]) == 0
    page = (folder / "report.html").read_bytes().decode("utf-8")
    assert "<b>&\"'.png" not in page

    assert run("encode", ["--codec", "tiny", str(pictures), "--output", str(folder / "coded")]) == 0
    assert run("decode", ["--codec", "tiny", str(folder / "coded"), "--output", str(folder / "decoded")]) == 0
    assert {os.fsencode(path.name) for path in (folder / "decoded").iterdir()} == set(NAMES)
    assert run("prepare", ["--images", str(pictures), "--out_dir", str(folder / "crops"), "--val_ratio", "0.5"]) == 0
    crops = {path.stem for path in (folder / "crops").rglob("*.jpg")}
    assert {os.fsencode(f"{name}.png") for name in crops} == set(NAMES)
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
