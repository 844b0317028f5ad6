"""Lowering: rewrite a codec's transforms, with their weights, in a few operators that NPU converters accept.

What only training needs is removed: GDN's reparametrization is folded into the weights of a 1x1 convolution, its
square becomes a product, and masks become constants. The function stays the same, up to float rounding.
"""

import copy
import math
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.graph.leaves import INPUT, OneLayer, leaves
from codecswap.inference.split_inputs import SplitInputs
from codecswap.layers.gdn import GDN, GDN1, PlainActivation, RsqrtGDN, effective
from codecswap.layers.upsampling import ConstantMask, MaskedConv, SubpixelConv, UpsampleConv2d
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps.masked import MASKED
from codecswap.swaps.subpixel import SUBPIXEL
from codecswap.swaps.swap import Swap

FORMS: dict[str, Swap] = {"masked": MASKED, "subpixel": SUBPIXEL}
"""For each ``--form`` except native: the exact swap that rewrites upsampling layers."""
LATENTS = "latents"
"""The layer that adds split inputs up to latents, where several layers read them."""


class LoweredGDN(PlainActivation):
    """GDN or IGDN in Conv, Mul, Sqrt and Div: ``x / sqrt(beta + gamma x^2)`` or ``x * sqrt(beta + gamma x^2)``.

    With ``reciprocal``: Conv, Mul, Sqrt and Reciprocal. ONNX has no Rsqrt; converters fuse the last two into one.

    ``(B, C, H, W) -> (B, C, H, W)``; ``norm.weight: (C, C, 1, 1)`` is gamma and ``norm.bias: (C,)`` is beta.
    """

    def __init__(self, beta: Tensor, gamma: Tensor, *, inverse: bool, reciprocal: bool = False) -> None:
        super().__init__()
        self.inverse, self.reciprocal = inverse, reciprocal
        self.norm = _conv(gamma[:, :, None, None], beta)

    @classmethod
    def of(cls, gdn: GDN) -> "LoweredGDN":
        """The same function as ``gdn``."""
        return cls(*effective(gdn), inverse=gdn.inverse, reciprocal=isinstance(gdn, RsqrtGDN))

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        norm = self.norm(x * x)  # x ** 2 would be exported as Pow
        if self.reciprocal:
            root = torch.sqrt(norm).reciprocal()
            return x * (norm * root) if self.inverse else x * root
        root = torch.sqrt(norm)
        return x * root if self.inverse else x / root

    def rescale(self, inside: Tensor, outside: Tensor) -> None:  # noqa: D102
        factor = (inside * outside).square()
        factor = factor if self.inverse else 1 / factor
        self.norm.weight *= factor[:, None, None, None] * inside.square()[None, :, None, None]
        assert self.norm.bias is not None
        self.norm.bias *= factor


