"""Equalization: rescale channels between layers to the same range, without changing the function.

INT8 has one scale per activation tensor; if one channel has a hundred times the range of another, the small one has
two levels of 256 left. A scale per channel passes through ReLU, LeakyReLU, upsampling, masks and PixelShuffle (which repeats
it), from the convolution that takes it in to the one that undoes it (Nagel et al., "Data-free quantization through weight
equalization and bias correction", 2019). It passes through a GDN too, because gamma couples squares of channels::

    IGDN:  y_i = x_i sqrt(beta_i + sum_j gamma_ij x_j^2)     GDN:  y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)

Dividing x_i by s_i (in the convolution before) and multiplying y_i by c_i (undone in the convolution after) turns gamma_ij
into gamma_ij s_j^2 (s_i c_i)^(+-2) and beta_i into beta_i (s_i c_i)^(+-2): plus for IGDN, minus for GDN. It works on lowered
transforms (`codecswap.graph.lower`), whose beta has no lower bound. Layers that replace a GDN implement
takes such scales (`codecswap.layers.gdn.PlainActivation.rescale`).
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.graph.leaves import Leaf, Leaves, leaves
from codecswap.graph.lower import LoweredGDN
from codecswap.layers.gdn import PlainActivation
from codecswap.layers.upsampling import ConstantMask

PASSED = (nn.ReLU, nn.LeakyReLU, nn.Upsample, nn.PixelShuffle, ConstantMask)
"""Layers whose outputs scale with their inputs, per channel."""
PASSED_FUNCTIONS = (torch.relu, F.relu, "relu", F.leaky_relu, F.pixel_shuffle)
"""Functions whose outputs scale with their inputs, per channel."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A leaf, or all leaves of a GDN or its replacement."""

    path: str
    module: nn.Module | None
    steps: list[Leaf]

    @property
    def output(self) -> str:
        """Name of its last leaf."""
        return self.steps[-1].name

    @property
    def rescaled(self) -> bool:
        """Whether scales begin and end at this layer."""
        return isinstance(self.module, nn.Conv2d | nn.ConvTranspose2d) or self.chooses

    @property
    def chooses(self) -> bool:
        """Whether it is an activation whose outputs may have other scales than its inputs."""
        return isinstance(self.module, PlainActivation) and not self.module.homogeneous

    @property
    def passes(self) -> bool:
        """Whether scales pass through this layer unchanged."""
        if isinstance(self.module, PlainActivation):
            return self.module.homogeneous
        return isinstance(self.module, PASSED) or (self.module is None and self.steps[0].function in PASSED_FUNCTIONS)

    @property
    def kind(self) -> str:
        """Class of the module, or name of the function, for messages."""
        function = self.steps[0].function
        return type(self.module).__name__ if self.module else getattr(function, "__name__", str(function))


@dataclass(frozen=True)
class Scaling:
    """Where a scale per channel is applied, which layers it passes, and where it is undone."""

    source: Layer
    passed: list[Layer]
    sink: Layer

    @property
    def tensor(self) -> str:
        """Name of the tensor that the sink reads."""
        return (self.passed[-1] if self.passed else self.source).output


