"""Where a run is: the one object that its loop and its callbacks share, and that a checkpoint stores."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric


@dataclass
class TrainingState:
    """A run's place and what it has counted; in a training over several processes each has its own."""

    epoch: int = -1
    """The last finished epoch, counted from 0; -1 before the first."""
    batch: int = 0
    """Batches done since."""
    seconds: float = 0.0
    """How long the epoch under way has taken, pauses left out."""
    skipped: int = 0
    """Steps of this epoch without a finite loss and gradient."""
    skipped_in_a_row: int = 0
    """Those directly before now."""
    judged: float = -math.inf
    """MS-SSIM against the stage's target, of the last validation."""
    best: float = -math.inf
    """The highest so far."""
    learning_rate: float = 0.0
    """Of the last step."""
    saved: str = "none yet"
    """The newest checkpoint, and its place in the run, in words."""
    wandb_id: str | None = None
    """The run's id in W&B."""
    asked_to_stop: int | None = None
    """The signal that asked the run to stop."""
    unreadable: set[Path] = field(default_factory=set)
    """Pictures that could not be read."""
    _means: dict[str, MeanMetric] = field(default_factory=dict)
    _resumed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Means and their weights of the epoch that is resumed, until `resume_means`."""

    @property
    def place(self) -> str:
        """The place in the run, in words."""
        return place(self.epoch + 1, self.batch)

    def add(self, name: str, value: Tensor) -> None:
        """Add values to a mean over the epoch and all processes."""
        if name not in self._means:
            self._means[name] = MeanMetric(nan_strategy="disable").to(value.device)
        self._means[name].update(value.float())

    def take_means(self) -> dict[str, float]:
        """The means since the last call; every process must call it."""
        means = {}
        for name, metric in self._means.items():
            if metric.update_called:
                means[name] = metric.compute().item()
                metric.reset()
        return means

    def to_checkpoint(self) -> dict[str, Any]:
        """What a checkpoint stores, summed over all processes; every process must call it."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "wandb_id": self.wandb_id,
            "progress": {"means": self._sums(), "seconds": self.seconds, "skipped": self.skipped}
            if self.batch
            else None,
        }

    def from_checkpoint(self, content: dict[str, Any]) -> None:
        """Take back what `to_checkpoint` stored."""
        self.epoch, self.batch, self.best = content["epoch"], content["batch"], content["best"]
        if progress := content["progress"]:
            self.seconds, self.skipped, self._resumed = progress["seconds"], progress["skipped"], progress["means"]

    def resume_means(self, device: torch.device) -> None:
        """Go on with the stored means, after a validation has taken its own; for one process only, they are sums over all."""
        for name, (value, weight) in self._resumed.items():
            self.add(name, torch.zeros((), device=device))
            metric = self._means[name]
            metric.mean_value, metric.weight = (torch.tensor(number, device=device) for number in (value, weight))

    def _sums(self) -> dict[str, tuple[float, float]]:
        sums = {}
        for name, metric in self._means.items():
            if metric.update_called:
                with metric.sync_context():
                    sums[name] = (metric.mean_value.item(), metric.weight.item())  # type: ignore[union-attr, operator]
        return sums


def place(epochs: int, batches: int) -> str:
    """A place in a run, in words."""
    words = f"{epochs} epoch" + ("" if epochs == 1 else "s")
    return f"{words} and {batches} steps" if batches else words
