"""Callbacks of the training loop: reconstructions, metrics, W&B."""

import csv
import io
import logging
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.console import say, warn
from codecswap.data.pictures import to_picture
from codecswap.files import atomic_write
from codecswap.metrics.table import MAIN_METRIC
from codecswap.stages.stage import Stage
from codecswap.training.lightning import L, WandbLogger
from codecswap.training.state import TrainingState


class Reconstructions(L.Callback):
    """Saves the student's reconstructions of a few fixed pictures, before training and every few epochs.

    Args:
        folder: the run's folder.
        kind: name of the reconstructions in W&B.
        options: sub-folder, how often, how many.
        state: the run's.
        pictures: ``(B, 3, 224, 224)`` in [0, 1].
    """

    def __init__(
        self, folder: Path, kind: str, options: TrainingOptions, state: TrainingState, pictures: Tensor
    ) -> None:
        self.folder, self.kind, self.every = folder / options.recon_subdir, kind, options.recon_every
        self.state, self.pictures = state, pictures[: options.recon_count]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before training: ``pre_e000``, or ``pre_e007`` on resuming at epoch 7."""
        self._save(trainer, pl_module, f"pre_e{self.state.epoch + 1:03d}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Every few epochs: ``e004``, ``e009``, ...."""
        if self.every and (trainer.current_epoch + 1) % self.every == 0:
            self._save(trainer, pl_module, f"e{trainer.current_epoch:03d}")

    def _save(self, trainer: L.Trainer, module: Any, tag: str) -> None:
        if not trainer.is_global_zero or not len(self.pictures):
            return
        module.eval()
        images = [module.pair.reconstruct(picture[None].to(module.device))[1][0].cpu() for picture in self.pictures]
        module.train()
        folder = self.folder / tag
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [to_picture(image.numpy(), (image.shape[-2], image.shape[-1])) for image in images]
        for index, picture in enumerate(pictures):
            with atomic_write(folder / f"{index:05d}.png") as beside:
                picture.save(beside, format="PNG")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"{self.kind}/{tag}", pictures, step=trainer.global_step)


class EpochRows(L.Callback):
    """Collects one row of metrics per epoch, and one for the initial student.

    Args:
        stage: its target determines the score of the best student.
        state: state of the run; its ``score`` is set here, before other callbacks read it.
    """

    def __init__(self, stage: Stage, state: TrainingState) -> None:
        self.target, self.state = stage.target, state
        self.started = self.epoch_started = time.perf_counter()
        self.first: int | None = None

    def write(self, trainer: L.Trainer, row: dict[str, float], *, start: bool) -> None:
        """Handle a row; called in all processes.

        Args:
            row: ``epoch`` (-1: the start), ``step``, ``learning_rate``, means of the losses and metrics, ``seconds``, ...
            start: whether this row is of the initial student.
        """
        raise NotImplementedError

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the row of epoch -1 (the initial student); a resumed run is not measured again."""
        if trainer.ckpt_path:
            self.state.take_means()
        else:
            self._row(trainer, pl_module, self.state.epoch, start=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Record the first step of this process, to estimate the remaining time."""
        self.first = trainer.current_epoch
        self.epoch_started = time.perf_counter() - self.state.seconds

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self.epoch_started = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Update the elapsed time for a checkpoint that may be saved after this batch."""
        self.state.seconds = time.perf_counter() - self.epoch_started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the row of the epoch, after its validation."""
        self._row(trainer, pl_module, trainer.current_epoch)

    def _row(self, trainer: L.Trainer, module: Any, epoch: int, *, start: bool = False) -> None:
        means = self.state.take_means()
        seconds = time.perf_counter() - self.epoch_started
        row: dict[str, float] = {
            "epoch": epoch,
            "step": trainer.global_step,
            "learning_rate": module.options.lr,
            **means,
        }
        if not start:
            row["learning_rate"] = self.state.learning_rate
            row["pictures_per_second"] = module.steps_per_epoch * module.options.batch_size / seconds
        if module.pair.trains_encoder:
            row["lambda_rate"] = module.rate_weight.item()
        row |= {"skipped_steps": self.state.skipped, "seconds": seconds}
        self.state.skipped, self.state.score = 0, means[f"{MAIN_METRIC.column}_{self.target}"]
        self.write(trainer, row, start=start)


