"""Round weights to 8 bits with the least change of a layer's outputs, in closed form, layer by layer.

A layer is first refitted by least squares, from its actual inputs (with all earlier layers quantized) to its
outputs in float. Then its weights are rounded one input at a time, and the remaining weights compensate the error,
using the inverse of the inputs' Gram matrix (the method of Frantar et al., "GPTQ: accurate
post-training quantization for generative pre-trained transformers", 2022, and of Hassibi and Stork's optimal brain surgeon
before it). Finally the bias is corrected by the mean error. A layer that stays in float is refitted, too, to
compensate the layers before it.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.graph.leaves import OneLayer
from codecswap.layers.gdn import PlainActivation
from codecswap.least_squares import Sums, draw, patches, ridge_step
from codecswap.quantize.float_and_rounded import FloatAndRounded, is_inside
from codecswap.quantize.gains import output_metrics
from codecswap.quantize.taps import Part, Taps, fits

POSITIONS = 32768
"""Number of output positions, drawn from all samples, that a layer is fitted to."""
RIDGE = 1e-3
"""Ridge regularization towards the current weights, relative to the mean energy of the inputs."""
INDEPENDENT = 0.5
"""Share of the positions that counts as independent of the others: neighboring ones see the same inputs."""
DAMPING = 0.01
"""Added to the diagonal of a metric, relative to its mean."""
ROW_BLOCKS = 32
"""Number of blocks of rows that are rounded one after the other; rows of a block do not compensate each other."""
BLOCK = 128
"""Number of inputs rounded before the remaining weights are updated."""
RESCALINGS = 8
"""How often a row that does not use its last level is rounded again with a finer step; most need one.

