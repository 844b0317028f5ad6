"""Adam for kernels whose inputs have one direction that outweighs all others: the brightness of the picture."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec
from codecswap.layers.upsampling import UpsampleConv2d


class RotatedAdam(torch.optim.Adam):
    """Adam that sees some kernels in a basis of their inputs where a given direction is one coordinate.

    Adam moves every weight by about the learning rate. Along a direction in which thousands of weights have a part and
    most of the inputs' energy lies, these steps add up, and one step moves the output much further than in any other. In
    the turned basis that direction moves by the learning rate once. (SOAP turns to all eigenvectors, of the gradients; Vyas
    et al., arXiv 2409.11321. This is one of them, of the inputs, and costs nothing.)

    Args:
        groups: as Adam takes them.
        directions: per kernel ``(O, I, k, k)`` the direction, a unit vector ``(I * k * k,)``.
    """

    def __init__(self, groups: Iterable[Any], directions: Mapping[nn.Parameter, Tensor]) -> None:
        super().__init__(groups)
        self._mirrors = {kernel: _mirror(direction).to(kernel) for kernel, direction in directions.items()}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Turn kernels and gradients, let Adam do its step, and turn the kernels back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        turned = [(kernel, mirror) for kernel, mirror in self._mirrors.items() if kernel.grad is not None]
        for kernel, mirror in turned:
            _reflect(kernel, mirror)
            _reflect(kernel.grad, mirror)
        super().step()
        for kernel, mirror in turned:
            _reflect(kernel, mirror)
        return loss


def _mirror(direction: Tensor) -> Tensor:
    """Normal of the plane whose mirror image of the first coordinate's axis is ``direction`` (Householder)."""
    normal = direction.double().clone()
    normal[0] += torch.copysign(torch.ones(()), normal[0])  # the sign that cancels no digits
    return normal / normal.norm()


def _reflect(kernel: Any, normal: Tensor) -> None:
    flat = kernel.flatten(1)
    kernel.sub_((2 * torch.outer(flat @ normal, normal)).view_as(kernel))


@torch.no_grad()
def brightness_directions(student: Codec, pictures: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """The direction of most energy in the inputs of each convolution that trains, the same at all taps of its kernel.

    Convolutions are found at any depth; one that runs several times has the direction of all its inputs.

    Args:
        pictures: ``(B, 3, H, W)`` in [0, 1].
        latents: rounded, ``(B, M, H/16, W/16)``.

    Returns: by the kernel's name, unit vectors ``(I * k * k,)``, float32.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].float().transpose(0, 1).flatten(1)
            sums[name] = sums.get(name, 0) + (x @ x.T).double()

        return add

    names: dict[Tensor, str] = {
        parameter: name for name, parameter in student.named_parameters() if parameter.requires_grad
    }
    kernels: dict[Tensor, nn.Module] = {}
    # an upsampling layer that folds does not call its convolution, but is met before it
    for module in student.modules():
        conv = module.conv if isinstance(module, UpsampleConv2d) else module
        if isinstance(conv, nn.Conv2d) and conv.weight in names and conv.groups == 1:
            kernels.setdefault(conv.weight, module)
    handles = [module.register_forward_pre_hook(watch(names[kernel])) for kernel, module in kernels.items()]
    try:
        student.g_s(latents)
        if any(name.startswith("g_a.") for name in names.values()):
            student.g_a(pictures)
    finally:
        for handle in handles:
            handle.remove()
    directions = {}
    for kernel in kernels:
        if (name := names[kernel]) in sums and sums[name].any():
            taps = kernel.shape[2] * kernel.shape[3]
            direction = torch.linalg.eigh(sums[name]).eigenvectors[:, -1]
            directions[name] = (direction.repeat_interleave(taps) / taps**0.5).float()
    return directions
