"""Finding, reading, cropping and ordering pictures."""

import os
import shutil
import sys
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from codecswap.data import transforms
from codecswap.data.datasets import EpochSampler, TrainingPictures, ValidationPictures, collate
from codecswap.data.discovery import find_pictures
from codecswap.data.pictures import load_picture, load_reduced
from codecswap.data.transforms import first_readable, training_crop, validation_crop
from codecswap.errors import UserError


def write(path: Path, size: tuple[int, int] = (260, 230), **save: int) -> Path:
    """A picture of random colors in 8x8 blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    small = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    small.resize(size).save(path, **save)
    return path


def coco(root: Path, count: int = 40) -> Path:
    """A raw COCO folder."""
    for index in range(count):
        write(root / "train2017" / f"{index:012d}.jpg", (64, 48))
    return root


def test_layouts(tmp_path: Path) -> None:
    raw = coco(tmp_path / "raw")
    assert find_pictures(raw, val_ratio=0.2).layout == "coco"
    assert find_pictures(raw / "train2017", val_ratio=0.2).layout == "folder"
    names = [path.name for path in find_pictures(raw, val_ratio=0.2).val]
    assert names == sorted(names) and 0 < len(names) < 20
    crops = tmp_path / "crops"
    for index in range(6):
        write(crops / "train" / "00" / f"{index:012d}.png", (224, 224))
    write(crops / "val" / "a.png", (224, 224))
    found = find_pictures(crops, use_prepared=True)
    assert (found.layout, found.prepared, len(found.train), len(found.val)) == ("prepared", True, 6, 1)
    write(tmp_path / "big" / "train" / "a.png")
    write(tmp_path / "big" / "val" / "b.png")
    assert find_pictures(tmp_path / "big").layout == "folder", "train/ with pictures of another size is no crops"


def test_prepared_without_val_is_split_like_raw(tmp_path: Path) -> None:
    raw = coco(tmp_path / "raw")
    for path in (raw / "train2017").iterdir():
        write(tmp_path / "crops" / "train" / path.name[-6] / f"{path.stem}.png", (224, 224))
    sides = [[p.stem for p in find_pictures(root, val_ratio=0.2).val] for root in (raw, tmp_path / "crops")]
    assert sides[0] == sides[1]


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda root: root / "nowhere", {}, "There is no folder"),
        (lambda root: None, {}, "No pictures given"),
        (
            lambda root: (
                write(root / "notes" / "a.png").parent.joinpath("a.png").rename(root / "notes" / "a.txt").parent
            ),
            {},
            "There are no pictures in",
        ),
        (coco, {"use_prepared": True}, "--use_prepared needs 224x224 crops"),
        (coco, {"val_ratio": 1e-9}, "raise --val_ratio"),
        (coco, {"val_ratio": 1 - 1e-9}, "lower --val_ratio"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, make, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_pictures(make(tmp_path), **options)


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 300 * 240).reshape(240, 300)
    kinds = {
        "gray.png": Image.fromarray((ramp / 257).astype(np.uint8)),
        "deep.png": Image.fromarray(ramp.astype(np.uint16)),
        "cmyk.jpg": Image.new("CMYK", (300, 240), (0, 255, 255, 0)),
        "palette.png": Image.new("RGB", (300, 240), (9, 8, 7)).quantize(),
        "alpha.png": Image.new("RGBA", (300, 240), (1, 2, 3, 4)),
        "small.png": Image.new("RGB", (30, 20), (50, 60, 70)),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
        for crop in (training_crop(tmp_path / name, seed=0, epoch=0), validation_crop(tmp_path / name)):
            assert crop.shape == (3, 224, 224) and crop.min() >= 0 and crop.max() <= 1
    deep, gray = (np.asarray(load_picture(tmp_path / name), dtype=int) for name in ("deep.png", "gray.png"))
    assert abs(deep - gray).max() <= 1, "16 bits are scaled, not cut off"
    red = np.asarray(load_picture(tmp_path / "cmyk.jpg"))[0, 0]
    assert red[0] > 200 and red[1] < 60


def test_crops_depend_on_seed_epoch_and_name_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    moved = Path(shutil.copy(path, tmp_path / "other")).rename(tmp_path / "a.copy.png")
    crop = training_crop(path, seed=1, epoch=2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(crop, training_crop(path, seed=1, epoch=2))
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    for other in (
        training_crop(path, seed=2, epoch=2),
        training_crop(path, seed=1, epoch=3),
        training_crop(moved, seed=1, epoch=2),
    ):
        assert not torch.equal(crop, other)


@pytest.mark.parametrize("size", [(1600, 1100), (1101, 1603), (1023, 1500)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_pictures_are_decoded_at_reduced_size_and_give_the_same_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], orientation: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95, exif=exif)
    reduced = load_reduced(tmp_path / "a.jpg", transforms.AT_LEAST)[0]
    assert (max(reduced.size) < 1000) == (min(size) >= 1024)
    for crop in (validation_crop, *(partial(training_crop, seed=seed, epoch=0) for seed in range(4))):
        near = crop(tmp_path / "a.jpg")
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "AT_LEAST", None)
            full = crop(tmp_path / "a.jpg")
        assert (near - full).square().mean() < 1e-4, "40 dB"


def test_prepared_crops_are_used_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", (224, 224))
    exact = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    dataset = TrainingPictures([path], seed=0, prepared=True)
    for epoch in range(4):
        torch.testing.assert_close(dataset[(epoch, 0)].image, exact, rtol=0, atol=1e-7)


def test_unreadable_pictures_are_named_and_skipped(tmp_path: Path) -> None:
    good, broken, text = write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg"), tmp_path / "c.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    text.write_text("no picture")
    dataset = TrainingPictures([broken, text, good], seed=0, prepared=False)
    batch = collate([dataset[(0, 0)], dataset[(0, 2)]])
    assert batch.paths == [good, good] and batch.unreadable == [broken, text]
    batch = collate([ValidationPictures([broken, good])[i] for i in range(2)])
    assert batch.images.shape == (1, 3, 224, 224) and batch.unreadable == [broken]
    assert first_readable([broken, good, text], 5)[1] == [good]


def test_one_order_for_any_number_of_processes() -> None:
    def run(world: int, epoch: int) -> list[list[int]]:
        ranks = []
        for rank in range(world):
            sampler = EpochSampler(50, 8, seed=3, rank=rank, world=world)
            sampler.set_epoch(epoch)
            assert len(list(sampler)) == len(sampler) == 48 // world
            ranks.append([index for _, index in sampler])
        share = 8 // world
        steps = [slice(step * share, (step + 1) * share) for step in range(6)]
        return [[index for rank in ranks for index in rank[step]] for step in steps]

    assert run(1, 0) == run(2, 0) == run(4, 0)
    assert run(1, 0) != run(1, 1)
    assert len({index for batch in run(1, 0) for index in batch}) == 48, "no picture twice in an epoch"


def test_an_order_goes_on_in_the_middle_of_an_epoch() -> None:
    whole = EpochSampler(50, 8, seed=3)
    resumed = EpochSampler(50, 8, seed=3, start=(2, 4))
    whole.set_epoch(2)
    assert list(resumed) == list(whole)[32:], "before anybody calls set_epoch: a loader with workers asks at once"
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole) and len(resumed) == 48


def test_a_data_set_is_known_by_names_sizes_and_sides(tmp_path: Path) -> None:
    for side in ("train", "val"):
        for name in "abc":
            write(tmp_path / "one" / side / f"{name}.jpg")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = tmp_path / "one", tmp_path / "two"
    first = find_pictures(one).identity(one)
    assert (first["train"], first["val"]) == (3, 3)
    assert find_pictures(two).identity(two)["sha256"] == first["sha256"], "wherever it lies"
    with (two / "val" / "a.jpg").open("ab") as file:
        file.write(b" ")
    assert find_pictures(two).identity(two)["sha256"] != first["sha256"]


@pytest.mark.skipif(sys.platform == "win32", reason="names are not bytes there")
def test_a_name_of_any_bytes_is_as_good_as_another(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    try:
        write(path, (300, 260))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert training_crop(path, seed=0, epoch=1).shape == (3, 224, 224)


def test_a_crop_does_not_depend_on_how_the_file_system_stores_accents(tmp_path: Path) -> None:
    source, crops = write(tmp_path / "a.png", (300, 260)), []
    for form in ("NFC", "NFD"):
        path = tmp_path / form / unicodedata.normalize(form, "\u00e9.png")
        path.parent.mkdir()
        shutil.copy(source, path)
        crops.append(training_crop(path, seed=0, epoch=1))
    assert torch.equal(*crops)
