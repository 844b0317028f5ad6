"""Table of architectures, and how to rebuild a codec from its weights."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from codecswap.codecs.autoregressive import JointAutoregressive
from codecswap.codecs.checkerboard import Cheng2020AnchorCheckerboard
from codecswap.codecs.cheng2020 import Cheng2020Anchor, Cheng2020Attention
from codecswap.codecs.elic2022 import Elic2022Chandelier, Elic2022Official
from codecswap.codecs.factorized import FactorizedPrior, FactorizedPriorReLU
from codecswap.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from codecswap.codecs.protocol import Codec
from codecswap.codecs.variable_rate import JointAutoregressiveVbr, MeanScaleHyperpriorVbr, ScaleHyperpriorVbr
from codecswap.errors import UserError

ARCHITECTURES: dict[str, type[Codec]] = {
    "bmshj2018_factorized": FactorizedPrior,
    "bmshj2018_factorized_relu": FactorizedPriorReLU,
    "bmshj2018_hyperprior": ScaleHyperprior,
    "mbt2018_mean": MeanScaleHyperprior,
    "mbt2018": JointAutoregressive,
    "bmshj2018_hyperprior_vbr": ScaleHyperpriorVbr,
    "mbt2018_mean_vbr": MeanScaleHyperpriorVbr,
    "mbt2018_vbr": JointAutoregressiveVbr,
    "cheng2020_anchor": Cheng2020Anchor,
    "cheng2020_attn": Cheng2020Attention,
    "cheng2020_anchor_checkerboard": Cheng2020AnchorCheckerboard,
    "elic2022_official": Elic2022Official,
    "elic2022_chandelier": Elic2022Chandelier,
}
"""Codec classes by their names in CompressAI's zoo."""


def untrained(state: Mapping[str, Tensor], name: str | None = None) -> Codec:
    """Build a codec of the architecture and sizes of these weights; the weights are not loaded.

    Args:
        state: weights of a codec or of a student.
        name: the architecture, if it is known; else the weights tell it.

    Raises:
        KeyError: there is no architecture of that name.
        ValueError: no architecture, or not this one, has such weights.
    """
    # derived classes first: most of them have all weights of the class they are derived from
    derived = sorted(ARCHITECTURES.values(), key=lambda architecture: -len(architecture.__mro__))
    for architecture in derived if name is None else [ARCHITECTURES[name]]:
        with contextlib.suppress(KeyError, ValueError, AttributeError, IndexError, TypeError):
            return architecture.untrained(state)
    raise ValueError("no architecture has such weights")


def name_of(codec: Codec) -> str | None:
    """The name of a codec's architecture in `ARCHITECTURES`; None: it is not there."""
    return next((name for name, architecture in ARCHITECTURES.items() if type(codec) is architecture), None)


def check(codec: Codec, path: str | Path) -> None:
    """Check a codec that was read from ``path``, and compute its entropy tables if the file had none.

    Raises:
        UserError: a weight is not finite, or the entropy tables are damaged.
    """
    if not all(parameter.isfinite().all() for parameter in codec.parameters()):
        raise UserError(f"{path} holds weights that are not finite numbers: name an earlier checkpoint.")
    try:
        codec.make_tables()
    except (UserError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{path} has damaged entropy tables: copy it again or name another.") from error
