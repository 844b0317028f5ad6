"""``relu`` and ``none``: replace a GDN by a ReLU, or remove it. The next convolution is refitted, then all is trained."""

from torch import nn

from codecswap.layers.gdn import GDN, NoActivation, ReluActivation
from codecswap.swaps.swap import Swap


def _pointwise(name: str, kind: type[nn.Module], operators: tuple[str, ...]) -> Swap:
    return Swap(
        name=name,
        replaces=GDN,
        exact=False,
        operators=operators,
        refusal=lambda layer: None,
        build=lambda layer, size: kind(),
        fit=lambda new, layer: 0.0,  # it has no weights that could be fitted
        recognizes=lambda layer: isinstance(layer, kind),
        describe=lambda new: kind.__name__,
        trained=True,
    )


RELU = _pointwise("relu", ReluActivation, ("Relu",))
NONE = _pointwise("none", NoActivation, ())
