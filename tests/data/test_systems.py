"""What can be tried of Windows and macOS without them: spawned workers, names in their forms."""

import multiprocessing
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from codecswap.config import DistillOptions
from codecswap.data.datasets import EpochSampler, TrainingPictures, collate
from codecswap.data.discovery import Pictures, base_name, position
from codecswap.data.loaders import PictureLoaders


def test_workers_that_are_spawned_read_the_same_pictures(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (250, 240), (60 * index, 9, 9)).save(tmp_path / f"{index}.png")
    dataset = TrainingPictures(sorted(tmp_path.iterdir()), seed=0, prepared=False)
    batches = []
    for context in (None, multiprocessing.get_context("spawn")):
        loader = DataLoader(
            dataset,
            2,
            sampler=EpochSampler(4, 2, seed=0),
            collate_fn=collate,
            num_workers=2 if context else 0,
            multiprocessing_context=context,
        )
        batches.append(torch.cat([batch.images for batch in loader]))
    assert torch.equal(*batches)


def test_workers_stay_from_epoch_to_epoch(tmp_path: Path) -> None:
    for index in range(4):
        Image.new("RGB", (224, 224), (60 * index, 9, 9)).save(tmp_path / f"{index}.png")
    paths = sorted(tmp_path.iterdir())
    loaders = PictureLoaders(Pictures("prepared", paths, paths), DistillOptions(batch_size=2, num_workers=1))
    before = set(multiprocessing.active_children())
    for loader in (loaders.train(), loaders.val()):
        workers = []
        for _ in range(2):
            assert sum(len(batch.images) for batch in loader) == 4
            workers.append({child.pid for child in set(multiprocessing.active_children()) - before})
        assert workers[0] and workers[0] == workers[1]


@pytest.mark.parametrize("name", ["000000000009.jpg", unicodedata.normalize("NFD", "\u00e9t\u00e9~2.png")])
def test_a_picture_falls_on_the_same_side_with_windows_separators(name: str) -> None:
    path = PureWindowsPath("C:\\pictures\\train2017") / name
    assert base_name(path) == base_name(name)  # type: ignore[arg-type]
    assert position(path) == position(unicodedata.normalize("NFC", name))  # type: ignore[arg-type]
