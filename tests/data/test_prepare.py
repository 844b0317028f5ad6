import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from download_server import serve
from PIL import Image

from codecswap import cli
from codecswap.data import download, fetch, prepare
from codecswap.data.coco import find_pictures
from codecswap.data.crops import crop_picture
from codecswap.data.pictures import load_picture, scan
from codecswap.data.split import position

ROOT = Path(__file__).parents[2]


def scene(seed, width=320, height=240):
    """Something like a photograph: smooth shapes with some fine detail."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Forty pictures as COCO has them, and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        scene(index).save(folder / f"{index:012}.jpg", quality=80)
    whole = (folder / f"{7:012}.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def archive(pictures):
    path = pictures.parent / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for picture in scan(pictures):
            file.write(picture, f"train2017/{picture.name}")
    return path.read_bytes()


@pytest.fixture
def server(archive, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    with serve({"train2017.zip": archive, "bad.zip": archive[:-400] + bytes(400)}) as server:
        yield server


def run(*arguments, workers=1):
    return cli.main(["prepare", *map(str, arguments), "--val_ratio", "0.2", "--workers", str(workers)])


def tree(folder):
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def crops(pictures, tmp_path_factory):
    """What an undisturbed run makes of COCO's pictures."""
    coco = tmp_path_factory.mktemp("coco")
    shutil.copytree(pictures, coco / "train2017")
    assert run("--coco_dir", coco, "--out_dir", coco / "out") == 0
    return tree(coco / "out")


def test_from_nothing_to_crops(server, tmp_path, pictures, crops, capsys):
    server.cuts.extend([50_000, 0, 100_000])
    coco, out = tmp_path / "coco", tmp_path / "out"
    assert run("--coco_dir", coco, "--out_dir", out, "--url", server.url("train2017.zip"), workers=2) == 0
    assert tree(coco) == {f"train2017/{name}": data for name, data in tree(pictures).items()}
    assert tree(out) == crops
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"Next: codecswap distill --coco_dir {out} --use_prepared true"
    for step in ("Downloading", "Unpacking", "Cropping"):
        assert step in printed.out


def test_layout_is_what_training_looks_for(pictures, crops, tmp_path):
    for name, data in crops.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    prepared = find_pictures(tmp_path, use_prepared=True)
    raw = find_pictures(pictures, val_ratio=0.2)
    readable = [[path.stem for path in side if path.stem != "broken"] for side in (raw.train, raw.val)]
    assert [[path.stem for path in side] for side in (prepared.train, prepared.val)] == readable
    assert all(int(path.parent.name, 16) == int(position(path) * 256) for path in prepared.train + prepared.val)
    assert crops["skipped.txt"].decode().startswith("broken.jpg: image file is truncated")
    manifest = json.loads(crops["manifest.json"])
    counts = manifest["counts"]
    assert counts["skipped"] == 1 and counts["train"] + counts["val"] == 40 and counts["val"] == len(readable[1])
    assert manifest["settings"]["val_ratio"] == 0.2


def test_second_run_does_nothing_and_needs_no_network(server, tmp_path):
    arguments = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out", "--url", server.url("train2017.zip"))
    assert run(*arguments) == 0
    before, asked = {path: path.stat().st_mtime_ns for path in scan(tmp_path)}, len(server.requests)
    victim = scan(tmp_path / "out" / "train")[0]
    content = victim.read_bytes()
    victim.unlink()
    assert run(*arguments) == 0
    assert victim.read_bytes() == content and len(server.requests) == asked
    assert {path: time for path, time in before.items() if path != victim} == {
        path: path.stat().st_mtime_ns for path in scan(tmp_path) if path != victim
    }


