"""`codecswap eval` on tar shards, lists, addresses and archives."""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codecswap import export
from codecswap.archives.index import read_index
from codecswap.cli import main
from codecswap.codecs.source import load_codec

pytest.importorskip("pyarrow")
FIGURES = ("psnr", "ms_ssim", "bpp")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("codec") / "tiny"
    export(load_codec("tiny"), target)
    return target


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures in two folders, and one that cannot be read."""
    root = tmp_path_factory.mktemp("pictures") / "source"
    (root / "b").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for name in ("a0", "b/b0", "b/b1"):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((96, 80), Image.Resampling.BICUBIC).save(root / f"{name}.png")
    (root / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


def measure(images: object, codec: Path, out: Path, *words: object) -> dict[str, dict[str, str]]:
    """Rows of pictures.csv by the base names of the pictures."""
    given = [
        "eval",
        "--images",
        images,
        "--codec",
        codec,
        "--anchors",
        "none",
        "--num_workers",
        0,
        "--output",
        out,
        *words,
    ]
    assert main([str(word) for word in given]) == 0
    with (out / "pictures.csv").open(encoding="utf-8") as file:
        return {Path(row["picture"]).name: row for row in csv.DictReader(file)}


def figures(rows: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    return {name: [row[key] for key in row if key in FIGURES] for name, row in rows.items()}


def test_streams_give_the_figures_of_their_folder(pictures: Path, codec: Path, tmp_path: Path, capsys) -> None:
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    (tmp_path / "tars").mkdir()
    for path in files:
        with tarfile.open(tmp_path / "tars" / f"{path.stem}.tar", "w") as tar:
            tar.add(path, path.name)
            tar.addfile(tarfile.TarInfo(f"{path.stem}.txt"))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in files))
    expected = figures(measure(pictures, codec, tmp_path / "plain"))
    assert sorted(expected) == ["a0.png", "b0.png", "b1.png"] and all(map(len, expected.values()))
    capsys.readouterr()
    for number, source in enumerate((tmp_path / "tars", tmp_path / "tars" / "a0.tar", tmp_path / "list.txt")):
        found = figures(measure(source, codec, tmp_path / f"out{number}"))
        assert found == ({"a0.png": expected["a0.png"]} if number == 1 else expected)
        assert ("broken.jpg cannot be read" in capsys.readouterr().err) == (number != 1)


@pytest.mark.parametrize("layout", ["tar", "tree"])
def test_files_of_an_archive_are_measured_against_its_source(
    pictures: Path, codec: Path, tmp_path: Path, layout: str, capsys
) -> None:
    archive, again = tmp_path / "archive", tmp_path / "again"
    made = ["encode", pictures, "--codec", codec, "--archive", layout, "-o", archive, "--shard_size", 2, "--jobs", 1]
    assert main([*map(str, made), "--psnr"]) == 3  # one cannot be read
    rows = measure(pictures, codec, tmp_path / "out", "--archive", archive)
    encoded = figures(measure(pictures, codec, tmp_path / "plain"))
    assert figures(rows) == encoded
    index = {Path(row.key).name: row for path in (archive / "index").iterdir() for row in read_index(path)}
    for name, row in rows.items():
        assert float(row["psnr"]) == pytest.approx(index[name].psnr, abs=1e-3)
    assert (
        main(["decode", str(archive), "--codec", str(codec), "--archive", layout, "-o", str(again), "--jobs", "1"]) == 0
    )
    assert sorted(measure(again, codec, tmp_path / "decoded")) == sorted(rows)
    capsys.readouterr()
    for words, why in (
        (["--images", archive], "holds coded pictures"),
        (["--images", again, "--archive", archive], "changed since"),
        (["--images", pictures, "--archive", again], "holds decoded pictures"),
        (["--images", pictures, "--archive", archive, "--teacher", "tiny"], "without --teacher"),
    ):
        assert main(["eval", *map(str, words), "--codec", str(codec), "--anchors", "none"]) == 2
        assert why in capsys.readouterr().err
    next((archive / "index").iterdir()).unlink()
    assert main(["eval", "--images", str(pictures), "--archive", str(archive), "--codec", str(codec)]) == 2
    assert "has no shard" in capsys.readouterr().err
