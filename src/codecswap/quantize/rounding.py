"""Rounding weights to 8 bits so that outputs, not weights, stay where they were; in closed form, layer by layer.

A layer is first refitted: least squares, from the inputs it will really get (quantized by the layers before it) to the
outputs it had in float. Then its weights are rounded one input at a time, and what rounding one costs is taken over by
those not yet rounded, through the inverse of the inputs' Gram matrix (the method of Frantar et al., "GPTQ: accurate
post-training quantization for generative pre-trained transformers", 2022, and of Hassibi and Stork's optimal brain surgeon
before it). At last the bias takes up the mean of what is left. A layer that stays in float is refitted too, and not rounded:
it makes up for those before it.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.graph.leaves import OneLayer
from codecswap.layers.upsampling import from_phase_kernels, phase_taps, transposed_phase_kernels
from codecswap.least_squares import Sums, draw, patches, ridge_step

POSITIONS = 32768
"""Output positions that a layer is fitted to, drawn from all samples."""
RIDGE = 1e-3
"""Pull towards the weights a layer has, as a share of the mean energy of its inputs."""
BLOCK = 128
"""Inputs rounded before the others are brought up to date."""
FILLINGS = 8
"""Times that a row which leaves its last level unused is rounded again, to finer steps; most need one.

A toolchain that takes weights in float and finds their scales by itself (Rockchip's) finds ours only where a row's largest
weight is on the last level; elsewhere it would round once more.
"""


class SplitConv2d(OneLayer):
    """A convolution as the sum of two whose weights 8 bits hold: ``coarse``, and in finer steps ``fine``, what that lacks.

    It makes about 15 bits of 8, for twice the multiply-adds, and leaves nothing to round.

    Args:
        conv: it is left as it is.
        levels: largest whole number that a weight may become, of either sign.
    """

    @torch.no_grad()
    def __init__(self, conv: nn.Conv2d, levels: int) -> None:
        super().__init__()
        self.coarse, self.fine = copy.deepcopy(conv), copy.deepcopy(conv)
        step = conv.weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / levels
        self.coarse.weight.copy_((conv.weight / step).round() * step)
        self.fine.weight.copy_(conv.weight - self.coarse.weight)
        self.fine.bias = nn.Parameter(torch.zeros(len(step)), requires_grad=False)

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
    float_layers: Sequence[str] = (),
    untouched: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Refit and round the convolutions, transposed ones too, of an equalized lowered transform, in place.

    Those inside GDNs are left as they are: nearest rounding serves them well.

    Args:
        transform: what `codecswap.graph.lower.lower` returns.
        samples: what goes into it, ``(1, C, H, W)`` each.
        exact_input: what goes in is integers already.
        levels: largest whole number that a weight may become, of either sign.
        steps: in the range of what a layer gives to the next: 255 for 8 bits.
        float_layers: names of children that will not be quantized.
        untouched: those among them that are not refitted either.

    Returns: the scale ``(O,)`` of each rounded weight, by the parameter's name.
    """
    generator = torch.Generator().manual_seed(0)
    floats = list(samples)
    quantized = floats if exact_input else _fake_quantized(floats, steps)
    scales = {}
    for name, layer in transform.named_children():
        before, conv, after = _parts(layer)
        if conv is None or name in untouched:
            floats, quantized = [layer(x) for x in floats], [layer(x) for x in quantized]
        else:
            floats, quantized = [before(x) for x in floats], [before(x) for x in quantized]
            wanted = [conv(x) for x in floats]
            parameter = next(key for key, value in layer.named_parameters() if value is conv.weight)
            found = _round(conv, quantized, wanted, generator, None if name in float_layers else levels)
            if found is not None:
                scales[f"{name}.{parameter}"] = found
            floats, quantized = [after(x) for x in wanted], [after(conv(x)) for x in quantized]
        if name not in float_layers:
            quantized = _fake_quantized(quantized, steps)
    return scales


def _parts(layer: nn.Module) -> tuple[nn.Module, nn.Conv2d | nn.ConvTranspose2d | None, nn.Module]:
    """A layer as what comes before its convolution, the convolution (None: a GDN), and what comes after."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return nn.Identity(), layer, nn.Identity()
    if isinstance(layer, nn.Sequential):
        modules = list(layer)
        place = next((i for i, module in enumerate(modules) if isinstance(module, nn.Conv2d)), None)
        if place is not None:
            conv = modules[place]
            assert isinstance(conv, nn.Conv2d)
            return nn.Sequential(*modules[:place]), conv, nn.Sequential(*modules[place + 1 :])
    return nn.Identity(), None, nn.Identity()


def _fake_quantized(tensors: Sequence[Tensor], steps: int) -> list[Tensor]:
    """Rounded to ``steps`` steps of one range for all, zero among them."""
    low = min(0.0, *(x.min().item() for x in tensors))
    high = max(0.0, *(x.max().item() for x in tensors))
    step = max(high - low, 1e-12) / steps
    return [torch.round(x / step) * step for x in tensors]


def _round(
    conv: nn.Conv2d | nn.ConvTranspose2d,
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
    generator: torch.Generator,
    levels: int | None,
) -> Tensor | None:
    """Refit ``conv`` from ``inputs`` to ``wanted``, round its weight in place, and correct its bias; returns the scales.

    Without ``levels`` nothing is rounded, and there are none.

    A transposed convolution is four convolutions at low resolution, one for each phase of its output, which share scales
    and bias; each is fitted by itself, to the taps that it has.
    """
    if isinstance(conv, nn.ConvTranspose2d):
        wanted = [F.pixel_unshuffle(y, 2) for y in wanted]
        phases = transposed_phase_kernels(conv).double()  # (O, I, 2, 2, F, F)
        size, stride, padding, outputs = phases.shape[-1], 1, phases.shape[-1] // 2, len(phases)
        parts = [(p, q) for p in range(2) for q in range(2)]
        masks = [phase_taps(conv)[p, q].flatten().repeat(phases.shape[1]) for p, q in parts]
        weights = [phases[:, :, p, q].flatten(1)[:, mask] for (p, q), mask in zip(parts, masks, strict=True)]
        rows = [slice(2 * p + q, None, 4) for p, q in parts]
    else:
        size, stride, padding, outputs = conv.kernel_size[0], conv.stride[0], int(conv.padding[0]), conv.out_channels
        weights, rows = [conv.weight.double().flatten(1)], [slice(None)]
        masks = [torch.ones(weights[0].shape[1], dtype=torch.bool, device=conv.weight.device)]
    sums = Sums(len(masks[0]), wanted[0].shape[1], conv.weight.device)
    for x, y in zip(inputs, wanted, strict=True):
        places = draw(y, POSITIONS // len(inputs), generator)
        sums.add(patches(x, places, size, stride=stride, padding=padding), patches(y, places, 1))
    mean_in, mean_out = sums.inputs / sums.count, sums.targets / sums.count
    gram = sums.gram / sums.count - torch.outer(mean_in, mean_in)
    cross = sums.cross / sums.count - torch.outer(mean_in, mean_out)
    fits = [
        _refitted(gram[mask][:, mask], cross[mask][:, row], weight)
        for mask, row, weight in zip(masks, rows, weights, strict=True)
    ]
    scales, rounded = _filled(fits, levels) if levels else (None, [fitted for fitted, _ in fits])
    biases = [mean_out[row] - part @ mean_in[mask] for part, row, mask in zip(rounded, rows, masks, strict=True)]
    if isinstance(conv, nn.ConvTranspose2d):
        for (p, q), mask, part in zip(parts, masks, rounded, strict=True):
            kernel = part.new_zeros(outputs, len(mask))
            kernel[:, mask] = part
            phases[:, :, p, q] = kernel.view(outputs, -1, size, size)
        conv.weight.copy_(from_phase_kernels(phases, conv))
    else:
        conv.weight.copy_(rounded[0].view_as(conv.weight))
    bias = torch.stack(biases).mean(0).to(conv.weight.dtype)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return None if scales is None else scales.to(conv.weight.dtype)


def _refitted(gram: Tensor, cross: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight ``(O, K)`` refitted by least squares, and the inverse of the pulled Gram matrix ``(K, K)``."""
    energy = gram.diagonal().mean().clamp_min(0)
    pull = RIDGE * energy + 1e-12
    # by the second term the pull is towards weights a thousandth larger: the files measured in docs/deploy.md were made so
    missing = cross - gram @ weight.T + (RIDGE * (energy + pull) - pull) * weight.T
    while True:
        try:
            step, factor = ridge_step(gram.clone(), missing, pull)
        except torch.linalg.LinAlgError:
            if not gram.isfinite().all():
                raise
            pull = 10 * pull  # inputs hardly vary beside their means, and sums in float32 do not resolve how
        else:
            return weight + step.T, torch.cholesky_inverse(factor)


def _filled(fits: Sequence[tuple[Tensor, Tensor]], levels: int) -> tuple[Tensor, list[Tensor]]:
    """Round fitted weights ``(O, K)``, with their inverses, to common scales ``(O,)`` whose last level every row uses."""
    scales = torch.stack([fitted.abs().amax(1) for fitted, _ in fits]).amax(0).clamp_min(1e-12) / levels
    for _ in range(1 + FILLINGS):
        rounded = [_compensated(fitted, scales, inverse, levels) for fitted, inverse in fits]
        largest = torch.stack([part.abs().amax(1) for part in rounded]).amax(0) / scales
        missing = largest.round() < levels
        result = scales, rounded
        if not missing.any():
            break
        scales = torch.where(missing, scales * (largest / levels).clamp_min(0.5), scales)
    return result


def _compensated(weight: Tensor, scales: Tensor, inverse: Tensor, levels: int) -> Tensor:
    """Round ``weight: (O, K)`` to at most ``levels`` multiples of ``scales: (O,)``, the costliest inputs first.

    Args:
        inverse: of the inputs' Gram matrix, ``(K, K)``.
    """
    order = torch.argsort(inverse.diagonal())  # a small entry: an input with much energy of its own
    weight = weight[:, order].clone()
    upper = torch.linalg.cholesky(inverse[order][:, order], upper=True)
    step = scales[:, None]
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, start:stop])
        for place in range(start, stop):
            column = weight[:, place : place + 1]
            exact = column.clone()
            column.copy_((exact / step).round().clamp(-levels, levels) * step)
            error = (exact - column) / upper[place, place]
            weight[:, place + 1 : stop] -= error * upper[place, place + 1 : stop]
            errors[:, place - start] = error[:, 0]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    result = torch.empty_like(weight)
    result[:, order] = weight
    return result