@pytest.mark.parametrize("count", [1, 8, 25])
def test_max_images_fetches_what_training_would_take(server, tmp_path, pictures, archive, count):
    arguments = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out", "--url", server.url("train2017.zip"))
    server.cuts.extend([100_000, 100, 0])
    assert run(*arguments, "--max_images", count) == 0
    wanted = find_pictures(pictures, val_ratio=0.2, max_images=count)
    names = {path.name for path in wanted.train + wanted.val}
    assert {path.name for path in scan(tmp_path / "coco" / "train2017.part")} == names
    prepared = find_pictures(tmp_path / "out")
    assert [path.name for path in prepared.train] == [path.name for path in wanted.train if path.stem != "broken"]
    assert [path.name for path in prepared.val] == [path.name for path in wanted.val if path.stem != "broken"]
    assert server.sent < len(archive) * (len(names) / 41) + 100_000
    asked = len(server.requests)
    assert run(*arguments, "--max_images", count) == 0 and len(server.requests) == asked


def test_more_pictures_later_and_all_in_the_end(server, tmp_path, crops, capsys):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", server.url("train2017.zip"))
    assert run(*arguments, "--max_images", 5) == 0
    assert run(*arguments, "--max_images", 12) == 0
    assert json.loads((out / "manifest.json").read_text())["counts"]["train"] >= 11  # one may be the broken one
    assert run(*arguments, "--max_images", 6) == 2
    assert "12 training pictures, more than --max_images 6" in capsys.readouterr().err
    assert run(*arguments) == 0
    assert tree(out) == crops and [path.name for path in coco.iterdir()] == ["train2017"]


def test_parts_need_a_server_that_sends_them(server, tmp_path, capsys):
    server.ranges = False
    arguments = ("--coco_dir", tmp_path / "c", "--url", server.url("train2017.zip"), "--max_images", 4)
    assert run(*arguments, "--out_dir", tmp_path / "out") == 2
    assert "--download_only first" in capsys.readouterr().err
    assert run(*arguments[:-2], "--download_only") == 0
    assert tree(tmp_path / "c").keys() == {"train2017.zip"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("Next: codecswap prepare --coco_dir")
    server.errors.extend([404] * 9)
    assert run(*arguments, "--out_dir", tmp_path / "out") == 0
    assert len(find_pictures(tmp_path / "out").train) == 4


def test_keep_zip_and_zip_of_ones_own(server, tmp_path, archive, crops):
    url = server.url("train2017.zip")
    for name in ("kept", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "own" / "train2017.zip").write_bytes(archive)
    for name, keep in (("kept", "--keep_zip"), ("own", "--keep_zip=false")):
        assert run("--coco_dir", tmp_path / name, "--out_dir", tmp_path / f"{name}_out", "--url", url, keep) == 0
        assert (tmp_path / name / "train2017.zip").read_bytes() == archive
        assert tree(tmp_path / f"{name}_out") == crops
    assert not any(name != "train2017.zip" for name, _ in server.requests)


def test_official_address_is_checked(server, tmp_path, monkeypatch, capsys, archive):
    official = download.Archive(server.url("train2017.zip"), len(archive) + 1, "0" * 32)
    monkeypatch.setattr(fetch, "COCO", official)
    arguments = ("--coco_dir", tmp_path / "coco", "--out_dir", tmp_path / "out")
    assert run(*arguments) == 2
    assert "bytes where the file has" in capsys.readouterr().err
    monkeypatch.setattr(fetch, "COCO", download.Archive(official.url, len(archive), official.md5))
    assert run(*arguments) == 2
    assert "arrived damaged" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_corrupt_zip(server, tmp_path, capsys):
    assert run("--coco_dir", tmp_path / "c", "--out_dir", tmp_path / "o", "--url", server.url("bad.zip")) == 2
    error = capsys.readouterr().err
    assert "damaged, or no zip" in error and "Traceback" not in error
    assert not (tmp_path / "o" / "train").exists()


def test_space_is_checked_before_the_first_byte(server, tmp_path, monkeypatch, capsys, archive):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, len(archive)))
    assert run("--coco_dir", tmp_path / "c", "--out_dir", tmp_path / "o", "--url", server.url("train2017.zip")) == 2
    assert "free and" in capsys.readouterr().err
    assert server.sent == 1 and tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--coco_dir", "c", "--images", "p", "--out_dir", "o"], "not both"),
        (["--out_dir", "o"], "--coco_dir"),
        (["--coco_dir", "c"], "--out_dir"),
        (["--images", "absent", "--out_dir", "o"], "no folder absent"),
        (["--images", "p", "--out_dir", "p/o"], "outside of it"),
        (["--images", "p", "--out_dir", "o", "--download_only"], "is for COCO"),
        (["--images", "p", "--out_dir", "o", "--max_images", "0"], "at least 1"),
        (["--images", "p", "--out_dir", "o", "--size", "0"], "at least 1"),
        (["--images", "empty", "--out_dir", "o"], "no pictures in empty"),
        (["--images", "p", "--out_dir", "other"], "did not make"),
        (["--images", "p", "--out_dir", "damaged"], "is damaged"),
        (["--images", "one", "--out_dir", "o"], "falls on the validation side"),
        (["--images", "text", "--out_dir", "o"], "can be read"),
        (["--coco_dir", "p", "--out_dir", "o"], "--images p"),
    ],
)
def test_one_sentence(arguments, sentence, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("p", "one", "empty", "other/train/00", "damaged", "text"):
        Path(name).mkdir(parents=True)
    for path in scan(pictures)[:12]:
        shutil.copy(path, "p")
        Path("text", path.name).write_text("no picture")
    shutil.copy(scan(pictures)[0], "one")
    shutil.copy(scan(pictures)[0], "other/train/00")
    Path("damaged/manifest.json").write_text("{}")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--size", 64), ("--format", "png"), ("--val_ratio", 0.3), ("--images", "other")]
)
def test_other_settings_are_refused(option, value, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "p")
    shutil.copytree(pictures, "other")
    options = {"--images": "p", "--out_dir": "o", "--val_ratio": 0.2, "--size": 32, "--workers": 1}
    assert cli.main(["prepare", *flat(options)]) == 0
    assert "Training takes crops of 224x224" in capsys.readouterr().out.splitlines()[-1]
    before = tree("o")
    assert cli.main(["prepare", *flat(options | {option: value})]) == 2
    assert f"{option.strip('-').replace('images', 'source')} " in capsys.readouterr().err
    assert tree("o") == before


