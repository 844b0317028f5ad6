"""Pictures, a zip of them on a server, and what `codecswap prepare` makes of them when nothing disturbs it."""

import shutil
import zipfile

import pytest
from download_server import serve
from prepare_steps import run, scene, tree

from codecswap.data.discovery import scan
from codecswap.data.prepare import download


@pytest.fixture(scope="session")
def coco_pictures(tmp_path_factory):
    """Forty pictures as COCO has them, and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        scene(index).save(folder / f"{index:012}.jpg", quality=80)
    whole = (folder / f"{7:012}.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def coco_zip(coco_pictures):
    path = coco_pictures.parent / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for picture in scan(coco_pictures):
            file.write(picture, f"train2017/{picture.name}")
    return path.read_bytes()


@pytest.fixture
def coco_server(coco_zip, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    with serve({"train2017.zip": coco_zip, "bad.zip": coco_zip[:-400] + bytes(400)}) as coco_server:
        yield coco_server


@pytest.fixture(scope="session")
def coco_crops(coco_pictures, tmp_path_factory):
    """What an undisturbed run makes of COCO's pictures."""
    coco = tmp_path_factory.mktemp("coco")
    shutil.copytree(coco_pictures, coco / "train2017")
    assert run("--coco_dir", coco, "--out_dir", coco / "out") == 0
    return tree(coco / "out")
