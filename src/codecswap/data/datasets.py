"""Data sets and the sampler: pictures with their paths, in an order that does not depend on the number of processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from codecswap.data.discovery import CROP
from codecswap.data.pictures import UNREADABLE
from codecswap.data.transforms import training_crop, validation_crop
from codecswap.errors import UserError


@dataclass
class Sample:
    """One picture of a data set."""

    image: Tensor | None
    """``(3, 224, 224)`` in [0, 1]; None where it could not be read."""
    path: Path
    unreadable: list[Path]
    """Pictures that could not be read and were skipped for this one."""


@dataclass
class Batch:
    """Pictures ``(B, 3, 224, 224)`` in [0, 1], their paths, and those left out because they could not be read."""

    images: Tensor
    paths: list[Path]
    unreadable: list[Path]

    def pin_memory(self) -> "Batch":
        """Copy the pictures to page-locked memory, for asynchronous copies to a GPU."""
        return Batch(self.images.pin_memory(), self.paths, self.unreadable)


def collate(samples: list[Sample]) -> Batch:
    """Stack the pictures that could be read."""
    unreadable = [path for sample in samples for path in sample.unreadable]
    images = [sample.image for sample in samples if sample.image is not None]
    paths = [sample.path for sample in samples if sample.image is not None]
    return Batch(torch.stack(images) if images else torch.empty(0, 3, CROP, CROP), paths, unreadable)


class TrainingPictures(Dataset):
    """Random crops, indexed by (epoch, index); an unreadable picture is replaced by the next one."""

    def __init__(self, paths: list[Path], *, seed: int, prepared: bool) -> None:
        self.paths, self.seed, self.prepared = paths, seed, prepared

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        unreadable: list[Path] = []
        for step in range(len(self.paths)):
            path = self.paths[(index + step) % len(self.paths)]
            try:
                image = validation_crop(path) if self.prepared else training_crop(path, seed=self.seed, epoch=epoch)
                return Sample(image, path, unreadable)
            except UNREADABLE:
                unreadable.append(path)
        raise UserError("None of the training pictures can be read any more: check their disk.")


class ValidationPictures(Dataset):
    """Pictures in the order of ``paths``, as ``read`` reads them: by default their center crops."""

    def __init__(self, paths: list[Path], read: Callable[[Path], Tensor] = validation_crop) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        try:
            return Sample(self.read(path), path, [])
        except UNREADABLE:
            return Sample(None, path, [path])


class EpochSampler(Sampler[tuple[int, int]]):
    """The order of training pictures, the same for any number of processes.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches of ``batch_size`` over all processes; an
    incomplete last batch is dropped. Every process takes its part of every batch.

    Args:
        length: number of pictures.
        batch_size: pictures in a step, over all processes.
        start: first epoch, and number of its batches that are done already.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this before every epoch."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Steps in an epoch."""
        return self.length // self.batch_size

    def __len__(self) -> int:
        return self.batches * (self.batch_size // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        share = self.batch_size // self.world
        done = self.start[1] if self.epoch == self.start[0] else 0
        for batch in range(done, self.batches):
            start = batch * self.batch_size + self.rank * share
            for index in order[start : start + share]:
                yield self.epoch, index
