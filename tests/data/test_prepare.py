import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepare_steps import run, scene, tree

from codecswap import cli
from codecswap.data.discovery import find_pictures, position, scan
from codecswap.data.pictures import load_picture
from codecswap.data.prepare import command as prepare
from codecswap.data.prepare import download, fetch
from codecswap.data.prepare.crops import crop_picture

pytest_plugins = ["prepare_fixtures"]
ROOT = Path(__file__).parents[2]


def test_from_nothing_to_crops(coco_server, tmp_path, coco_pictures, coco_crops, capsys):
    coco_server.cuts.extend([50_000, 0, 100_000])
    coco, out = tmp_path / "coco", tmp_path / "out"
    assert run("--coco_dir", coco, "--out_dir", out, "--url", coco_server.url("train2017.zip"), workers=2) == 0
    assert tree(coco) == {f"train2017/{name}": data for name, data in tree(coco_pictures).items()}
    assert tree(out) == coco_crops
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"Next: codecswap distill --coco_dir {out} --use_prepared true"
    for step in ("Downloading", "Unpacking", "Cropping"):
        assert step in printed.out


@pytest.mark.parametrize("most", [[], ["--max_images", "0"], ["--max_images", "8", "--val_ratio", "0.2"]])
def test_without_a_folder_for_crops_it_downloads_and_unpacks(coco_server, tmp_path, coco_pictures, capsys, most):
    coco = tmp_path / "coco"
    assert run("--coco_dir", coco, "--url", coco_server.url("train2017.zip"), *most) == 0
    assert f"Next: codecswap distill --coco_dir {coco} --val_ratio" in capsys.readouterr().out
    if "8" in most:
        assert len(find_pictures(coco, val_ratio=0.2).train) == 8
    else:
        assert tree(coco) == {f"train2017/{name}": data for name, data in tree(coco_pictures).items()}


def test_layout_is_what_training_looks_for(coco_pictures, coco_crops, tmp_path):
    for name, data in coco_crops.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    prepared = find_pictures(tmp_path, use_prepared=True)
    raw = find_pictures(coco_pictures, val_ratio=0.2)
    readable = [[path.stem for path in side if path.stem != "broken"] for side in (raw.train, raw.val)]
    assert [[path.stem for path in side] for side in (prepared.train, prepared.val)] == readable
    assert all(int(path.parent.name, 16) == int(position(path) * 256) for path in prepared.train + prepared.val)
    assert coco_crops["skipped.txt"].decode().startswith("broken.jpg: image file is truncated")
    manifest = json.loads(coco_crops["manifest.json"])
    counts = manifest["counts"]
    assert counts["skipped"] == 1 and counts["train"] + counts["val"] == 40 and counts["val"] == len(readable[1])
    assert manifest["settings"]["val_ratio"] == 0.2


def test_second_run_does_nothing_and_needs_no_network(coco_server, tmp_path):
    arguments = (
        "--coco_dir",
        tmp_path / "coco",
        "--out_dir",
        tmp_path / "out",
        "--url",
        coco_server.url("train2017.zip"),
    )
    assert run(*arguments) == 0
    before, asked = {path: path.stat().st_mtime_ns for path in scan(tmp_path)}, len(coco_server.requests)
    victim = scan(tmp_path / "out" / "train")[0]
    content = victim.read_bytes()
    victim.unlink()
    assert run(*arguments) == 0
    assert victim.read_bytes() == content and len(coco_server.requests) == asked
    assert {path: time for path, time in before.items() if path != victim} == {
        path: path.stat().st_mtime_ns for path in scan(tmp_path) if path != victim
    }


@pytest.mark.parametrize("count", [1, 8, 25])
def test_max_images_fetches_what_training_would_take(coco_server, tmp_path, coco_pictures, coco_zip, count):
    arguments = (
        "--coco_dir",
        tmp_path / "coco",
        "--out_dir",
        tmp_path / "out",
        "--url",
        coco_server.url("train2017.zip"),
    )
    coco_server.cuts.extend([100_000, 100, 0])
    assert run(*arguments, "--max_images", count) == 0
    wanted = find_pictures(coco_pictures, val_ratio=0.2, max_images=count)
    names = {path.name for path in wanted.train + wanted.val}
    assert {path.name for path in scan(tmp_path / "coco" / "train2017.part")} == names
    prepared = find_pictures(tmp_path / "out")
    assert [path.name for path in prepared.train] == [path.name for path in wanted.train if path.stem != "broken"]
    assert [path.name for path in prepared.val] == [path.name for path in wanted.val if path.stem != "broken"]
    assert coco_server.sent < len(coco_zip) * (len(names) / 41) + 100_000
    asked = len(coco_server.requests)
    assert run(*arguments, "--max_images", count) == 0 and len(coco_server.requests) == asked


