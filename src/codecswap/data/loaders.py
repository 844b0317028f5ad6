"""Data loaders of a training run."""

import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from codecswap.config import TrainingOptions
from codecswap.data.datasets import EpochSampler, TrainingPictures, ValidationPictures, collate
from codecswap.data.discovery import Pictures
from codecswap.errors import UserError


class PictureLoaders:
    """Data loaders of a run, for a process's share of the pictures: process ``rank`` of ``world``.

    Args:
        start: first epoch, and number of its batches that are done already.
    """

    def __init__(self, pictures: Pictures, options: TrainingOptions, start: tuple[int, int] = (0, 0)) -> None:
        self.pictures, self.options, self.start = pictures, options, start

    def train(self, rank: int = 0, world: int = 1) -> DataLoader:
        """Random crops, in the order of `EpochSampler`.

        Raises:
            UserError: the batch cannot be divided by the number of processes.
        """
        if self.options.batch_size % world:
            raise UserError(
                f"--batch_size {self.options.batch_size} cannot be divided by {world} processes: choose a multiple."
            )
        dataset = TrainingPictures(self.pictures.train, seed=self.options.seed, prepared=self.pictures.prepared)
        sampler = EpochSampler(
            len(dataset), self.options.batch_size, seed=self.options.seed, rank=rank, world=world, start=self.start
        )
        return self._loader(dataset, self.options.batch_size // world, sampler)

    def val(self, rank: int = 0, world: int = 1) -> DataLoader:
        """Center crops, each on one process."""
        dataset = ValidationPictures(self.pictures.val)
        return self._loader(Subset(dataset, range(rank, len(dataset), world)), min(16, self.options.batch_size), None)

    def _loader(self, dataset: Any, batch_size: int, sampler: EpochSampler | None) -> DataLoader:
        workers = self.options.num_workers
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals,
        )


def _leave_signals(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM: the main process handles them, and still needs pictures to finish its step."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
