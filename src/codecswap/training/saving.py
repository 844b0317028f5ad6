"""Checkpoints while a run is under way: when they are written, what is in them, and how a run stops without losing any."""

import math
import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from torch import Tensor

from codecswap.codecs.source import state_digest
from codecswap.config import TrainingOptions
from codecswap.errors import Interrupted, RunFailure
from codecswap.files import atomic_write
from codecswap.training.checkpoint import FORMAT, StudentRecord

if TYPE_CHECKING:
    from codecswap.training.loop import Stage

IN_A_ROW = 20
"""Steps without a finite loss and gradient, one after the other, that end a run."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoints(L.Callback):
    """``last`` at the end of every epoch and within it, ``best`` by MS-SSIM against the stage's target, the start included.

    Args:
        folder: the run's folder.
        stage: names of the files.
        record: how to rebuild the student.
        options: the run's options.
        facts: what else every checkpoint of the run holds, e.g. the identity of its pictures.
        epochs_done: finished epochs before this run, where Lightning does not restore them.
    """

    def __init__(
        self,
        folder: Path,
        stage: "Stage",
        record: StudentRecord,
        options: TrainingOptions,
        facts: Mapping[str, Any],
        epochs_done: int = 0,
    ) -> None:
        self.folder, self.stage, self.record, self.options, self.facts = folder, stage, record, options, facts
        self.best = -math.inf
        self.epoch = epochs_done - 1
        """The last finished epoch; -1 before the first."""
        self.batch = 0
        """Batches done since."""
        self.saved = "none yet"
        """The newest checkpoint, in words."""
        self.probe: Tensor | None = None
        """A picture on which weights are tried before they replace those of before."""
        self.clock = time.monotonic()
        self.asked: int | None = None
        """The signal that asked the run to stop."""
        self.before: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in the checkpoint for this callback."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value back."""
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file a student's checkpoint."""
        student = pl_module.pair.student
        if pl_module.pair.unfreeze_all:
            student.update(force=True)
        state = {name: value.detach().clone() for name, value in student.state_dict().items()}
        checkpoint |= {
            "state_dict": {},
            "student_state": state,
            "student_sha256": state_digest(state),
            "format": FORMAT,
            "stage": self.stage.name,
            "epoch": self.epoch,
            "batch": self.batch,
            "progress": pl_module.epoch_state() if self.batch else None,
            "best": self.best,
            "rate_weight": pl_module.rate_weight.item(),
            "codec": asdict(self.record),
            **self.facts,
            "config": {
                key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.options).items()
            },
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "python": random.getstate(),
            },
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take back what Lightning does not know of."""
        self.epoch, self.batch = checkpoint["epoch"], checkpoint.get("batch", 0)
        pl_module.rate_weight.fill_(checkpoint["rate_weight"])
        pl_module.restore_epoch(self.batch, checkpoint.get("progress"))
        self.saved = f"{trainer.ckpt_path}, after {place(self.epoch + 1, self.batch)}"
        states = checkpoint["random"]
        torch.set_rng_state(states["torch"])
        random.setstate(states["python"])
        if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states["cuda"])

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint beside its place and rename it; every process must call this."""
        if trainer.is_global_zero:
            with atomic_write(self.folder / name, sync=True) as beside:
                trainer.save_checkpoint(beside)
        else:
            trainer.save_checkpoint(self.folder / name)  # takes part in what is gathered, writes nothing
        self.saved = f"{self.folder / name}, after {place(self.epoch + 1, self.batch)}"
        self.clock = time.monotonic()

    def keep(self, trainer: L.Trainer, epoch: int, value: float) -> None:
        """Write ``best`` where ``value`` (MS-SSIM against the stage's target) is the best so far, and then ``last``.

        In this order: a run that is killed in between goes on from ``best``, and nothing is missing.
        """
        self.epoch, self.batch = epoch, 0
        if value > self.best:
            self.best = value
            self.save(trainer, self.stage.best)
        if epoch >= 0:
            module: Any = trainer.lightning_module
            if not self._any(trainer, self.probe is not None and not module.decodes(self.probe)):
                self.save(trainer, self.stage.last)
            if self._any(trainer, self.asked is not None):
                self.stop()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """From here on Ctrl-C and SIGTERM let the step finish."""
        if threading.current_thread() is threading.main_thread():
            self.before = {signum: signal.signal(signum, self._ask) for signum in SIGNALS}

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def _ask(self, signum: int, frame: Any) -> None:
        if self.asked is not None:  # asked twice: now
            raise KeyboardInterrupt
        self.asked = signum

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Before the first step there is nothing to finish."""
        if trainer.sanity_checking and self.asked is not None and trainer.world_size == 1:
            raise Interrupted("stopped before the first step.", self.asked)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save within the epoch where it is time to, stop where a signal or divergence says so."""
        self.batch, self.probe = batch_idx + 1, batch.images[:1]
        if pl_module.skipped_in_a_row >= IN_A_ROW:
            raise RunFailure(
                f"The run has diverged: {IN_A_ROW} steps in a row without a finite loss and gradient. The last good checkpoint "
                f"is {self.saved}; go on from it with --{self.stage.resume} auto and a lower --lr, and look at the pictures."
            )
        if self.batch == trainer.num_training_batches:  # validation follows, and then the epoch's own checkpoint
            return
        asked = self._any(trainer, self.asked is not None)
        every = self.options.save_every_steps
        due = bool(every) and trainer.global_step % every == 0
        minutes = self.options.save_every_minutes
        due = due or self._any(trainer, 0 < minutes * 60 <= time.monotonic() - self.clock)
        # weights that a step has just ruined show in the next one only: better to look, and to leave the file of before
        if (asked or due) and not self._any(trainer, not pl_module.decodes(self.probe)):
            self.save(trainer, self.stage.last)
        if asked:
            self.stop()

    def stop(self) -> None:
        """End the run, as a signal has asked.

        Raises:
            Interrupted: with how to go on.
        """
        signum = self.asked or signal.SIGTERM  # it may have reached another process only
        raise Interrupted(
            f"stopped by {signal.Signals(signum).name}. The newest checkpoint is {self.saved}: the same command with "
            f"--{self.stage.resume} auto goes on from there.",
            signum,
        )

    @staticmethod
    def _any(trainer: L.Trainer, flag: bool) -> bool:
        """Whether the flag is up in any process: all must save, or stop, at the same step."""
        return flag if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(flag, all=False)


def place(epochs: int, batches: int) -> str:
    """A place in a run, in words."""
    words = f"{epochs} epoch" + ("" if epochs == 1 else "s")
    return f"{words} and {batches} steps" if batches else words
