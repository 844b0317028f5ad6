"""The recipe as it is usually written, to compare with.

Kaiming start, unfolded forward, teacher and student both run whole and in train mode.
"""

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.layers.upsampling import UpsampleConv2d
from codecswap.swaps.apply import swap


class Recipe:
    """Teacher, student and optimizer; `step` trains on one batch."""

    def __init__(self, teacher: FactorizedPrior, lr: float = 1e-4) -> None:
        self.teacher = teacher
        self.student, _ = swap(teacher, "upsample", init="random")
        for layer in self.student.g_s:
            if isinstance(layer, UpsampleConv2d):
                layer.fold = False
                layer.requires_grad_(True)
        self.optimizer = torch.optim.Adam([p for p in self.student.parameters() if p.requires_grad], lr=lr)

    def step(self, x: Tensor) -> float:
        """Train on pictures ``(B, 3, 224, 224)``; returns the loss."""
        self.teacher.train()
        self.student.train()
        with torch.no_grad():
            target = self.teacher(x)["x_hat"]
        x_hat = self.student(x)["x_hat"]
        loss = (x_hat - target).abs().mean() + 0.2 * (1 - ms_ssim(x_hat, target, data_range=1))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.student.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        return loss.item()
