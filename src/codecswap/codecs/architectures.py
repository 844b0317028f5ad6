"""Which architectures there are, and how a codec of one of them is rebuilt from its weights."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from codecswap.codecs.autoregressive import JointAutoregressive
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from codecswap.codecs.protocol import Codec
from codecswap.errors import UserError

ARCHITECTURES: dict[str, type[Codec]] = {
    "bmshj2018_factorized": FactorizedPrior,
    "bmshj2018_hyperprior": ScaleHyperprior,
    "mbt2018_mean": MeanScaleHyperprior,
    "mbt2018": JointAutoregressive,
}
"""By their names in CompressAI's zoo."""


def untrained(state: Mapping[str, Tensor]) -> Codec:
    """A codec of the architecture and the sizes of these weights, which are not loaded.

    Raises:
        ValueError: no architecture has such weights.
    """
    for architecture in ARCHITECTURES.values():
        with contextlib.suppress(KeyError, ValueError, AttributeError, IndexError, TypeError):
            return architecture.untrained(state)
    raise ValueError("no architecture has such weights")


def name_of(codec: Codec) -> str:
    """The name of a codec's architecture in CompressAI's zoo."""
    return next(name for name, architecture in ARCHITECTURES.items() if type(codec) is architecture)


def check(codec: Codec, path: str | Path) -> None:
    """Check what was read from ``path``, and compute the entropy tables where the file held none.

    Raises:
        UserError: a weight is not finite, or the entropy tables are none.
    """
    if not all(parameter.isfinite().all() for parameter in codec.parameters()):
        raise UserError(f"{path} holds weights that are not finite numbers: name an earlier checkpoint.")
    try:
        codec.make_tables()
    except (UserError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{path} has damaged entropy tables: copy it again or name another.") from error
