"""``gdn1``: ``x (beta + gamma |x|)``, or the division by it; fitted to a GDN, then trained.

Johnston et al., "Computationally efficient neural image compression", 2019.
"""

import torch
from torch import Tensor

from codecswap.layers.gdn import GDN, GDN1, effective
from codecswap.swaps.activation_fit import ActivationFit
from codecswap.swaps.swap import Swap, decibels

SWEEPS = 60
"""Sweeps of coordinate descent; it converges in about 30."""


def non_negative(gram: Tensor, cross: Tensor) -> Tensor:
    """The non-negative least-squares solutions of many systems: ``(C, K, K)`` and ``(C, K)`` to ``(C, K)``.

    Coordinate descent: each unknown in turn takes its best value while the others stay.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-300)
    solution = torch.zeros_like(cross)
    left = cross.clone()  # cross - gram @ solution
    for _ in range(SWEEPS):
        for place in range(cross.shape[1]):
            now = (solution[:, place] + left[:, place] / diagonal[:, place]).clamp_min(0)
            left -= gram[:, :, place] * (now - solution[:, place])[:, None]
            solution[:, place] = now
    return solution


def fit_gain(x: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The non-negative ``beta + gamma |x|`` closest to a gain, channel by channel.

    Args:
        x: inputs, ``(P, C)``.
        target: gains wanted, ``(P, C)``, positive.
        weight: weights of the squared errors, ``(P, C)``, non-negative.

    Returns: ``beta: (C,)`` and ``gamma: (C, C)``, in float64.
    """
    scale = x.abs().mean(0).double().clamp_min(1e-30)
    features = torch.cat([torch.ones_like(x[:, :1]), x.abs() / scale], 1).double()
    weight, target = weight.double(), target.double()
    weight = weight / weight.mean(0).clamp_min(1e-300)
    gram = torch.stack([(features * one[:, None]).T @ features for one in weight.T])
    cross = torch.einsum("pk,pc->ck", features, weight * target)
    solution = non_negative(gram, cross)
    return solution[:, 0], solution[:, 1:] / scale


class Gdn1Fit(ActivationFit[GDN1]):
    """``beta + gamma |x|`` instead of the square root."""

    def solve(self, ridge: float) -> tuple[float, float]:  # noqa: D102
        x, layer = self.samples, self.layer
        beta, gamma = effective(self.original)
        root = (x.square() @ gamma.T + beta).sqrt()
        before = self._error(x, root)
        # derivative of x / root by the root: x / root^2
        weight = x.square() if self.original.inverse else x.square() / root**4
        beta, gamma = fit_gain(x, root, weight)
        layer.beta.data.copy_(layer.beta_reparam.init(beta.to(layer.beta)))
        layer.gamma.data.copy_(layer.gamma_reparam.init(gamma.to(layer.gamma)))
        return before, self._error(x, root)

    def _error(self, x: Tensor, root: Tensor) -> float:
        """Relative error of the output, in dB, up to a factor per channel, which the next convolution can absorb."""
        wanted = x * root if self.original.inverse else x / root
        given = self.layer(x[:, :, None, None])[:, :, 0, 0]
        factor = (wanted * given).sum(0) / given.square().sum(0).clamp_min(1e-30)
        return decibels((factor * given - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30))


def _build(layer: GDN, size: int | None) -> GDN1:
    return GDN1(len(layer.beta), inverse=layer.inverse)


@torch.no_grad()
def _fit(new: GDN1, layer: GDN) -> float:
    """Fit without samples, for normally distributed inputs of variance 1."""
    fit = Gdn1Fit(new, layer)
    fit.inputs.append(torch.randn(2048, len(layer.beta), generator=torch.Generator().manual_seed(0)).to(layer.beta))
    return fit.solve(0.0)[1]


GDN1_SWAP = Swap(
    name="gdn1",
    replaces=GDN,
    exact=False,
    operators=("Abs", "Conv", "Mul"),
    refusal=lambda layer: None,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, GDN1),
    describe=lambda new: f"{'I' if new.inverse else ''}GDN1({len(new.beta)})",
    calibration=Gdn1Fit,
    trained=True,
)
