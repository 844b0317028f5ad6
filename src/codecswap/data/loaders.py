"""Data loaders of a training run."""

import signal
from typing import Any

import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, Subset

from codecswap.config import TrainingOptions
from codecswap.data.datasets import EpochSampler, TrainingPictures, ValidationPictures, collate
from codecswap.data.discovery import Pictures
from codecswap.errors import UserError


class PictureLoaders(L.LightningDataModule):
    """Data loaders of a run, for this process's share of the pictures.

    Args:
        start: first epoch, and number of its batches that are done already.
    """

    def __init__(self, pictures: Pictures, options: TrainingOptions, start: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.pictures, self.options, self.start = pictures, options, start

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """Random crops, in the order of `EpochSampler`."""
        rank, world = self._place()
        if self.options.batch_size % world:
            raise UserError(
                f"--batch_size {self.options.batch_size} cannot be divided by {world} processes: choose a multiple."
            )
        dataset = TrainingPictures(self.pictures.train, seed=self.options.seed, prepared=self.pictures.prepared)
        sampler = EpochSampler(
            len(dataset), self.options.batch_size, seed=self.options.seed, rank=rank, world=world, start=self.start
        )
        return self._loader(dataset, self.options.batch_size // world, sampler)

    def val_dataloader(self) -> DataLoader:
        """Center crops, each on one process."""
        rank, world = self._place()
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
