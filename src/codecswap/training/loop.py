"""The Lightning module and the training loop of all stages (`codecswap.stages`)."""

import logging
import math
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
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
from codecswap.training.losses import reconstruction_loss
from codecswap.training.rotated_adam import RotatedAdam, brightness_directions
from codecswap.training.saving import LocalFiles
from codecswap.training.state import TrainingState
from codecswap.training.student import LatentCost, TeacherStudent

CLIP = 1.0
"""Gradient norms are clipped to this."""
QUANTILE_LR = 1e-3
"""Learning rate of the entropy model's quantiles, CompressAI's own."""
RATE_START, RATE_GAIN = 0.01, 0.05
"""Initial value of the adapted rate weight, and its relative change per step towards the teacher's rate."""


class Training(L.LightningModule):
    """Lightning module of a teacher and its student.

    Args:
        pair: the two codecs.
        options: the run's options.
        stage: determines the student's target.
        state: the run's.
        steps_per_epoch: optimizer steps in an epoch, for the cosine.
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
        shown: Tensor,
        directions: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        # channels_last is 25 % faster on the CPU, more on tensor cores
        self.pair = pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self.state, self.steps_per_epoch = options, state, steps_per_epoch
        self.shown, self.directions = shown, directions
        self.distill = stage.target == "teacher"
        self.strict_loading = False  # the student is rebuilt before Lightning restores the rest
        self.clock = time.perf_counter()
        self.rate_weight: Tensor
        self.register_buffer(
            "rate_weight", torch.tensor(RATE_START if options.lambda_rate is None else options.lambda_rate)
        )

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
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _schedule(self, step: int) -> float:
        """Learning rate factor at a step: linear warm-up, then a cosine over all epochs."""
        steps = max(1, self.options.epochs * self.steps_per_epoch)
        rise = min(1.0, (step + 1) / (self.options.warmup_steps + 1))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    def on_train_start(self) -> None:
        """Set the schedule to the current step, so that options changed on resuming (epochs, lr, batch size) apply."""
        schedule: Any = self.lr_schedulers()
        optimizer: Any = self.optimizers()
        schedule.last_epoch = self.current_epoch * self.steps_per_epoch + self.state.batch
        schedule.base_lrs = [self.options.lr, QUANTILE_LR][: len(schedule.base_lrs)]
        for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = base * self._schedule(schedule.last_epoch)
        if self.global_rank == 0:
            self.state.resume_means(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the noise of the likelihoods with (seed, step, process), so that resuming does not change it."""
        if self.pair.trains_encoder:
            torch.manual_seed(hash((self.options.seed, self.global_step, self.global_rank)) & 0x7FFFFFFF)
        self.pair.draw_gain(hash((self.options.seed, self.global_step)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch: reconstruction and, if the encoder trains, the rate."""
        self._warn_unreadable(batch)
        decoded = self.pair(batch.images, distill=self.distill)
        loss = reconstruction_loss(
            decoded.student,
            decoded.target,
            lambda_l1=self.options.lambda_l1,
            lambda_msssim=self.options.lambda_msssim,
            lambda_mse=self.options.lambda_mse,
        )
        if decoded.latents is not None:
            loss = loss + decoded.latents
        if decoded.bpp is not None and decoded.teacher_bpp is not None:
            loss = loss + self.rate_weight.clone() * decoded.bpp  # the weight changes in place below
            self._adapt_rate_weight(decoded.bpp.detach(), decoded.teacher_bpp)
        error = (decoded.student.detach().float() - decoded.target).square().flatten(1).mean(1)
        decibels = (
            -10 * error.log10().mean()
        )  # per picture, so that the mean does not depend on the number of processes
        if torch.isfinite(loss):  # else the step is skipped
            self.state.add("train_loss", loss.detach())
            self.state.add("train_psnr", decibels)
            if decoded.bpp is not None:
                self.state.add("train_bpp", decoded.bpp.detach())
        self.state.learning_rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr, index]
        self.log("loss", loss.detach(), prog_bar=True, logger=True)
        self.log("learning_rate", self.state.learning_rate, logger=True)
        self.log("PSNR", decibels, prog_bar=True, logger=False)
        now = time.perf_counter()
        self.log("pictures/s", self.options.batch_size / (now - self.clock), prog_bar=True, logger=False)
        self.clock = now
        if self.pair.unfreeze_all:  # a separate loss trains the quantiles
            loss = loss + self.pair.student.aux_loss()
        return loss

    def _adapt_rate_weight(self, bpp: Tensor, teacher_bpp: Tensor) -> None:
        """Increase the rate weight if the student uses more bits than its teacher, else decrease it."""
        if self.options.lambda_rate is None:
            excess = self.trainer.strategy.reduce((bpp / teacher_bpp - 1).nan_to_num(0), reduce_op="mean")
            self.rate_weight.mul_(torch.exp(RATE_GAIN * excess.clamp(-1, 1)))

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the codec's gradient, without the quantiles, whose loss has another scale.

        If the loss or the gradient is not finite (all processes have the same gradient), the step is skipped: an optimizer
        does not change parameters without a gradient, or their state.
        """
        norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CLIP)
        if torch.isfinite(norm):
            self.state.skipped_in_a_row = 0
            return
        self.state.skipped += 1
        self.state.skipped_in_a_row += 1
        optimizer.zero_grad(set_to_none=True)

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
    module = Training(pair, options, stage, state, steps_per_epoch=steps, shown=shown, directions=directions)
    trainer = _trainer(options, epochs, steps, folder, callbacks, logger)
    if resume is None:
        _begin_at(trainer, start[0])
    trainer.fit(module, PictureLoaders(pictures, options, start), ckpt_path=resume and Path(resume), weights_only=True)
    return trainer


def _begin_at(trainer: L.Trainer, epoch: int) -> None:
    """Set the first epoch (from 0) of a new trainer; a Lightning checkpoint does this itself."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = epoch


def _trainer(
    options: TrainingOptions,
    epochs: int,
    steps: int,
    folder: Path | None,
    callbacks: list[L.Callback],
    logger: Logger | None,
) -> L.Trainer:
    """Lightning's Trainer for these options; ``steps``: steps per epoch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*modules? in eval mode.*")
    bar = folder is not None and sys.stdout.isatty()
    if bar:
        callbacks = [*callbacks, RichProgressBar()]
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
            # at least a hundred logged steps, also in short runs (Lightning logs every 50)
            log_every_n_steps=max(1, min(50, epochs * steps // 100)),
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
