"""``rsqrt``: a GDN with a reciprocal square root, for targets that have no Sqrt or no Div. Exact."""

from codecswap.layers.gdn import GDN, RsqrtGDN
from codecswap.swaps.swap import Swap


def _build(layer: GDN, size: int | None) -> RsqrtGDN:
    return RsqrtGDN(len(layer.beta), inverse=layer.inverse)


def _fit(new: RsqrtGDN, layer: GDN) -> float:
    new.load_state_dict(layer.state_dict())
    return float("-inf")


RSQRT = Swap(
    name="rsqrt",
    replaces=GDN,
    exact=True,
    operators=("Conv", "Mul", "Reciprocal", "Sqrt"),
    refusal=lambda layer: None,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, RsqrtGDN),
    describe=lambda new: f"{'I' if new.inverse else ''}GDN({len(new.beta)}) with rsqrt",
)
