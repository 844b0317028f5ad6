"""Training losses."""

import torch
from torch import Tensor

from codecswap.metrics import ms_ssim


def reconstruction_loss(
    x_hat: Tensor, target: Tensor, *, lambda_l1: float = 1.0, lambda_msssim: float = 0.2, lambda_mse: float = 0.0
) -> Tensor:
    """``lambda_l1 * L1 + lambda_msssim * (1 - MS-SSIM) + lambda_mse * MSE``, a scalar.

    Always computed in float32, also under autocast.

    Args:
        x_hat, target: ``(B, 3, H, W)``, nominally in [0, 1]; ``x_hat`` is not clamped, to keep its gradient.
    """
    with torch.autocast(x_hat.device.type, enabled=False):
        x_hat, target = x_hat.float(), target.float()
        loss = lambda_l1 * (x_hat - target).abs().mean()
        if lambda_mse:
            loss = loss + lambda_mse * (x_hat - target).square().mean()
        if lambda_msssim:
            loss = loss + lambda_msssim * (1 - ms_ssim(x_hat, target).mean())
        return loss
