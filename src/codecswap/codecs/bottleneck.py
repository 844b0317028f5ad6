"""CompressAI's entropy bottleneck: its likelihoods, and its tables as `EntropyTables`."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.entropy.tables import EntropyTables
from codecswap.layers.compressai import EntropyBottleneck

WIDEST = 1 << 15
"""Most symbols in the entropy table of one channel; trained tables have a few hundred."""

NEARLY = 1e-3
"""Share of the bits that tables may cost more than new ones: two machines that compute the same tables differ by 1e-6."""


def quantize_with_likelihoods(
    bottleneck: Any, x: Tensor, *, noisy: bool, step: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rounded latents (``noisy``: with uniform noise instead) and their likelihoods, each ``(B, C, h, w)``.

    The bottleneck's own ``forward``, bit for bit. That one permutes axes by tensors on the device, for which the host waits.

    Args:
        step: quantization step of a bottleneck with variable rate, a scalar on the device. Likelihoods are those of intervals
            of this size, as in its tables; CompressAI's ``forward`` has intervals of 1, and its gradient leaves the
            bottleneck's weights out.
    """
    by_channel = x.transpose(0, 1).contiguous()
    values, mode = by_channel.flatten(1)[:, None], "noise" if noisy else "dequantize"
    if step is None:
        outputs = bottleneck.quantize(values, mode, bottleneck._get_medians())
        likelihoods, _, _ = bottleneck._likelihood(outputs)
    else:
        outputs = bottleneck.quantize_variable(values, mode, bottleneck._get_medians(), step)
        likelihoods, _, _ = bottleneck._likelihood_variable(outputs, qs=step)
    likelihoods = bottleneck.likelihood_lower_bound(likelihoods)
    rounded, likely = (
        values.reshape(by_channel.shape).transpose(0, 1).contiguous() for values in (outputs, likelihoods)
    )
    return rounded, likely


def tables_of(model: Any, medians: Tensor) -> EntropyTables:
    """Read the tables of one of CompressAI's entropy models, with one median per CDF.

    Raises:
        UserError: they are damaged.
    """
    return EntropyTables(
        cdf=model.quantized_cdf.cpu().numpy().astype(np.int32),
        lengths=model.cdf_length.cpu().numpy().astype(np.int32).reshape(-1),
        offsets=model.offset.cpu().numpy().astype(np.int32).reshape(-1),
        medians=medians.flatten().cpu().numpy().astype(np.float32),
    )


def check_quantiles(bottleneck: Any) -> None:
    """Refuse quantiles whose tables would take too much memory.

    Raises:
        ValueError: they are too far apart.
    """
    if bottleneck.quantiles.detach().diff().abs().max() > WIDEST:
        raise ValueError("the quantiles are too far apart")


@torch.no_grad()
def rebuild_outdated(codec: nn.Module) -> bool:
    """Recompute the tables of bottlenecks whose weights tell others, as after training without CompressAI's ``update``.

    Returns: whether there were any. Differences of rounding between two machines are none.
    """
    outdated = False
    for module in codec.modules():
        if isinstance(module, EntropyBottleneck):
            fresh = copy.deepcopy(module)
            fresh.update(force=True)
            same = torch.equal(module.offset, fresh.offset) and torch.equal(module.cdf_length, fresh.cdf_length)
            if not same or _cost(module, fresh) > NEARLY:
                module.update(force=True)
                outdated = True
    return outdated


def _cost(old: EntropyBottleneck, new: EntropyBottleneck) -> Tensor:
    """Bits that the old tables cost more than the new ones for what the new ones expect, as a share."""
    p, q = (model.quantized_cdf.double().diff(dim=1).clamp(min=0) for model in (new, old))
    p, q = p[p > 0] / 65536, q[p > 0].clamp(min=1) / 65536
    return (p * (p / q).log2()).sum() / (p * -p.log2()).sum()