def test_more_pictures_later_and_all_in_the_end(coco_server, tmp_path, coco_crops, capsys):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", coco_server.url("train2017.zip"))
    assert run(*arguments, "--max_images", 5) == 0
    assert run(*arguments, "--max_images", 12) == 0
    assert json.loads((out / "manifest.json").read_text())["counts"]["train"] >= 11  # one may be the broken one
    assert run(*arguments, "--max_images", 6) == 2
    assert "12 training pictures, more than --max_images 6" in capsys.readouterr().err
    assert run(*arguments) == 0
    assert tree(out) == coco_crops and [path.name for path in coco.iterdir()] == ["train2017"]


def test_parts_need_a_server_that_sends_them(coco_server, tmp_path, capsys):
    coco_server.ranges = False
    arguments = ("--coco_dir", tmp_path / "c", "--url", coco_server.url("train2017.zip"), "--max_images", 4)
    assert run(*arguments, "--out_dir", tmp_path / "out") == 2
    assert "--download_only first" in capsys.readouterr().err
    assert run(*arguments[:-2], "--download_only") == 0
    assert tree(tmp_path / "c").keys() == {"train2017.zip"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("Next: codecswap prepare --coco_dir")
    coco_server.errors.extend([404] * 9)
    assert run(*arguments, "--out_dir", tmp_path / "out") == 0
    assert len(find_pictures(tmp_path / "out").train) == 4


def test_keep_zip_and_zip_of_ones_own(coco_server, tmp_path, coco_zip, coco_crops):
    url = coco_server.url("train2017.zip")
    for name in ("kept", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "train2017.zip").write_bytes(coco_zip)
    for name, keep in (("kept", "--keep_zip"), ("own", "--keep_zip=false")):
        assert run("--coco_dir", tmp_path / name, "--out_dir", tmp_path / f"{name}_out", "--url", url, keep) == 0
        assert (tmp_path / name / "train2017.zip").read_bytes() == coco_zip
        assert tree(tmp_path / f"{name}_out") == coco_crops
    assert not any(name != "train2017.zip" for name, _ in coco_server.requests)


def test_official_address_is_checked(coco_server, tmp_path, monkeypatch, capsys, coco_zip):
    official = download.Archive(coco_server.url("train2017.zip"), len(coco_zip) + 1, "0" * 32)
    monkeypatch.setattr(fetch, "COCO", official)
    arguments = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out")
    assert run(*arguments) == 2
    assert "bytes where the file has" in capsys.readouterr().err
    monkeypatch.setattr(fetch, "COCO", download.Archive(official.url, len(coco_zip), official.md5))
    assert run(*arguments) == 2
    assert "arrived damaged" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_corrupt_zip(coco_server, tmp_path, capsys):
    assert run("--coco_dir", tmp_path / "c", "--out_dir", tmp_path / "o", "--url", coco_server.url("bad.zip")) == 2
    error = capsys.readouterr().err
    assert "damaged or not a zip" in error and "Traceback" not in error
    assert not (tmp_path / "o" / "train").exists()


def test_space_is_checked_before_the_first_byte(coco_server, tmp_path, monkeypatch, capsys, coco_zip):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, len(coco_zip)))
    assert (
        run("--coco_dir", tmp_path / "c", "--out_dir", tmp_path / "o", "--url", coco_server.url("train2017.zip")) == 2
    )
    assert "free and" in capsys.readouterr().err
    assert coco_server.sent <= 1 and tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--coco_dir", "c", "--images", "p", "--out_dir", "o"], "not both"),
        (["--out_dir", "o"], "--coco_dir"),
        (["--images", "p"], "--out_dir"),
        (["--images", "absent", "--out_dir", "o"], "no folder absent"),
        (["--images", "p", "--out_dir", "p/o"], "outside of it"),
        (["--images", "p", "--out_dir", "o", "--download_only"], "is for COCO"),
        (["--images", "p", "--out_dir", "o", "--max_images", "-1"], "at least 1"),
        (["--images", "p", "--out_dir", "o", "--size", "0"], "at least 1"),
        (["--images", "empty", "--out_dir", "o"], "no pictures in empty"),
        (["--images", "p", "--out_dir", "other"], "did not make"),
        (["--images", "p", "--out_dir", "damaged"], "is damaged"),
        (["--images", "one", "--out_dir", "o"], "falls on the validation side"),
        (["--images", "text", "--out_dir", "o"], "can be read"),
        (["--coco_dir", "p", "--out_dir", "o"], "--images p"),
    ],
)
def test_one_sentence(arguments, sentence, coco_pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("p", "one", "empty", "other/train/00", "damaged", "text"):
        Path(name).mkdir(parents=True)
    for path in scan(coco_pictures)[:12]:
        shutil.copy(path, "p")
        Path("text", path.name).write_text("no picture")
    shutil.copy(scan(coco_pictures)[0], "one")
    shutil.copy(scan(coco_pictures)[0], "other/train/00")
    Path("damaged/manifest.json").write_text("{}")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--size", 64), ("--format", "png"), ("--val_ratio", 0.3), ("--images", "other")]
)
def test_other_settings_are_refused(option, value, coco_pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(coco_pictures, "p")
    shutil.copytree(coco_pictures, "other")
    options = {"--images": "p", "--out_dir": "o", "--val_ratio": 0.2, "--size": 32, "--workers": 1}
    assert cli.main(["prepare", *flat(options)]) == 0
    assert "Training needs crops of 224x224" in capsys.readouterr().out.splitlines()[-1]
    before = tree("o")
    assert cli.main(["prepare", *flat(options | {option: value})]) == 2
    assert f"{option.strip('-').replace('images', 'source')} " in capsys.readouterr().err
    assert tree("o") == before


def flat(options):
    return [str(word) for pair in options.items() for word in pair]


def test_png_is_lossless(coco_pictures, tmp_path):
    assert run("--images", coco_pictures, "--out_dir", tmp_path, "--format", "png", "--size", 240) == 0
    crop = next(path for path in scan(tmp_path) if path.name == f"{5:012}.png")
    original = np.asarray(load_picture(coco_pictures / f"{5:012}.jpg"))
    assert (np.asarray(Image.open(crop)) == original[:, 40:280]).all()


def test_equal_names_keep_their_side_and_never_mix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(path, seed):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        scene(seed).save(path)

    for index in range(12):
        put(f"p/b/{index:02}.png", index)
    put("p/b/03.jpg", 100)
    put("p/b/04~2.png", 101)
    put("p/c/05.PNG", 102)
    assert run("--images", "p", "--out_dir", "o", "--size", 64) == 0
    names = [path.stem for path in scan("o")]
    assert len(names) == 15 and {"03", "03~2", "04", "04~2", "05", "05~2"} <= set(names)
    put("p/a/03.jpg", 103)  # comes before its namesakes
    put("p/a/07.png", 104)
    assert run("--images", "p", "--out_dir", "o", "--size", 64) == 0
    grown = tree("o")
    shutil.rmtree("o")
    assert run("--images", "p", "--out_dir", "o", "--size", 64) == 0
    assert tree("o") == grown and len(scan("o")) == 17
    assert len({path.read_bytes() for path in scan("o")}) == 17


def test_every_kind_of_picture(tmp_path):
    square = scene(3, 300, 300)
    gray16 = Image.fromarray(np.asarray(square.convert("L")).astype(np.uint16) * 257)
    kinds = {
        "cmyk.jpg": square.convert("CMYK"),
        "gray.jpg": square.convert("L"),
        "gray16.png": gray16,
        "palette.png": square.quantize(256),
        "rgba.png": square.convert("RGBA"),
        "tiff.tif": square,
        "webp.webp": square,
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    expected = np.asarray(square.resize((224, 224), Image.Resampling.LANCZOS), dtype=float)
    for name, picture in kinds.items():
        assert crop_picture(tmp_path / name, tmp_path / "crop.png", size=224, format="png") is None
        crop = Image.open(tmp_path / "crop.png")
        wanted = np.asarray(picture.convert("RGB") if name != "gray16.png" else square.convert("L").convert("RGB"))
        wanted = expected if wanted.ndim == 3 and "gray" not in name else wanted
        if wanted is not expected:
            wanted = np.asarray(Image.fromarray(wanted).resize((224, 224), Image.Resampling.LANCZOS), dtype=float)
        assert crop.mode == "RGB" and crop.size == (224, 224)
        assert np.abs(np.asarray(crop, dtype=float) - wanted).mean() < 12, name


def test_small_pictures_are_enlarged_and_upright(tmp_path):
    picture = Image.new("RGB", (60, 40))
    picture.paste((255, 0, 0), (10, 0, 30, 40))  # left half of the center square
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes top
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert crop_picture(tmp_path / "a.jpg", tmp_path / "crop.jpg", size=224, format="jpg") is None
    crop = Image.open(tmp_path / "crop.jpg")
    assert crop.size == (224, 224)
    assert crop.getpixel((112, 30))[0] > 240 and crop.getpixel((112, 200))[0] < 15


def test_reduced_decoding_is_as_good(tmp_path):
    scene(1, 640, 480).save(tmp_path / "a.jpg", quality=92)
    crop_picture(tmp_path / "a.jpg", tmp_path / "crop.png", size=224, format="png")
    whole = Image.open(tmp_path / "a.jpg").convert("RGB")
    plain = whole.resize((224, 224), Image.Resampling.LANCZOS, box=(80, 0, 560, 480))
    difference = np.asarray(plain, dtype=float) - np.asarray(Image.open(tmp_path / "crop.png"), dtype=float)
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38
    assert load_picture(tmp_path / "a.jpg", at_least=224).size == (320, 240)
    assert load_picture(tmp_path / "a.jpg", at_least=241).size == (640, 480)


def test_full_disk_is_not_a_broken_picture(coco_pictures, tmp_path, monkeypatch, capsys):
    def full(self, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert run("--images", coco_pictures, "--out_dir", tmp_path / "o") == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "o" / "skipped.txt").exists()


def test_the_recipes_command(coco_pictures, tmp_path, coco_crops):
    shutil.copytree(coco_pictures, tmp_path / "train2017")
    words = ["-m", "scripts.coco_prepare", "--coco_dir", tmp_path, "--out_dir", tmp_path / "out", "--val_ratio", "0.2"]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == coco_crops


def test_needs_no_torch():
    code = "import sys, codecswap.data.prepare.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert prepare.TRAINING_SIZE == 224


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "train", "images/train"])
def test_coco_that_is_there_is_not_downloaded(place, coco_pictures, tmp_path, coco_crops):
    shutil.copytree(coco_pictures, tmp_path / "coco" / place)
    (tmp_path / "coco" / "annotations").mkdir()
    options = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out", "--url", "http://127.0.0.1:9/none.zip")
    assert run(*options) == 0
    assert tree(tmp_path / "out") == coco_crops


