"""State of a run, shared by its loop and callbacks, and stored in checkpoints."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric


@dataclass
class TrainingState:
    """Progress and counters of a run; each process has its own."""

    epoch: int = -1
    """The last finished epoch, counted from 0; -1 before the first."""
    batch: int = 0
    """Finished batches of the current epoch."""
    seconds: float = 0.0
    """Duration of the current epoch so far, without pauses."""
    skipped: int = 0
    """Steps of this epoch without a finite loss and gradient."""
    skipped_in_a_row: int = 0
    """Consecutive skipped steps up to now."""
    score: float = -math.inf
    """Score of the last validation: MS-SSIM against the stage's target."""
    best: float = -math.inf
    """Highest score so far."""
    learning_rate: float = 0.0
    """Learning rate of the last step."""
    saved: str = "none yet"
    """The newest checkpoint and its position in the run, as text."""
    wandb_id: str | None = None
    """Id of the run in W&B."""
    stop_signal: int | None = None
    """Signal that requested the run to stop."""
    unreadable: set[Path] = field(default_factory=set)
    """Pictures that could not be read."""
    _means: dict[str, MeanMetric] = field(default_factory=dict)
    _resumed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Means and their weights of a resumed epoch, until `resume_means`."""

    @property
    def place(self) -> str:
        """Position in the run, as text."""
        return place(self.epoch + 1, self.batch)

    def add(self, name: str, value: Tensor) -> None:
        """Add values to a mean over the epoch and all processes."""
        if name not in self._means:
            self._means[name] = MeanMetric(nan_strategy="disable").to(value.device)
        self._means[name].update(value.float())

    def take_means(self) -> dict[str, float]:
        """Return and reset the means; all processes must call it."""
        means = {}
        for name, metric in self._means.items():
            if metric.update_called:
                means[name] = metric.compute().item()
                metric.reset()
        return means

    def to_checkpoint(self) -> dict[str, Any]:
        """State for a checkpoint, summed over all processes; all processes must call it."""
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
        """Restore what `to_checkpoint` returned."""
        self.epoch, self.batch, self.best = content["epoch"], content["batch"], content["best"]
        if progress := content["progress"]:
            self.seconds, self.skipped, self._resumed = progress["seconds"], progress["skipped"], progress["means"]

    def resume_means(self, device: torch.device) -> None:
        """Restore the stored means after the initial validation, in one process only (they are sums over all)."""
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
    """Position in a run, as text."""
    words = f"{epochs} epoch" + ("" if epochs == 1 else "s")
    return f"{words} and {batches} steps" if batches else words
