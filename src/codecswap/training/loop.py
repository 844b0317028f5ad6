"""The Lightning module and the training loop of all stages (`codecswap.stages`)."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecswap.config import TrainingOptions
from codecswap.console import warn
from codecswap.data.datasets import Batch
from codecswap.data.discovery import Pictures
from codecswap.data.loaders import PictureLoaders
from codecswap.errors import UserError
from codecswap.metrics import to_8_bits
from codecswap.metrics.table import METRICS
from codecswap.stages import Stage
from codecswap.training.lightning import L, Logger, MisconfigurationException, RichProgressBar
from codecswap.training.rotated_adam import RotatedAdam, brightness_directions
from codecswap.training.saving import LocalFiles
from codecswap.training.state import TrainingState
from codecswap.training.step import TrainingStep
from codecswap.training.student import LatentCost, TeacherStudent

QUANTILE_LR = 1e-3
"""Learning rate of the entropy model's quantiles, CompressAI's own."""
RATE_START = 0.01
"""Initial value of the adapted rate weight."""
READ_EVERY = 50
"""The device is waited for and read every so many steps, in short runs more often: at least a hundred times in all."""


class Training(L.LightningModule):
    """Lightning module of a teacher and its student.

    Args:
        pair: the two codecs.
        options: the run's options.
        stage: determines the student's target.
        state: the run's.
        steps_per_epoch: optimizer steps in an epoch, for the cosine.
        loaders: the run's pictures.
        shown: pictures ``(B, 3, H, W)``, the same in all processes, from which the optimizer's directions are computed.
        directions: directions of a resumed run (`codecswap.training.rotated_adam`), used instead.
    """

    def __init__(
        self,
        pair: TeacherStudent,
        options: TrainingOptions,
        stage: Stage,
        state: TrainingState,
        *,
        steps_per_epoch: int,
        loaders: PictureLoaders,
        shown: Tensor,
        directions: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        # channels_last is 25 % faster on the CPU, more on tensor cores
        self.pair = pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self.state, self.steps_per_epoch = options, state, steps_per_epoch
        self.loaders, self.shown, self.directions = loaders, shown, directions
        self.distill = stage.target == "teacher"
        self.strict_loading = False  # the student is rebuilt before Lightning restores the rest
        self.automatic_optimization = False
        self.step: Callable[[Tensor], None]
        self.read_every = max(1, min(READ_EVERY, options.epochs * steps_per_epoch // 100))
        self.clock, self.read_at = time.perf_counter(), 0
        self.shown_in_bar: dict[str, float] = {}
        self.rate_weight: Tensor
        self.register_buffer(
            "rate_weight", torch.tensor(RATE_START if options.lambda_rate is None else options.lambda_rate)
        )

    def train_dataloader(self) -> Any:
        """Random crops for this process."""
        return self.loaders.train(self.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        """Center crops for this process."""
        return self.loaders.val(self.global_rank, self.trainer.world_size)

    def configure_optimizers(self) -> Any:
        """`RotatedAdam`, or SOAP (Vyas et al., arXiv 2409.11321).

        The learning rate has a short linear warm-up and then decays along a cosine over all steps.
        """
        trained = {name: p for name, p in self.pair.student.named_parameters() if p.requires_grad}
        quantiles = [p for name, p in trained.items() if name.endswith("quantiles")]
        others = [p for name, p in trained.items() if not name.endswith("quantiles")]
        groups: list[dict[str, Any]] = [{"params": others, "lr": self.options.lr}]
        if quantiles:
            groups.append({"params": quantiles, "lr": QUANTILE_LR})
        optimizer: torch.optim.Optimizer
        if self.options.optimizer == "soap":
            from pytorch_optimizer import SOAP  # slow to import, rarely used

            optimizer = SOAP(groups, weight_decay=0.0)
        else:
            if self.directions is None:  # not earlier: only now all processes have the same weights
                x = self.shown.to(self.device)
                self.directions = brightness_directions(self.pair.student, x, self.pair.both_latents(x)[1])
            optimizer = RotatedAdam(groups, {trained[name]: values for name, values in self.directions.items()})
        return optimizer

    def _schedule(self, step: int) -> float:
        """Learning rate factor at a step: linear warm-up, then a cosine over all epochs."""
        steps = max(1, self.options.epochs * self.steps_per_epoch)
        rise = min(1.0, (step + 1) / (self.options.warmup_steps + 1))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    def _set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rates of a step. It follows from the step alone, so options changed on resuming apply."""
        factor = self._schedule(step)
        for group, base in zip(optimizer.param_groups, (self.options.lr, QUANTILE_LR), strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor
        self.state.learning_rate = self.options.lr * factor

    def on_train_start(self) -> None:
        """Prepare the step for this device."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, RotatedAdam):  # not earlier: a checkpoint has restored its groups
            for group in optimizer.param_groups:
                group["lr"] = torch.zeros((), device=self.device)
        self.step = TrainingStep(
            self.pair,
            self.options,
            optimizer,
            self.state,
            distill=self.distill,
            rate_weight=self.rate_weight,
            backward=self.manual_backward,
            mean_over_processes=lambda value: self.trainer.strategy.reduce(value, reduce_op="mean"),
            scaler=getattr(self.trainer.precision_plugin, "scaler", None),
        )
        if self.global_rank == 0:
            self.state.resume_means(self.device)
        self.clock, self.read_at = time.perf_counter(), self.global_step

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the noise of the likelihoods with (seed, step, process), so that resuming does not change it."""
        if self.pair.trains_encoder:
            torch.manual_seed(hash((self.options.seed, self.global_step, self.global_rank)) & 0x7FFFFFFF)
        self.pair.draw_gain(hash((self.options.seed, self.global_step)))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train on one batch. The host does not wait for the device, except where it reads what the device counted."""
        self._warn_unreadable(batch)
        optimizer: Any = self.optimizers()
        step = self.current_epoch * self.steps_per_epoch + batch_idx
        self._set_rates(optimizer.optimizer, step)
        optimizer._on_before_step()  # Lightning counts steps here; `step` includes the optimizer's
        self.step(batch.images)
        optimizer._on_after_step()
        if (step + 1) % self.read_every == 0 or batch_idx + 1 == self.trainer.num_training_batches:
            self._read(step)

    def _read(self, step: int) -> None:
        """Read what the device counted, for the log, the bar and the check for divergence."""
        loss, psnr = self.state.read()
        now, steps = time.perf_counter(), self.global_step - self.read_at
        speed = steps * self.options.batch_size / (now - self.clock)
        self.clock, self.read_at = now, self.global_step
        self.shown_in_bar = {"loss": loss, "PSNR": psnr, "pictures/s": speed}
        for logger in self.loggers:
            logger.log_metrics({"loss": loss, "learning_rate": self.state.learning_rate}, step=step)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Metrics of the student against teacher and picture, and of the teacher against the picture."""
        self._warn_unreadable(batch)
        self.pair.draw_gain(-1 - batch_idx)  # from the largest on
        if not len(batch.images):
            return
        teacher, student = self.pair.reconstruct(batch.images)
        shown, shown_by_teacher = to_8_bits(student), to_8_bits(teacher)
        self._add_metrics("teacher", student, teacher)
        self._add_metrics("picture", shown, batch.images)
        self._add_metrics("picture", shown_by_teacher, batch.images, prefix="teacher_")
        if not self.pair.same_latents:
            teacher_bpp, student_bpp = self.pair.rates(batch.images)
            self.state.add("bpp", student_bpp.expand(len(batch.images)))
            self.state.add("teacher_bpp", teacher_bpp.expand(len(batch.images)))

    def _add_metrics(self, suffix: str, x: Tensor, y: Tensor, prefix: str = "") -> None:
        """Update the means of all metrics that have a column in ``metrics.csv``."""
        for metric in METRICS.values():
            if metric.column:
                self.state.add(f"{prefix}{metric.column}_{suffix}", metric.function(x, y))

    @torch.no_grad()
    def decodes(self, pictures: Tensor) -> bool:
        """Whether the student decodes pictures ``(B, 3, H, W)`` to finite numbers."""
        return bool(self.pair.student.g_s(self.pair.both_latents(pictures)[1]).isfinite().all())

    def _warn_unreadable(self, batch: Batch) -> None:
        for path in set(batch.unreadable) - self.state.unreadable:
            warn(f"{path} cannot be read and is skipped.", everywhere=True)
        self.state.unreadable.update(batch.unreadable)


class Bar(RichProgressBar):
    """Lightning's bar, with what was last read from the device."""

    def get_metrics(self, trainer: L.Trainer, pl_module: Any) -> Any:
        """Values beside the bar, by name."""
        return pl_module.shown_in_bar


def fit(
    pair: TeacherStudent,
    options: TrainingOptions,
    stage: Stage,
    state: TrainingState,
    pictures: Pictures,
    shown: Tensor,
    *,
    callbacks: list[L.Callback],
    epochs: int | None = None,
    start: tuple[int, int] = (0, 0),
    resume: str | None = None,
    directions: Mapping[str, Tensor] | None = None,
    logger: Logger | None = None,
    folder: Path | None = None,
) -> L.Trainer:
    """Train a student, in place.

    Args:
        pair: the two codecs.
        options: how to train; options of folders, checkpoints and W&B are for the callbacks.
        stage: determines the student's target.
        state: progress of the run; callbacks read it.
        pictures: training and validation pictures.
        shown: pictures ``(B, 3, H, W)`` in [0, 1], the same ones when a run is resumed.
        callbacks: Lightning callbacks.
        epochs: number of epochs, by default that of the options; 0: only measure the initial student.
        start: first epoch, and number of its batches that are done already.
        resume: checkpoint to continue from, with its `directions`.

    Returns: Lightning's trainer.

    Raises:
        UserError: Lightning cannot train on the requested device.
    """
    epochs = options.epochs if epochs is None else epochs
    if pair.trains_encoder and not options.unfreeze_all:
        pair.latent_cost = LatentCost(pair.teacher, shown)
    if options.compile:
        torch._dynamo.config.suppress_errors = True  # without a compiler training is slower, but works
        pair.teacher.g_s.compile()
        pair.student.g_s.compile()
    steps = len(pictures.train) // options.batch_size
    loaders = PictureLoaders(pictures, options, start)
    module = Training(
        pair, options, stage, state, steps_per_epoch=steps, loaders=loaders, shown=shown, directions=directions
    )
    trainer = _trainer(options, epochs, folder, callbacks, logger)
    if resume is None:
        _begin_at(trainer, start[0])
    trainer.fit(module, ckpt_path=resume and Path(resume), weights_only=True)
    return trainer


def _begin_at(trainer: L.Trainer, epoch: int) -> None:
    """Set the first epoch (from 0) of a new trainer; a Lightning checkpoint does this itself."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = epoch


def _trainer(
    options: TrainingOptions,
    epochs: int,
    folder: Path | None,
    callbacks: list[L.Callback],
    logger: Logger | None,
) -> L.Trainer:
    """Lightning's Trainer for these options."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*modules? in eval mode.*")
    bar = folder is not None and sys.stdout.isatty()
    if bar:
        callbacks = [*callbacks, Bar()]
    devices = int(options.devices) if options.devices.isdigit() else options.devices
    try:
        return L.Trainer(
            max_epochs=epochs,
            accelerator=options.accelerator,
            devices=devices,
            num_nodes=options.num_nodes,
            precision=options.amp,  # type: ignore[arg-type]
            callbacks=callbacks,
            logger=logger or False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            use_distributed_sampler=False,  # EpochSampler serves any number of processes
            num_sanity_val_steps=-1,  # the initial student is measured like every epoch
            inference_mode=False,
            deterministic=options.deterministic or None,
            plugins=[LocalFiles()],
            default_root_dir=Path(__file__).parent,  # Lightning looks for its own checkpoints there, as at an address
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"Lightning cannot train on this: {' '.join(str(error).split())}") from error