@pytest.mark.parametrize("place", ["coco", ".", "coco/images", "coco/zips"])
def test_a_zip_that_is_there_is_not_downloaded(place, tmp_path, coco_zip, coco_crops):
    (tmp_path / "coco").mkdir()
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "train2017.zip").write_bytes(coco_zip)
    options = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out", "--url", "http://127.0.0.1:9/none.zip")
    assert run(*options) == 0
    assert tree(tmp_path / "out") == coco_crops and (tmp_path / place / "train2017.zip").exists()


def sources(root, pictures):
    """The same pictures as a folder of tar shards, a list, an address and one compressed tar."""
    (root / "tars").mkdir()
    for number in range(2):
        with tarfile.open(root / "tars" / f"{number}.tar", "w") as tar:
            for path in pictures[number::2]:
                tar.add(path, path.name)
                tar.addfile(tarfile.TarInfo(f"{path.stem}.cls"))
    with tarfile.open(root / "all.tar.gz", "w:gz") as tar:
        for path in pictures:
            tar.add(path, f"deep/{path.name}")
    (root / "list.csv").write_text("label,path\n" + "".join(f"0,{path}\n" for path in pictures))
    return [str(root / "tars"), str(root / "all.tar.gz"), str(root / "list.csv"), f"file://{pictures[0].parent}"]


