"""Pictures, a zip of them on a server, and what `codecswap prepare` makes of them when nothing disturbs it."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from download_server import serve
from PIL import Image

from codecswap import cli
from codecswap.data import download
from codecswap.data.pictures import scan


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