A toolchain that derives scales from float weights (Rockchip's) derives ours only if a row's largest
weight is on the last level; otherwise it would round again.
"""


class SplitConv2d(OneLayer):
    """A convolution as the sum of two with 8-bit weights: ``coarse``, and its error in finer steps, ``fine``.

    It gives about 15 bits, for twice the multiply-adds; its weights are already rounded.

    Args:
        conv: transposed or not; it is not changed.
        levels: largest integer that a weight may become, of either sign.
    """

    @torch.no_grad()
    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, levels: int) -> None:
        super().__init__()
        self.coarse, self.fine = copy.deepcopy(conv), copy.deepcopy(conv)
        others = (0, 2, 3) if isinstance(conv, nn.ConvTranspose2d) else (1, 2, 3)
        step = conv.weight.abs().amax(others, keepdim=True).clamp_min(1e-12) / levels
        self.coarse.weight.copy_((conv.weight / step).round() * step)
        self.fine.weight.copy_(conv.weight - self.coarse.weight)
        self.fine.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, I, H, W) -> (B, O, H', W')``."""
        return self.coarse(x) + self.fine(x)


@torch.no_grad()
def round_weights(
    transform: nn.Module,
    samples: Sequence[Tensor],
    *,
    exact_input: bool,
    levels: int,
    steps: int = 255,
    float_layers: Collection[str] = (),
    untouched: Collection[str] = (),
    split_layers: Collection[str] = (),
    wide_layers: Collection[str] = (),
    output_weight: Tensor | None = None,
    known_ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Refit and round all (transposed) convolutions of an equalized lowered transform, in place.

    Those inside GDNs are not changed: round-to-nearest is good enough for them.

    Args:
        transform: result of `codecswap.graph.lower.lower`, of any shape.
        samples: its inputs, ``(1, C, H, W)`` each.
        exact_input: the inputs are integers already.
        levels: largest integer that a weight may become, of either sign.
        steps: quantization steps of tensors between layers: 255 for 8 bits.
        float_layers: paths of layers (or modules) that will not be quantized.
        untouched: layers that are neither refitted nor rounded.
        split_layers: layers whose convolutions become a `SplitConv2d`.
        wide_layers: layers whose outputs have 16 bits.
        output_weight: weights of the squared errors of the transform's output; None: 1.
        known_ranges: as in `FloatAndRounded`.

    Returns: scale ``(O,)`` of each rounded weight, by the parameter's name.
    """
    generator = torch.Generator().manual_seed(0)
    walk = FloatAndRounded(
        transform,
        samples,
        exact_input=exact_input,
        steps=steps,
        float_layers=float_layers,
        wide_layers=wide_layers,
        known_ranges=known_ranges,
    )
    left = [path for path, one in transform.named_modules() if isinstance(one, PlainActivation)]
    left += untouched
    chosen = {
        leaf.name: place
        for place, leaf in enumerate(walk.tree.steps)
        if isinstance(leaf.module, nn.Conv2d | nn.ConvTranspose2d)
        and not is_inside(leaf.path, left)
        and fits(leaf.module)
        and leaf.name == leaf.path  # not a second call
    }
    rounded = [path for path in chosen if not is_inside(path, [*float_layers, *split_layers])]
    metrics = output_metrics(walk.float_tree, samples, rounded, output_weight)
    scales: dict[str, Tensor] = {}
    for path, place in chosen.items():
        conv: Any = transform.get_submodule(path)
        rounding = Rounding(levels, metrics.get(path)) if path in rounded else None
        found = _refit_and_round(conv, walk.at(place), POSITIONS // len(samples), generator, rounding)
        if rounding:
            scales[f"{path}.weight"] = found
    return scales


def split_weights(transform: nn.Module, layers: Collection[str], levels: int) -> None:
    """Replace the convolutions of some layers (paths), except inside GDNs, by `SplitConv2d` in place."""
    left = [path for path, one in transform.named_modules() if isinstance(one, PlainActivation)]
    for path, conv in list(transform.named_modules()):
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and is_inside(path, layers) and not is_inside(path, left):
            transform.set_submodule(path, SplitConv2d(conv, levels))


@dataclass(frozen=True)
class Rounding:
    """How to round a layer's weights."""

    levels: int
    """As in `round_weights`."""
    metric: Tensor | None
    """`codecswap.quantize.gains.output_metrics` of the layer, ``(O, O)``; None: errors of all outputs count alike."""


@dataclass(frozen=True)
class _Fit:
    """Least-squares fit of outputs that depend on the same inputs."""

    weight: Tensor
    """Refitted weights, ``(O, K)``."""
    order: Tensor
    """Order of the inputs, ``(K,)``: the costliest to round first."""
    upper: Tensor
    """Cholesky factor ``(K, K)`` of the inverse of the inputs' Gram matrix, in that order."""


def _refit_and_round(
    conv: nn.Conv2d | nn.ConvTranspose2d,
    pairs: Iterable[tuple[Tensor, Tensor]],
    positions: int,
    generator: torch.Generator,
    rounding: Rounding | None,
) -> Tensor:
    """Refit ``conv`` from inputs to outputs, round its weight in place, and correct its bias; returns the scales ``(O,)``.

    The phases of a transposed convolution share scales and bias; each phase is fitted separately, with its own taps.

    Args:
        pairs: inputs and outputs, ``(1, I, H, W)`` and ``(1, O, H', W')``.
        positions: number of positions drawn from each.
        rounding: None: do not round.
    """
    taps, sums = Taps(conv), None
    for x, y in pairs:
        targets = taps.outputs(y)
        places = draw(targets, positions, generator)
        inputs = taps.inputs(x, targets, places)
        sums = sums or Sums(inputs.shape[1], targets.shape[1], inputs.device)
        sums.add(inputs, patches(targets, places, 1))
    assert sums is not None
    mean_in, mean_out = sums.inputs / sums.count, sums.targets / sums.count
    gram, cross = sums.gram.div_(sums.count), sums.cross.div_(sums.count)
    gram -= torch.outer(mean_in, mean_in)
    cross -= torch.outer(mean_in, mean_out)
    weight, bias = conv.weight.detach().flatten().double(), mean_out  # of each channel and phase
    scales = weight.new_zeros(conv.out_channels)
    for _, group in groupby(taps.parts, lambda part: part.channels.tolist()):
        parts = list(group)
        fits = []
        for part in parts:
            all_of_it = len(taps.parts) == 1 and len(part.inputs) == len(gram)  # avoid a large copy
            own = gram if all_of_it else gram[part.inputs[:, None], part.inputs]
            fits.append(_refitted(own, cross[part.inputs[:, None], part.outputs], weight[part.weights], sums.count))
        made = [fit.weight for fit in fits]
        if rounding:
            metric = rounding.metric
            metrics = [None if metric is None else _of_outputs(metric, part) for part in parts]
            scales[parts[0].channels], made = _rounded(fits, rounding.levels, metrics)
        for part, rows in zip(parts, made, strict=True):
            weight[part.weights] = rows
            bias[part.outputs] -= rows @ mean_in[part.inputs]
    conv.weight.copy_(weight.view_as(conv.weight))
    conv.bias = nn.Parameter(bias.view(conv.out_channels, -1).mean(1).to(conv.weight.dtype), requires_grad=False)
    return scales.to(conv.weight.dtype)


def _refitted(gram: Tensor, cross: Tensor, weight: Tensor, count: int) -> _Fit:
    """Least squares with a ridge towards ``weight: (O, K)``; ``gram: (K, K)`` is changed in place.

    Correlations of K inputs, estimated at ``count`` positions, are shrunk towards 0 the more, the fewer positions there are
    for each input (Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004): otherwise
    weights would compensate each other on the calibration pictures, and not on others.
    """
    ridge = RIDGE * gram.diagonal().mean().clamp_min(0) + 1e-12
    missing, added = cross - gram @ weight.T, torch.zeros_like(ridge)
    energy = gram.diagonal().clone()
    gram.mul_(1 - len(gram) / (len(gram) + INDEPENDENT * count)).diagonal().copy_(energy)
    while True:
        try:
            step, factor = ridge_step(gram, missing, ridge - added)
        except torch.linalg.LinAlgError:
            if not gram.isfinite().all():
                raise
            added, ridge = (
                ridge,
                10 * ridge,
            )  # variances much smaller than the means are not resolved by float32 sums
        else:
            break
    inverse = torch.cholesky_inverse(factor)
    order = torch.argsort(inverse.diagonal())  # small entry: an input with high energy of its own
    upper = torch.linalg.cholesky(inverse[order[:, None], order], upper=True)
    return _Fit(weight + step.T, order, upper)


def _of_outputs(metric: Tensor, part: Part) -> Tensor:
    """The metric of a part's outputs; all phases of a transposed convolution have the same one."""
    return metric[part.channels[:, None], part.channels]


def _rounded(fits: Sequence[_Fit], levels: int, metrics: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
    """Round fitted weights with common scales ``(O,)``, such that each row uses the last level.

    With a metric G ``(O, O)`` of errors of the outputs, rows are rounded block by block, and later rows compensate the errors E
    of earlier ones where that lowers ``tr(E^T G E H)``, with the inputs' Gram matrix H: with ``G = L^T L`` (L lower triangular)
    that is the sum of ``|L_i E|^2`` over rows, to which only rows up to i contribute.
    """
    count = len(fits[0].weight)
    known = [metric.diagonal() for metric in metrics if metric is not None]
    order = torch.argsort(torch.stack(known).sum(0), descending=True) if known else torch.arange(count)
    lower = [None if metric is None else _factor(metric[order[:, None], order]) for metric in metrics]
    scales = fits[0].weight.new_zeros(count)
    rounded = [torch.empty_like(fit.weight) for fit in fits]
    errors = [torch.zeros_like(fit.weight) for fit in fits]  # in that order
    step = max(1, -(-count // ROW_BLOCKS)) if known else count
    for start in range(0, count, step):
        block = slice(start, start + step)
        rows, wanted = order[block], []
        for fit, factor, error in zip(fits, lower, errors, strict=True):
            shift = 0.0
            if factor is not None and start:
                seen = factor[block, :start] @ error[:start]
                shift = torch.linalg.solve_triangular(factor[block, block], seen, upper=False)
            wanted.append(replace(fit, weight=fit.weight[rows] - shift))
        scales[rows], made = _rounded_rows(wanted, levels)
        for one, fit, result, error in zip(made, fits, rounded, errors, strict=True):
            result[rows] = one
            error[block] = one - fit.weight[rows]
    return scales, rounded


def _factor(metric: Tensor) -> Tensor:
    """The lower triangular L with ``L^T L = metric``, which is damped."""
    damped = metric.clone()
    damped.diagonal().add_(DAMPING * metric.diagonal().mean() + 1e-30)
    return torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1).T


def _rounded_rows(fits: Sequence[_Fit], levels: int) -> tuple[Tensor, list[Tensor]]:
    """Round some rows of fitted weights: as `_rounded`, without a metric."""
    scales = torch.stack([fit.weight.abs().amax(1) for fit in fits]).amax(0).clamp_min(1e-12) / levels
    rounded = [_compensated(fit, slice(None), scales, levels) for fit in fits]
    for _ in range(RESCALINGS):
        largest = torch.stack([part.abs().amax(1) for part in rounded]).amax(0) / scales
        rows = (largest.round() < levels).nonzero()[:, 0]
        if not len(rows):
            break
        scales[rows] *= (largest[rows] / levels).clamp_min(0.5)
        for part, fit in zip(rounded, fits, strict=True):
            part[rows] = _compensated(fit, rows, scales[rows], levels)
    return scales, rounded


def _compensated(fit: _Fit, rows: Tensor | slice, scales: Tensor, levels: int) -> Tensor:
    """Round some rows to integers in +-``levels`` times their ``scales``, the costliest inputs first.

    Column by column these are operations of a few numbers, which NumPy starts faster than PyTorch.
    """
    weight, step = fit.weight[rows][:, fit.order], scales.cpu().numpy()
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        columns = weight[:, start:stop].T.contiguous().cpu().numpy()
        upper = fit.upper[start:stop, start:stop].cpu().numpy()
        errors = np.empty_like(columns)
        for place, column in enumerate(columns):
            exact = column.copy()
            column[:] = np.minimum(np.maximum(np.rint(exact / step), -levels), levels) * step
            errors[place] = (exact - column) / upper[place, place]
            columns[place + 1 :] -= upper[place, place + 1 :, None] * errors[place]
        weight[:, start:stop] = torch.from_numpy(columns.T)
        weight[:, stop:] -= torch.from_numpy(errors.T).to(weight.device) @ fit.upper[start:stop, stop:]
    result = torch.empty_like(weight)
    result[:, fit.order] = weight
    return result