@torch.no_grad()
def equalize(transform: nn.Module, samples: Iterable[Tensor]) -> dict[str, str]:
    """Equalize a transform in place: each channel that a convolution or GDN reads gets the largest magnitude 1 on the samples.

    Args:
        transform: result of `codecswap.graph.lower.lower`, of any shape.
        samples: its inputs, ``(B, C, H, W)`` each; a few are enough.

    Returns: reasons why outputs of some layers are not rescaled, by the layer's path, e.g.
        ``{"1.conv2": "add joins two scales"}``.
    """
    tree = leaves(transform)
    found, stopped = scalings(transform, tree)
    largest = _largest(
        tree, [layer.output for scaling in found for layer in (scaling.source, *scaling.passed)], samples
    )
    inside: dict[nn.Module | None, Tensor] = {}
    outside: dict[nn.Module | None, Tensor] = {}
    for scaling in found:
        scale = largest[scaling.tensor]
        scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))  # a channel of zeros is not rescaled
        source, sink = scaling.source.module, scaling.sink.module
        for layer in (scaling.source, *scaling.passed):
            channels = len(largest[layer.output])
            repeated = scale.repeat_interleave(channels // len(scale))  # where PixelShuffle follows
            if layer.chooses:
                outside[source] = 1 / repeated
            elif isinstance(layer.module, PlainActivation):
                layer.module.rescale(repeated, 1 / repeated)
            elif layer is scaling.source:
                _scale_outputs(source, 1 / repeated)
        if scaling.sink.chooses:
            inside[sink] = scale
        else:
            _scale_inputs(sink, scale)
    for gdn in dict.fromkeys([*inside, *outside]):
        assert isinstance(gdn, PlainActivation)
        unchanged = torch.ones_like(inside[gdn] if gdn in inside else outside[gdn])
        gdn.rescale(inside.get(gdn, unchanged), outside.get(gdn, unchanged))
    return stopped


@torch.no_grad()
def rescale_around(before: Scaling, after: Scaling, inside: Tensor, outside: Tensor) -> None:
    """Divide the channels that an activation reads by ``inside: (C,)``, and its outputs by ``outside: (C,)``, in place.

    The convolutions around it compensate this.
    """
    source: Any = before.source.module
    activation: Any = before.sink.module
    _scale_outputs(source, 1 / inside.repeat_interleave(source.out_channels // len(inside)))
    activation.rescale(inside, 1 / outside)
    _scale_inputs(after.sink.module, outside)


def scalings(transform: nn.Module, tree: Leaves) -> tuple[list[Scaling], dict[str, str]]:
    """All scalings of a transform with these leaves, and why outputs of other layers are not rescaled, by the layer's path."""
    layers = _layers(transform, tree)
    shared = {module for module, uses in Counter(id(one.module) for one in layers if one.rescaled).items() if uses > 1}
    found: list[Scaling] = []
    stopped: dict[str, str] = {}
    for layer in layers:
        if layer.rescaled:
            result = _follow(layer, layers, tree, shared)
            if isinstance(result, Scaling):
                found.append(result)
            elif result:
                stopped[layer.path] = result
    return found, stopped


def around_gdns(transform: nn.Module, tree: Leaves) -> dict[str, tuple[Scaling, Scaling]]:
    """The scalings before and after each lowered GDN between two plain convolutions, by its path."""
    found, _ = scalings(transform, tree)
    after = {one.source.path: one for one in found if not one.passed}
    pairs = [(one, after[one.sink.path]) for one in found if one.sink.path in after]
    return {
        first.sink.path: (first, second)
        for first, second in pairs
        if isinstance(first.sink.module, LoweredGDN)
        and all(isinstance(layer.module, nn.PixelShuffle) for layer in first.passed)
        and all(_is_plain(conv) for conv in (first.source.module, second.sink.module))
    }


def _is_plain(conv: nn.Module | None) -> bool:
    return isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and conv.groups == 1 and conv.bias is not None


def _layers(transform: nn.Module, tree: Leaves) -> list[Layer]:
    """All layers in order of execution."""
    activations = {path: one for path, one in transform.named_modules() if isinstance(one, PlainActivation)}
    result: list[Layer] = []
    for leaf in tree.steps:
        around = next((path for path in activations if leaf.path == path or leaf.path.startswith(f"{path}.")), None)
        if around is None:
            result.append(Layer(leaf.path, leaf.module, [leaf]))
        elif result and result[-1].path == around:
            result[-1].steps.append(leaf)
        else:
            result.append(Layer(around, activations[around], [leaf]))
    return result


def _follow(source: Layer, layers: Collection[Layer], tree: Leaves, shared: Collection[int]) -> Scaling | str:
    """How a scale on the outputs of ``source`` is undone, or why it cannot be; empty for the transform's own outputs."""
    passed: list[Layer] = []
    layer = source
    while True:
        if id(layer.module) in shared:
            return f"{layer.path} is used twice"
        readers = [one for one in layers if one is not layer and any(layer.output in leaf.inputs for leaf in one.steps)]
        if layer.output == tree.output or not readers:
            return ""
        if len(readers) > 1:
            return f"{len(readers)} layers read it"
        layer = readers[0]
        if layer.rescaled and id(layer.module) not in shared:
            return Scaling(source, passed, layer)
        if not layer.passes and not layer.rescaled:
            joins = len({name for leaf in layer.steps for name in leaf.inputs}) > 1
            return f"{layer.kind} joins two scales" if joins else f"no scale passes through {layer.kind}"
        passed.append(layer)


def _largest(tree: Leaves, tensors: Collection[str], samples: Iterable[Tensor]) -> dict[str, Tensor]:
    """Largest absolute value of each channel of some outputs."""
    found: dict[str, Tensor] = {}
    for sample in samples:
        values = tree.compute(sample)
        for name in tensors:
            largest = values[name].abs().amax(dim=(0, 2, 3))
            found[name] = torch.maximum(found.get(name, largest), largest)
    return found


def _scale_outputs(conv: nn.Module | None, scale: Tensor) -> None:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    if isinstance(conv, nn.ConvTranspose2d):  # (I, O / groups, kh, kw)
        grouped = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:])
        grouped *= scale.view(conv.groups, 1, -1, 1, 1)
    else:
        conv.weight *= scale[:, None, None, None]
    if conv.bias is not None:
        conv.bias *= scale


def _scale_inputs(conv: nn.Module | None, scale: Tensor) -> None:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    if isinstance(conv, nn.ConvTranspose2d):
        conv.weight *= scale[:, None, None, None]
    else:  # (O, I / groups, kh, kw)
        grouped = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:])
        grouped *= scale.view(conv.groups, 1, -1, 1, 1)
