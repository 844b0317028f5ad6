"""GDN and its inverse, CompressAI's: ``x / sqrt(beta + gamma x^2)`` and ``x * sqrt(beta + gamma x^2)``."""

import warnings

from torch import Tensor

with warnings.catch_warnings():  # of deprecations in what CompressAI imports, not our user's to mend
    warnings.simplefilter("ignore")
    from compressai.layers import GDN

__all__ = ["GDN", "effective"]


def effective(gdn: GDN) -> tuple[Tensor, Tensor]:
    """What a GDN computes with once its reparametrisation is done: ``beta: (C,)`` and ``gamma: (C, C)``, non-negative."""
    return gdn.beta_reparam(gdn.beta).detach(), gdn.gamma_reparam(gdn.gamma).detach()
