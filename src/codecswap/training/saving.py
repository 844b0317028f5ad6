"""Checkpoints while a run is under way: when they are written, what is in them, and how a run stops without losing any."""

import io
import random
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.errors import Interrupted, RunFailure
from codecswap.files import atomic_write
from codecswap.stages.stage import Stage
from codecswap.students.checkpoint import student_content
from codecswap.students.record import StudentRecord
from codecswap.training.resume import AUTO
from codecswap.training.state import TrainingState

IN_A_ROW = 20
"""Steps without a finite loss and gradient, one after the other, that end a run."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LocalFiles(TorchCheckpointIO):
    """Checkpoints as files by any name: Lightning's own way takes ``a::b`` and ``file:x`` for addresses."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; a full disk is an OSError."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint, without running anything in it."""
        return torch.load(Path(path), map_location=map_location, weights_only=True)


class Checkpoints(L.Callback):
    """``last`` at the end of every epoch and within it, ``best`` by MS-SSIM against the stage's target, the start included.

    Args:
        folder: the run's folder.
        stage: names of the files.
        record: how to rebuild the student.
        options: the run's options.
        facts: what else every checkpoint of the run holds, e.g. the identity of its pictures.
        state: the run's; a checkpoint stores it.
    """

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        record: StudentRecord,
        options: TrainingOptions,
        facts: Mapping[str, Any],
        state: TrainingState,
    ) -> None:
        self.folder, self.stage, self.record, self.options, self.facts = folder, stage, record, options, facts
        self.state = state
        self.probe: Tensor | None = None
        """A picture on which weights are tried before they replace those of before."""
        self.clock = time.monotonic()
        self.handlers: dict[int, Any] = {}
        """The signals' own handlers, while the run has its own."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file a student's checkpoint."""
        student = pl_module.pair.student
        if pl_module.pair.unfreeze_all:
            student.update(force=True)
        checkpoint |= {
            **student_content(student, self.record),
            "state_dict": {},
            "stage": self.stage.name,
            "rate_weight": pl_module.rate_weight.item(),
            "directions": {name: values.cpu() for name, values in (pl_module.directions or {}).items()},
            **self.facts,
            **self.state.to_checkpoint(),
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
        self.state.from_checkpoint(checkpoint)
        self.state.saved = f"{trainer.ckpt_path}, after {self.state.place}"
        pl_module.rate_weight.fill_(checkpoint["rate_weight"])
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
        self.state.saved = f"{self.folder / name}, after {self.state.place}"
        self.clock = time.monotonic()

    def keep(self, trainer: L.Trainer, epoch: int, value: float) -> None:
        """Write ``best`` where ``value`` (MS-SSIM against the stage's target) is the best so far, and then ``last``.

        In this order: a run that is killed in between goes on from ``best``, and nothing is missing.
        """
        self.state.epoch, self.state.batch = epoch, 0
        if value > self.state.best:
            self.state.best = value
            self.save(trainer, self.stage.best)
        if epoch >= 0:
            module: Any = trainer.lightning_module
            if not _any(trainer, self.probe is not None and not module.decodes(self.probe)):
                self.save(trainer, self.stage.last)
            if _any(trainer, self.state.asked_to_stop is not None):
                self.stop()

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The start may be the best; that of a resumed run is not judged again."""
        if not trainer.ckpt_path:
            self.keep(trainer, self.state.epoch, self.state.judged)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """An epoch is done, its validation too."""
        self.keep(trainer, trainer.current_epoch, self.state.judged)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """From here on Ctrl-C and SIGTERM let the step finish.

        Where ``--resume auto`` found ``best`` further on than ``last``, a run was killed between the two: ``last`` is written
        now, since there may be no step left that would.
        """
        best = self.folder / self.stage.best
        if (
            trainer.is_global_zero
            and getattr(self.options, self.stage.resume) == AUTO
            and Path(str(trainer.ckpt_path)) == best
        ):
            with atomic_write(self.folder / self.stage.last, sync=True) as beside:
                shutil.copyfile(best, beside)
        if threading.current_thread() is threading.main_thread():
            self.handlers = {signum: signal.signal(signum, self._ask) for signum in SIGNALS}

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Give the signals back."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        self.handlers = {}

    def _ask(self, signum: int, frame: Any) -> None:
        if self.state.asked_to_stop is not None:  # asked twice: now
            raise KeyboardInterrupt
        self.state.asked_to_stop = signum

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Before the first step there is nothing to finish."""
        if trainer.sanity_checking and self.state.asked_to_stop is not None and trainer.world_size == 1:
            raise Interrupted("stopped before the first step.", self.state.asked_to_stop)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save within the epoch where it is time to, stop where a signal or divergence says so."""
        self.state.batch, self.probe = batch_idx + 1, batch.images[:1]
        if self.state.skipped_in_a_row >= IN_A_ROW:
            raise RunFailure(
                f"The run has diverged: {IN_A_ROW} steps in a row without a finite loss and gradient. The last good "
                f"checkpoint is {self.state.saved}; go on from it with --{self.stage.resume} auto and a lower --lr, and look "
                "at the pictures."
            )
        if self.state.batch == trainer.num_training_batches:  # validation follows, and then the epoch's own checkpoint
            return
        asked = _any(trainer, self.state.asked_to_stop is not None)
        every = self.options.save_every_steps
        due = bool(every) and trainer.global_step % every == 0
        minutes = self.options.save_every_minutes
        due = due or _any(trainer, 0 < minutes * 60 <= time.monotonic() - self.clock)
        # weights that a step has just ruined show in the next one only: better to look, and to leave the file of before
        if (asked or due) and not _any(trainer, not pl_module.decodes(self.probe)):
            self.save(trainer, self.stage.last)
        if asked:
            self.stop()

    def stop(self) -> None:
        """End the run, as a signal has asked.

        Raises:
            Interrupted: with how to go on.
        """
        signum = self.state.asked_to_stop or signal.SIGTERM  # it may have reached another process only
        raise Interrupted(
            f"stopped by {signal.Signals(signum).name}. The newest checkpoint is {self.state.saved}: the same command with "
            f"--{self.stage.resume} auto goes on from there.",
            signum,
        )


def _any(trainer: L.Trainer, flag: bool) -> bool:
    """Whether the flag is up in any process: all must save, or stop, at the same step."""
    return flag if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(flag, all=False)
