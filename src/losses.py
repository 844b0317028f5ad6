"""元のレシピの `losses`: 蒸留の損失と、評価の指標。入力はすべて [0, 1] の `(B, 3, H, W)` です。"""

import sys
from pathlib import Path

import torch.nn.functional as F

sys.path.append(str(Path(__file__).parent))  # インストールせずに、チェックアウトの中でも使えるように

from codecswap.metrics import ms_ssim, psnr
from codecswap.training.losses import reconstruction_loss

__all__ = ["distillation_loss", "l1_loss", "ms_ssim", "psnr"]

# 画素ごとの絶対誤差の平均。
l1_loss = F.l1_loss

# L1 + 0.2 * (1 - MS-SSIM)。重みは lambda_l1 と lambda_msssim で変えられます。
distillation_loss = reconstruction_loss
