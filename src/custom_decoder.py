"""元のレシピの `custom_decoder`: 復号器 `g_s` の `ConvTranspose2d` を `Upsample(x2, nearest) + Conv2d(5x5)` に置き換えます。

中身は `codecswap.swap(…, "upsample")` です。
"""

import sys
from pathlib import Path

from torch import nn

sys.path.append(str(Path(__file__).parent))  # インストールせずに、チェックアウトの中でも使えるように

from codecswap import swap
from codecswap.layers.upsampling import UpsampleConv2d

__all__ = ["UpsampleConv2d", "replace_deconv"]


def replace_deconv(codec: nn.Module, kernel_size: int = 5) -> nn.Module:
    """置き換えた生徒 (student) を返します。教師 (teacher) である `codec` は変わりません。

    新しい層は教師の重みに最小二乗で合わせて始まります。エンコーダとエントロピーモデルは勾配を受けないので、古いビットストリームも復号できます。
    """
    student, _ = swap(codec, "upsample", kernel_size=kernel_size)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("g_s."))  # 学習するのは復号器だけ
    return student