def flat(options):
    return [str(word) for pair in options.items() for word in pair]


def test_png_is_lossless(pictures, tmp_path):
    assert run("--images", pictures, "--out_dir", tmp_path, "--format", "png", "--size", 240) == 0
    crop = next(path for path in scan(tmp_path) if path.name == f"{5:012}.png")
    original = np.asarray(load_picture(pictures / f"{5:012}.jpg"))
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
    grey16 = Image.fromarray(np.asarray(square.convert("L")).astype(np.uint16) * 257)
    kinds = {
        "cmyk.jpg": square.convert("CMYK"),
        "grey.jpg": square.convert("L"),
        "grey16.png": grey16,
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
        wanted = np.asarray(picture.convert("RGB") if name != "grey16.png" else square.convert("L").convert("RGB"))
        wanted = expected if wanted.ndim == 3 and "grey" not in name else wanted
        if wanted is not expected:
            wanted = np.asarray(Image.fromarray(wanted).resize((224, 224), Image.Resampling.LANCZOS), dtype=float)
        assert crop.mode == "RGB" and crop.size == (224, 224)
        assert np.abs(np.asarray(crop, dtype=float) - wanted).mean() < 12, name


def test_small_pictures_are_enlarged_and_upright(tmp_path):
    picture = Image.new("RGB", (60, 40))
    picture.paste((255, 0, 0), (10, 0, 30, 40))  # left half of the centre square
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


def start(*arguments, before=""):
    """The command in a process of its own; ``before`` runs in it first."""
    code = f"import sys\nfrom codecswap import cli\n{before}\nsys.exit(cli.main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "prepare", *map(str, arguments), "--val_ratio", "0.2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


DIE = """
import os, signal
from codecswap.data import {module} as module
count = {after}
def last_words(*arguments, _real=module.{name}, **keywords):
    global count
    count -= 1
    if count < 0:
        {half}
        os.kill(os.getpid(), signal.SIGKILL)
    return _real(*arguments, **keywords)
module.{name} = last_words
"""


@pytest.mark.parametrize(
    ("step", "module", "name", "after", "half"),
    [
        ("unpacking", "unpack", "shutil.copyfileobj", 15, "arguments[1].write(b'half'); arguments[1].flush()"),
        ("before the folder gets its name", "fetch", "Path.rename", 0, "pass"),
        ("before the first crop", "prepared", "crop_all", 0, "pass"),
        ("cropping", "crops", "Image.Image.save", 20, "open(arguments[1], 'wb').write(b'half')"),
        ("before the last manifest", "prepared", "_write", 1, "pass"),
    ],
)
def test_kill_in_any_step(step, module, name, after, half, server, tmp_path, pictures, crops):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", server.url("train2017.zip"), "--workers", 1)
    process = start(*arguments, before=DIE.format(module=module, name=name, after=after, half=half))
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert run(*arguments[:-2]) == 0
    assert tree(out) == crops
    assert tree(coco) == {f"train2017/{name}": data for name, data in tree(pictures).items()}


@pytest.mark.parametrize("most", [[], ["--max_images", "25"]])
def test_kill_while_data_comes(most, server, tmp_path, crops):
    coco, out = tmp_path / "coco", tmp_path / "out"
    arguments = ("--coco_dir", coco, "--out_dir", out, "--url", server.url("train2017.zip"), *most)
    server.block, server.pause = (4096, 0.02) if not most else (1 << 16, 0.05)
    process = start(*arguments)
    expires = time.monotonic() + 20
    while time.monotonic() < expires:
        sizes = [path.stat().st_size for path in coco.rglob("*") if path.is_file()] if coco.exists() else []
        if sum(sizes) > 30_000:
            break
        time.sleep(0.01)
    process.kill()
    process.communicate()
    server.block, server.pause, sent = 1 << 16, 0.0, server.sent
    server.requests.clear()
    assert run(*arguments) == 0
    assert any(first > 0 for _, first in server.requests) and server.sent > sent
    made = tree(out)
    if most:
        shutil.rmtree(out)
        shutil.rmtree(coco)
        assert run(*arguments) == 0
        crops = tree(out)
    assert made == crops


@pytest.fixture(scope="session")
def many(pictures, tmp_path_factory):
    """Enough pictures to be stopped among them, and what becomes of them."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(6):
        for path in scan(pictures):
            os.link(path, folder / f"{copy}_{path.name}")
    out = tmp_path_factory.mktemp("many_crops")
    assert run("--images", folder, "--out_dir", out) == 0
    return folder, tree(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_several_processes_crop(number, tmp_path, many):
    """Ctrl-C leaves whole files and no processes; so does a kill, but for files that begin with a dot."""
    folder, undisturbed = many
    arguments = ("--images", folder, "--out_dir", tmp_path / "o", "--workers", 2)
    process = start(*arguments)
    expires = time.monotonic() + 20
    while len(scan(tmp_path / "o")) < 30 and time.monotonic() < expires:
        time.sleep(0.005)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()  # Ctrl-C reaches all of them
    output, _ = process.communicate(timeout=10)  # returns when the last worker has closed the pipe
    there = scan(tmp_path / "o")
    assert 30 <= len(there) < 240
    for path in there:
        with Image.open(path) as crop:
            crop.load()
    if number == signal.SIGINT:
        assert process.returncode == 130 and "The same command goes on from here" in output
        assert "Traceback" not in output and not list((tmp_path / "o").rglob(".*"))
    assert run(*arguments[:-2], workers=2) == 0
    assert tree(tmp_path / "o") == undisturbed


def test_full_disk_is_not_a_broken_picture(pictures, tmp_path, monkeypatch, capsys):
    def full(self, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert run("--images", pictures, "--out_dir", tmp_path / "o") == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "o" / "skipped.txt").exists()


def test_the_recipes_command(pictures, tmp_path, crops):
    shutil.copytree(pictures, tmp_path / "train2017")
    words = ["-m", "scripts.coco_prepare", "--coco_dir", tmp_path, "--out_dir", tmp_path / "out", "--val_ratio", "0.2"]
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == crops


def test_needs_no_torch():
    code = "import sys, codecswap.data.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert prepare.TRAINING_SIZE == 224
