"""Convert CompressAI's entropy models to `EntropyTables`."""

from typing import Any

import numpy as np
from torch import Tensor

from codecswap.entropy.tables import EntropyTables

WIDEST = 1 << 15
"""Most symbols in the entropy table of one channel; trained tables have a few hundred."""


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
