"""State of a run, shared by its loop and callbacks, and stored in checkpoints."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass
class TrainingState:
    """Progress and counters of a run; each process has its own.

    What steps count stays on the device until it is read.
    """

    epoch: int = -1
    """The last finished epoch, counted from 0; -1 before the first."""
    batch: int = 0
    """Finished batches of the current epoch."""
    seconds: float = 0.0
    """Duration of the current epoch so far, without pauses."""
    skipped: int = 0
    """Steps of this epoch without a finite loss and gradient."""
    skipped_in_a_row: int = 0
    """Most consecutive skipped steps between the two last readings of the device, and up to the last one."""
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
    _sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum and weight of each mean, ``(2,)``."""
    _skips: Tensor | None = None
    """Skipped steps since the last reading, consecutive ones up to now, and the most consecutive ones since then."""
    _last: Tensor | None = None
    """Loss and PSNR of the last step."""
    _resumed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Means and their weights of a resumed epoch, until `resume_means`."""

    @property
    def place(self) -> str:
        """Position in the run, as text."""
        return place(self.epoch + 1, self.batch)

    def add(self, name: str, value: Tensor, where: Tensor | None = None) -> None:
        """Add values to a mean over the epoch and all processes, on their device.

        Args:
            value: of any shape.
            where: a boolean scalar; values do not count where it is false.
        """
        value = value.detach().float()
        counted = torch.ones_like(value) if where is None else where.float().expand_as(value)
        value = value if where is None else torch.where(where, value, 0)
        if name not in self._sums:
            self._sums[name] = torch.zeros(2, device=value.device)
        self._sums[name] += torch.stack([value.sum(), counted.sum()])

    def count(self, skipped: Tensor) -> None:
        """Count a step that was ``skipped``, a boolean scalar, on its device."""
        if self._skips is None:
            self._skips = torch.zeros(3, device=skipped.device)
        total, row, longest = self._skips.unbind()
        total += skipped
        row.add_(1).mul_(skipped)
        longest.copy_(torch.maximum(longest, row))

    def remember(self, loss: Tensor, psnr: Tensor) -> None:
        """Keep loss and PSNR (dB) of the last step, on their device."""
        if self._last is None:
            self._last = torch.zeros(2, device=loss.device)
        self._last.copy_(torch.stack([loss.detach().float(), psnr.detach().float()]))

    def read(self) -> tuple[float, float]:
        """Wait for the device and read what it counted; returns loss and PSNR (dB) of the last step."""
        if self._skips is not None:
            total, _, longest = self._skips.tolist()
            self.skipped, self.skipped_in_a_row = self.skipped + int(total), int(longest)
            self._skips[0] = 0
            self._skips[2] = self._skips[1]
        loss, psnr = (math.nan, math.nan) if self._last is None else self._last.tolist()
        return loss, psnr

    def take_means(self) -> dict[str, float]:
        """Return and reset the means; all processes must call it."""
        means = {name: value / weight for name, (value, weight) in self._totals().items()}
        for sums in self._sums.values():  # in place: a captured step adds to these
            sums.zero_()
        return means

    def to_checkpoint(self) -> dict[str, Any]:
        """State for a checkpoint, summed over all processes; all processes must call it."""
        self.read()
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "wandb_id": self.wandb_id,
            "progress": {"means": self._totals(), "seconds": self.seconds, "skipped": self.skipped}
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
        for name, sums in self._resumed.items():
            self._sums.setdefault(name, torch.zeros(2, device=device)).copy_(torch.tensor(sums))

    def _totals(self) -> dict[str, tuple[float, float]]:
        """Sum and weight of each mean over all processes; waits for the device."""
        mine = dict(zip(self._sums, torch.stack([*self._sums.values()]).tolist(), strict=True)) if self._sums else {}
        every: list[Any] = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            every = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(every, mine)
        totals = dict[str, tuple[float, float]]()
        for name in dict.fromkeys(name for sums in every for name in sums):
            found = [sums[name] for sums in every if name in sums]
            value, weight = (sum(numbers) for numbers in zip(*found, strict=True))
            if weight:
                totals[name] = value, weight
        return totals


def place(epochs: int, batches: int) -> str:
    """Position in a run, as text."""
    words = f"{epochs} epoch" + ("" if epochs == 1 else "s")
    return f"{words} and {batches} steps" if batches else words