@pytest.mark.parametrize(("kind", "workers"), [(0, 1), (0, 2), (1, 2), (2, 1), (3, 1)])
def test_every_source_that_encode_takes_gives_the_crops_of_its_folder(tmp_path, kind, workers):
    if kind == 3:
        pytest.importorskip("fsspec")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        scene(number, 64, 48).save(pictures / f"p{number}.jpg")
    (pictures / "p3.jpg").write_bytes(b"\xff\xd8\xff")
    assert run("--images", pictures, "--out_dir", tmp_path / "a", "--size", 32) == 0
    source = sources(tmp_path, sorted(pictures.iterdir()))[kind]
    assert run("--images", source, "--out_dir", tmp_path / "b", "--size", 32, workers=workers) == 0
    plain, other = tree(tmp_path / "a"), tree(tmp_path / "b")
    crops = {name: data for name, data in plain.items() if name.endswith("jpg")}
    assert len(crops) == 11 and crops == {name: data for name, data in other.items() if name.endswith("jpg")}
    assert other["skipped.txt"].decode().count("p3.jpg") == 1
    assert run("--images", source, "--out_dir", tmp_path / "b", "--size", 32) == 0
    assert tree(tmp_path / "b") == other


def test_of_a_damaged_tar_the_readable_part_is_taken(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(12):
        scene(number, 64, 48).save(pictures / f"p{number:02}.png")
    sources(tmp_path, sorted(pictures.iterdir()))
    whole = (tmp_path / "tars" / "1.tar").read_bytes()
    with tarfile.open(tmp_path / "tars" / "1.tar") as tar:
        last = tar.getmembers()[-2]
    (tmp_path / "tars" / "1.tar").write_bytes(whole[: last.offset_data + 10])
    assert run("--images", tmp_path / "tars", "--out_dir", tmp_path / "out", "--size", 32) == 0
    assert "damaged tar" in capsys.readouterr().err + (tmp_path / "out" / "skipped.txt").read_text()
    assert len(scan(tmp_path / "out")) == 11
