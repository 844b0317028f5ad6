"""One training step: loss, gradient, clipping and update, in which the host never waits for the device.

Nothing here reads a tensor's value. What the loop wants to know is counted on the device (`TrainingState`) and read every few
steps; a step without a finite gradient is skipped there, too.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from codecswap.codecs.float32 import full_float32
from codecswap.config import TrainingOptions
from codecswap.training.losses import reconstruction_loss
from codecswap.training.rotated_adam import RotatedAdam
from codecswap.training.state import TrainingState
from codecswap.training.student import TeacherStudent

CLIP = 1.0
"""Gradient norms are clipped to this."""
RATE_GAIN = 0.05
"""Relative change of an adapted rate weight per step towards the teacher's rate."""


def _same(value: Tensor) -> Tensor:
    return value


class TrainingStep:
    """A step of a teacher and its student.

    Args:
        pair: the two codecs.
        options: weights of the loss.
        optimizer: `RotatedAdam`; with any other, the host reads whether each gradient is finite. Its first parameter group
            is clipped.
        state: gets the means and counts.
        distill: the target is the teacher's reconstruction, else the pictures.
        rate_weight: weight of the rate, a scalar, if an encoder trains; changed in place unless the options fix it.
        backward: computes the gradient of a loss; by default ``Tensor.backward``.
        mean_over_processes: mean of a scalar over all processes.
        scaler: scales gradients in float16, else None.
    """

    def __init__(
        self,
        pair: TeacherStudent,
        options: TrainingOptions,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        *,
        distill: bool,
        rate_weight: Tensor,
        backward: Callable[[Tensor], object] = Tensor.backward,
        mean_over_processes: Callable[[Tensor], Any] = _same,
        scaler: Any = None,
    ) -> None:
        self.pair, self.options, self.optimizer, self.state = pair, options, optimizer, state
        self.distill, self.rate_weight = distill, rate_weight
        self.backward, self.mean_over_processes, self.scaler = backward, mean_over_processes, scaler

    def __call__(self, x: Tensor) -> None:
        """Train on ``x: (B, 3, H, W)`` in [0, 1]; under the autocast of the caller."""
        loss = self._loss(x)
        if self.pair.unfreeze_all:  # a separate loss trains the quantiles
            with full_float32(x.device):
                loss = loss + self.pair.student.aux_loss()
        self.optimizer.zero_grad()
        # operators of the gradient have the precision of theirs forward; an encoder's must not be TF32
        exact = full_float32 if self.pair.trains_encoder else nullcontext
        with torch.autocast(x.device.type, enabled=False), exact(x.device):
            self.backward(loss)
        self._update()

    def _loss(self, x: Tensor) -> Tensor:
        """Loss of one batch: reconstruction and, if the encoder trains, the rate."""
        decoded = self.pair(x, distill=self.distill)
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
            if self.options.lambda_rate is None:
                self._adapt_rate_weight(decoded.bpp.detach(), decoded.teacher_bpp)
        error = (decoded.student.detach().float() - decoded.target).square().flatten(1).mean(1)
        # per picture, so that the mean does not depend on the number of processes
        decibels = -10 * error.log10().mean()
        finite = loss.detach().isfinite()
        self.state.add("train_loss", loss, where=finite)
        self.state.add("train_psnr", decibels, where=finite)
        if decoded.bpp is not None:
            self.state.add("train_bpp", decoded.bpp, where=finite)
        self.state.remember(loss, decibels)
        return loss

    def _adapt_rate_weight(self, bpp: Tensor, teacher_bpp: Tensor) -> None:
        """Increase the rate weight if the student uses more bits than its teacher, else decrease it."""
        excess = self.mean_over_processes((bpp / teacher_bpp - 1).nan_to_num(0))
        self.rate_weight.mul_(torch.exp(RATE_GAIN * excess.clamp(-1, 1)))

    def _update(self) -> None:
        """Clip the codec's gradient, without the quantiles, whose loss has another scale, and update the parameters.

        If the gradient is not finite (all processes have the same), the step is skipped: neither parameters change nor
        the optimizer's state.
        """
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], CLIP)
        skipped = ~norm.isfinite()
        self.state.count(skipped)
        if isinstance(self.optimizer, RotatedAdam):
            self.optimizer.found_inf = skipped.float()
        elif skipped:  # an optimizer does not change parameters without a gradient, or their state
            self.optimizer.zero_grad(set_to_none=True)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
