"""Checkpoints of a run: when they are written, what they hold, and how a run stops without losing progress."""

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

import torch
from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.errors import Interrupted, RunFailure
from codecswap.files import atomic_write
from codecswap.stages.stage import Stage
from codecswap.students.checkpoint import student_content
from codecswap.students.record import StudentRecord
from codecswap.training.lightning import L, TorchCheckpointIO
from codecswap.training.resume import AUTO
from codecswap.training.state import TrainingState

IN_A_ROW = 20
"""A run ends after this many consecutive steps without a finite loss and gradient."""
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
    """Writes ``last`` after every epoch and within it, and ``best`` by MS-SSIM against the stage's target.

    Args:
        folder: the run's folder.
        stage: names of the files.
        record: how to rebuild the student.
        options: the run's options.
        facts: further content of all checkpoints of the run, e.g. the identity of its pictures.
        state: state of the run; stored in checkpoints.
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
        self.test_picture: Tensor | None = None
        """A picture on which weights are tested before they overwrite a checkpoint."""
        self.clock = time.monotonic()
        self.handlers: dict[int, Any] = {}
        """Original signal handlers, while the run replaces them."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the content of a student's checkpoint."""
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
        """Restore what Lightning does not restore."""
        self.state.from_checkpoint(checkpoint)
        self.state.saved = f"{trainer.ckpt_path}, after {self.state.place}"
        pl_module.rate_weight.fill_(checkpoint["rate_weight"])
        states = checkpoint["random"]
        torch.set_rng_state(states["torch"])
        random.setstate(states["python"])
        if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states["cuda"])

    def save(self, trainer: L.Trainer, name: str) -> None:
        """Write a checkpoint atomically; all processes must call this."""
        if trainer.is_global_zero:
            with atomic_write(self.folder / name, sync=True) as beside:
                trainer.save_checkpoint(beside)
        else:
            trainer.save_checkpoint(self.folder / name)  # takes part in gathering, writes nothing
        self.state.saved = f"{self.folder / name}, after {self.state.place}"
        self.clock = time.monotonic()

    def keep(self, trainer: L.Trainer, epoch: int, value: float) -> None:
        """Write ``best`` if ``value`` (MS-SSIM against the stage's target) is the best so far, then ``last``.

        In this order, a run that is killed in between resumes from ``best`` without loss.
        """
        self.state.epoch, self.state.batch = epoch, 0
        if value > self.state.best:
            self.state.best = value
            self.save(trainer, self.stage.best)
        if epoch >= 0:
            module: Any = trainer.lightning_module
            if not _any(trainer, self.test_picture is not None and not module.decodes(self.test_picture)):
                self.save(trainer, self.stage.last)
            if _any(trainer, self.state.stop_signal is not None):
                self.stop()

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save the initial student, which may be the best; not for a resumed run."""
        if not trainer.ckpt_path:
            self.keep(trainer, self.state.epoch, self.state.score)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save after the epoch and its validation."""
        self.keep(trainer, trainer.current_epoch, self.state.score)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Install signal handlers: Ctrl-C and SIGTERM stop the run after the current step.

        If ``--resume auto`` found ``best`` newer than ``last``, a run was killed between the two: ``last`` is written
        now, since there may be no step left.
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
        """Restore the signal handlers."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        self.handlers = {}

    def _ask(self, signum: int, frame: Any) -> None:
        if self.state.stop_signal is not None:  # second signal: stop now
            raise KeyboardInterrupt
        self.state.stop_signal = signum

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Before the first step, stop immediately."""
        if trainer.sanity_checking and self.state.stop_signal is not None and trainer.world_size == 1:
            raise Interrupted("stopped before the first step.", self.state.stop_signal)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save within the epoch if it is due; stop after a signal or divergence."""
        self.state.batch, self.test_picture = batch_idx + 1, batch.images[:1]
        if self.state.skipped_in_a_row >= IN_A_ROW:
            raise RunFailure(
                f"The run has diverged: {IN_A_ROW} steps in a row without a finite loss and gradient. The last good "
                f"checkpoint is {self.state.saved}; go on from it with --{self.stage.resume} auto and a lower --lr, and look "
                "at the pictures."
            )
        if self.state.batch == trainer.num_training_batches:  # the epoch's own checkpoint follows after validation
            return
        asked = _any(trainer, self.state.stop_signal is not None)
        every = self.options.save_every_steps
        due = bool(every) and trainer.global_step % every == 0
        minutes = self.options.save_every_minutes
        due = due or _any(trainer, 0 < minutes * 60 <= time.monotonic() - self.clock)
        # this step may have ruined the weights: test them before the previous file is overwritten
        if (asked or due) and not _any(trainer, not pl_module.decodes(self.test_picture)):
            self.save(trainer, self.stage.last)
        if asked:
            self.stop()

    def stop(self) -> None:
        """End the run after a signal.

        Raises:
            Interrupted: its message says how to resume.
        """
        signum = self.state.stop_signal or signal.SIGTERM  # the signal may have reached only another process
        raise Interrupted(
            f"stopped by {signal.Signals(signum).name}. The newest checkpoint is {self.state.saved}: the same command with "
            f"--{self.stage.resume} auto goes on from there.",
            signum,
        )


def _any(trainer: L.Trainer, flag: bool) -> bool:
    """Whether the flag is set in any process: all must save, or stop, at the same step."""
    return flag if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(flag, all=False)