class LoweredGDN1(PlainActivation):
    """GDN1 or its inverse in Abs, Conv, and Div or Mul: ``x / (beta + gamma |x|)`` or ``x * (beta + gamma |x|)``.

    Shapes and names as in `LoweredGDN`.
    """

    def __init__(self, gdn: GDN1) -> None:
        super().__init__()
        beta, gamma = effective(gdn)
        self.inverse = gdn.inverse
        self.norm = _conv(gamma[:, :, None, None], beta)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, C, H, W) -> (B, C, H, W)``."""
        norm = self.norm(x.abs())
        return x * norm if self.inverse else x / norm

    def rescale(self, inside: Tensor, outside: Tensor) -> None:  # noqa: D102
        factor = inside * outside if self.inverse else 1 / (inside * outside)
        self.norm.weight *= factor[:, None, None, None] * inside[None, :, None, None]
        assert self.norm.bias is not None
        self.norm.bias *= factor


class LayerParts(nn.Sequential, OneLayer):
    """One layer of the codec, written as several modules."""


def lower(transform: nn.Module, form: Form = "native", *, prefix: str = "g_s") -> nn.Module:
    """Return a lowered copy of a transform (a module tree of any shape); the original is not changed.

    Args:
        transform: ``g_a``, ``g_s`` or another, with (transposed) convolutions, GDNs and this project's layers anywhere.
        form: lowering of the layers that upsample by 2.
        prefix: name of the transform in the codec, for messages.

    Returns: the copy, in evaluation mode, where every convolution has a bias. Masks fit any size; files fix theirs
        (`codecswap.graph.trace`).

    Raises:
        UserError: a layer has no such lowering, or the transform is already quantized.
    """
    if isinstance(transform, QuantizedSynthesis):
        raise UserError(
            "The decoder was fine-tuned with --quantized and has no float weights: write it with `codecswap quantize`, or with "
            "`codecswap compile` for the NPU that it was trained for."
        )
    result = nn.Sequential(OrderedDict(root=copy.deepcopy(transform)))  # so that the tree itself may be replaced
    replaced: dict[int, nn.Module | None] = {}
    done = None
    for path, layer in list(result.named_modules(remove_duplicate=False)):
        if not path or (done and path.startswith(f"{done}.")):
            continue
        if id(layer) not in replaced:
            replaced[id(layer)] = _lowered_layer(path.replace("root", prefix, 1), layer, form)
        if (new := replaced[id(layer)]) is not None:
            result.set_submodule(path, new)
            done = path
    for layer in result.modules():  # integer convolutions of ONNX Runtime and TFLite need a bias
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels))
    return result.eval().requires_grad_(False).get_submodule("root")


def first_convolution(transform: nn.Module) -> nn.Conv2d | nn.ConvTranspose2d | None:
    """The only layer that reads the input of a lowered transform, directly or after upsampling.

    Returns: None if several layers read the input, or if the layer is not a convolution.
    """
    tree, name = leaves(transform), INPUT
    while len(readers := tree.consumers(name)) == 1:
        name, module = readers[0].name, readers[0].module
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            return module
        if not isinstance(module, nn.Upsample | ConstantMask):
            return None
    return None


@torch.no_grad()
def take_split_inputs(
    transform: nn.Module, layout: SplitInputs, medians: np.ndarray
) -> tuple[nn.Module, SplitInputs] | None:
    """Make a lowered synthesis transform of latents take split inputs (`codecswap.inference.split_inputs`).

    Its `first_convolution` takes them, in place. Where several layers read the latents, a 1x1 convolution that adds the
    inputs up to the latents, called ``latents``, goes before them.

    Args:
        layout: layout of its new input; its constant is chosen here.
        medians: medians of the latents, ``(M,)``; zeros where means are predicted.

    Returns: the transform and the layout; None: several layers read the latents, and it is no
        ``nn.Sequential``, so that nothing can go before them.
    """
    first = first_convolution(transform)
    conv = first if first is not None and first.groups == 1 else None
    if conv is None:
        if not isinstance(transform, nn.Sequential):
            return None
        conv = _conv(torch.eye(len(medians))[:, :, None, None], torch.zeros(len(medians)))
        transform = nn.Sequential(OrderedDict([(LATENTS, conv), *transform.named_children()])).eval()
    axis = 0 if isinstance(conv, nn.ConvTranspose2d) else 1
    left = torch.from_numpy(medians - np.rint(medians))
    constant = (conv.weight * left.view((-1, 1, 1, 1) if axis == 0 else (1, -1, 1, 1))).sum(axis, keepdim=True)
    # a constant above 1 keeps its weights from widening the others' range
    value = max(1, math.ceil((constant.abs().amax() / conv.weight.abs().amax()).item()))
    spread = conv.weight.index_select(axis, torch.tensor(layout.channels)) * 2.0**-layout.fractional_bits
    conv.weight = nn.Parameter(torch.cat([spread, constant / value], axis), requires_grad=False)
    return transform, replace(layout, constant=value)


def _lowered_layer(name: str, layer: nn.Module, form: Form) -> nn.Module | None:
    """The module that replaces a layer; None to keep it, or to lower its children."""
    if isinstance(layer, GDN1):
        return LoweredGDN1(layer)
    if isinstance(layer, GDN):
        return LoweredGDN.of(layer)
    written_as = FORMS.get(form)
    if written_as and isinstance(layer, written_as.replaces):
        if reason := written_as.refusal(layer):
            raise UserError(f"The layer {name} cannot be exported with --form {form}: {reason}.")
        layer, _ = written_as.replace(layer)
    if isinstance(layer, SubpixelConv):
        if form == "masked":
            raise UserError(
                f"The layer {name} is a subpixel convolution, which has no form with Resize: leave out --form masked."
            )
        return layer
    if isinstance(layer, MaskedConv):
        return layer
    if isinstance(layer, UpsampleConv2d):
        return _folded(layer) if written_as is SUBPIXEL else _unfolded(layer)
    return None


def _folded(layer: UpsampleConv2d) -> nn.Module:
    bias = None if layer.conv.bias is None else layer.conv.bias.detach().repeat_interleave(4)
    return LayerParts(_conv(layer.folded_weight().detach(), bias), nn.PixelShuffle(2))


def _unfolded(layer: UpsampleConv2d) -> nn.Module:
    parts: OrderedDict[str, Any] = OrderedDict(resize=nn.Upsample(scale_factor=2, mode="nearest"))
    if layer.masked:
        parts["mask"] = ConstantMask()
    parts["conv"] = copy.deepcopy(layer.conv)
    return LayerParts(parts)


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of stride 1 that keeps the size, with this weight ``(O, I, k, k)`` and bias ``(O,)``."""
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias is not None)
    conv.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return conv