class EpochLog(EpochRows):
    """One row per epoch in ``metrics.csv`` and W&B, and one line on the output.

    Args:
        folder: the run's folder.
        stage, state: as `EpochRows` takes them.
    """

    def __init__(self, folder: Path, stage: Stage, state: TrainingState) -> None:
        super().__init__(stage, state)
        self.path = folder / "metrics.csv"

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remove rows that were logged after the checkpoint."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero and trainer.ckpt_path:
            cut_rows(self.path, trainer.current_epoch)

    def write(self, trainer: L.Trainer, row: dict[str, float], *, start: bool) -> None:  # noqa: D102
        if not trainer.is_global_zero:
            return
        # before the checkpoint: a run killed in between removes this row and repeats the epoch
        cut_rows(self.path, int(row["epoch"]), row)
        for logger in trainer.loggers:
            logger.log_metrics({f"epoch/{key}": value for key, value in row.items()}, step=trainer.global_step)
        say(self._line(trainer, row, start) + (", the best so far" if self.state.score > self.state.best else ""))

    def _line(self, trainer: L.Trainer, row: dict[str, float], start: bool) -> str:
        """The row as text; of `MAIN_METRIC` only the value that selects the best checkpoint."""
        scores = (
            f"PSNR {row['psnr_picture']:.2f} dB (teacher {row['teacher_psnr_picture']:.2f}), against the teacher "
            f"{row['psnr_teacher']:.2f} dB, {MAIN_METRIC.label} against the {self.target} {self.state.score:.4f}"
        )
        if "bpp" in row:
            scores += f", {row['bpp']:.3f} bpp (teacher {row['teacher_bpp']:.3f})"
        if start:
            return f"start: {scores}"
        done = int(row["epoch"]) + 1
        left = (trainer.max_epochs or done) - done
        per_epoch = (time.perf_counter() - self.started) / (done - (self.first or 0))
        remaining = time.strftime("%H:%M:%S", time.gmtime(left * per_epoch))
        return (
            f"epoch {done}/{trainer.max_epochs}: loss {row.get('train_loss', math.nan):.5f}, {scores}, "
            f"{row['pictures_per_second']:.1f} pictures/s, {remaining} left"
            + (f"; {row['skipped_steps']} steps skipped (no finite loss or gradient)" if row["skipped_steps"] else "")
        )


def cut_rows(path: Path, epoch: int, row: dict[str, float] | None = None) -> None:
    """Remove the rows of a CSV file from ``epoch`` on, and add ``row``."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < epoch]
    rows += [row] if row else []
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for entry in rows for key in entry)), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


def wandb_logger(options: TrainingOptions, folder: Path, run_id: str | None) -> WandbLogger | None:
    """Logger of W&B, if the run names a project. If W&B is missing or logged out: one warning, and None or an offline logger.

    Args:
        run_id: id of the run to continue; None for a new one.
    """
    off = (
        os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes")
        or os.environ.get("WANDB_MODE") == "disabled"
    )
    if not options.wandb_project or off:
        return None
    try:
        import wandb
    except ImportError:
        warn("wandb is not installed (pip install 'codecswap[wandb]'): the run is logged to metrics.csv only.")
        return None
    logging.getLogger("wandb").setLevel(logging.ERROR)
    try:
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        if not offline and not wandb.login(prompt=False):
            warn("not logged in to W&B (run `wandb login`): the run is logged to metrics.csv only.")
            return None
        logger = WandbLogger(
            project=options.wandb_project,
            save_dir=str(folder),
            offline=offline,
            config=asdict(options),
            id=run_id,
            resume="allow",
        )
        _ = logger.experiment  # connects now, so that failures appear before training
        return logger
    except Exception as error:  # no failure of W&B may stop a run
        warn(f"W&B does not answer ({type(error).__name__}): the run is logged to metrics.csv only.")
        return None
