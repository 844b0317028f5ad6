"""``ramps``: piecewise-linear square root of a GDN, in operators that every NPU has. Closed form, nearly exact."""

import torch
from torch import Tensor

from codecswap.layers.gdn import GDN, RampGDN, effective
from codecswap.swaps.activation_fit import ActivationFit
from codecswap.swaps.swap import Swap, decibels

PIECES = 4
"""Default number of ramps per channel."""
MOST = 8
"""Largest number of ramps per channel."""
KNOTS = 24
"""Candidate positions of ramps per channel."""
DECADES = 3.0
"""Assumed range of the norm above beta if there are no samples."""


def fit_ramps(norm: Tensor, weight: Tensor, pieces: int, *, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least-squares fit of ``sqrt(n)`` or ``1 / sqrt(n)`` by a constant and ramps, per channel.

    The ramps are ``relu(n - t)`` for ``sqrt`` (the first with ``t = 0``: a straight line) and ``relu(t - n)`` for
    ``1 / sqrt`` (beyond the largest ``t`` it stays constant, and so never changes its sign). Ramps are added one at a time,
    each where it leaves the smallest error, and those before it may then move.

    Args:
        norm: ``(P, C)``, samples of n, positive.
        weight: ``(P, C)``, weight of each squared error; non-negative.
        pieces: number of ramps, at least 1.
        inverse: ``sqrt`` (as in an inverse GDN) instead of ``1 / sqrt``.

    Returns: ``t: (C, pieces)``, the slopes ``(C, pieces)``, the constant ``(C,)``, in float64.
    """
    norm, weight = norm.double().T, weight.double().T  # (C, P)
    weight = weight / weight.mean(1, keepdim=True).clamp_min(1e-300)
    target = norm.sqrt() if inverse else norm.rsqrt()
    knots = _candidates(norm, weight, inverse=inverse)
    basis = torch.cat([torch.ones_like(norm)[:, None], ramps(norm[:, None], knots[:, :, None], inverse=inverse)], 1)
    scale = basis.square().mean(2).sqrt().clamp_min(1e-300)
    basis = basis / scale[:, :, None]
    weighted = basis * weight[:, None]
    gram = weighted @ basis.transpose(1, 2)
    cross = (weighted @ target[:, :, None])[:, :, 0]
    chosen = torch.zeros(len(norm), 2, dtype=torch.long, device=norm.device)
    chosen[:, 1] = 1  # the constant, and the ramp without a limit
    for count in range(2, pieces + 1):
        chosen = torch.cat([chosen, chosen[:, :1]], 1)
        for place in [count, *range(2, count + 1)] if count > 2 else [count]:
            chosen[:, place] = _best(gram, cross, chosen, place)
    slopes = _solve(gram, cross, chosen)[0] / scale.gather(1, chosen)
    return knots.gather(1, chosen[:, 1:] - 1), slopes[:, 1:], slopes[:, 0]


def ramps(norm: Tensor, knots: Tensor, *, inverse: bool) -> Tensor:
    """Ramps that begin at ``knots``: towards larger norms, or (not ``inverse``) towards smaller ones."""
    return torch.relu(norm - knots if inverse else knots - norm)


def _candidates(norm: Tensor, weight: Tensor, *, inverse: bool) -> Tensor:
    """Candidate knots, ``(C, KNOTS)``: one outside all samples, half logarithmically spaced, half at quantiles."""
    low, high = norm.amin(1, keepdim=True), norm.amax(1, keepdim=True)
    steps = torch.linspace(0, 1, KNOTS // 2 + 2, dtype=norm.dtype, device=norm.device)[1:-1]
    even = low * (high / low).clamp_min(1 + 1e-9) ** steps
    ordered, order = norm.sort(1)
    mass = (weight * norm).gather(1, order).cumsum(1)
    places = torch.searchsorted(mass, steps[:-1] * mass[:, -1:]).clamp_max(norm.shape[1] - 1)
    first = torch.zeros_like(low) if inverse else high
    return torch.cat([first, even, ordered.gather(1, places)], 1)


def _solve(gram: Tensor, cross: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the chosen ramps ``(..., k)``, and by how much they reduce the error."""
    rows = torch.arange(len(gram), device=gram.device).view(-1, *[1] * (chosen.dim() - 1))
    system = gram[rows[..., None], chosen[..., :, None], chosen[..., None, :]]
    right = cross[rows, chosen]
    ridge = 1e-9 * system.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-300
    system = system + ridge[..., None, None] * torch.eye(chosen.shape[-1], dtype=gram.dtype, device=gram.device)
    slopes = torch.linalg.solve(system, right)
    return slopes, (slopes * right).sum(-1)


def _best(gram: Tensor, cross: Tensor, chosen: Tensor, place: int) -> Tensor:
    """Index of the best ramp for one position while the others are fixed, ``(C,)``."""
    trial = chosen[:, None].repeat(1, gram.shape[1] - 2, 1)
    trial[:, :, place] = torch.arange(2, gram.shape[1], device=gram.device)
    return 2 + _solve(gram, cross, trial)[1].argmax(1)


def _write(new: RampGDN, layer: GDN, fitted: tuple[Tensor, Tensor, Tensor], largest: Tensor) -> None:
    """Write ramps ``(t, slopes, constant)`` into the two convolutions; each ramp is scaled to 1 at n = ``largest``."""
    (beta, gamma), (knots, slopes, constant) = (one.double() for one in effective(layer)), fitted
    channels, pieces = slopes.shape
    ends = ramps(largest[:, None], knots, inverse=True) if layer.inverse else knots - beta[:, None]
    ends = torch.where(ends > 1e-9 * largest[:, None], ends, largest[:, None])
    sign = (1 if layer.inverse else -1) / ends
    new.norm.weight.data.copy_((sign[:, :, None] * gamma[:, None]).view(-1, channels, 1, 1))
    assert new.norm.bias is not None and new.root.bias is not None
    new.norm.bias.data.copy_((sign * (beta[:, None] - knots)).flatten())
    block = torch.zeros(channels, channels, pieces, dtype=torch.float64, device=slopes.device)
    block[range(channels), range(channels)] = slopes * ends
    new.root.weight.data.copy_(block.view(channels, -1, 1, 1))
    new.root.bias.data.copy_(constant)


def _build(layer: GDN, size: int | None) -> RampGDN:
    return RampGDN(len(layer.beta), size or PIECES)


def _pieces(new: RampGDN) -> int:
    return new.norm.out_channels // new.norm.in_channels


def _fit(new: RampGDN, layer: GDN) -> float:
    """Fit without samples, to norms spaced logarithmically from beta to some decades above it."""
    beta = effective(layer)[0].double()
    norm = beta * torch.logspace(0, DECADES, 256, dtype=torch.float64, device=beta.device)[:, None]
    weight = 1 / norm if layer.inverse else norm
    fitted = fit_ramps(norm, weight, _pieces(new), inverse=layer.inverse)
    _write(new, layer, fitted, norm[-1])
    target = norm.sqrt() if layer.inverse else norm.rsqrt()
    left = weight * (_value(norm, fitted, inverse=layer.inverse) - target).square()
    return decibels(left.sum() / (weight * target.square()).sum())


def _value(norm: Tensor, fitted: tuple[Tensor, Tensor, Tensor], *, inverse: bool) -> Tensor:
    knots, slopes, constant = fitted
    return constant + (slopes * ramps(norm[:, :, None], knots, inverse=inverse)).sum(2)


class RampFit(ActivationFit[RampGDN]):
    """Fit of the ramps of one layer."""

    def solve(self, ridge: float) -> tuple[float, float]:  # noqa: D102
        x = self.samples
        beta, gamma = effective(self.original)
        norm = x.square().double() @ gamma.double().T + beta.double()
        wanted = self.original(x[:, :, None, None])
        variance = (wanted - wanted.mean(0)).square().sum().clamp_min(1e-300)

        def error() -> float:
            return decibels((self.layer(x[:, :, None, None]) - wanted).square().sum() / variance)

        before = error()
        fitted = fit_ramps(norm, x.square(), _pieces(self.layer), inverse=self.original.inverse)
        _write(self.layer, self.original, fitted, norm.amax(0))
        return before, error()


RAMPS = Swap(
    name="ramps",
    replaces=GDN,
    exact=False,
    operators=("Conv", "Mul", "Relu"),
    refusal=lambda layer: None,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, RampGDN),
    describe=lambda new: f"Ramps({new.norm.in_channels}, {_pieces(new)} pieces)",
    calibration=RampFit,
    sizes=tuple(range(1, MOST + 1)),
    size_of=_pieces,
)
