"""Adam for kernels whose inputs have one dominant direction: the brightness of the picture."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec
from codecswap.layers.upsampling import UpsampleConv2d

_adam_step: Any = getattr(torch.optim.Adam.step, "__wrapped__", torch.optim.Adam.step)
"""Adam's step without its decorator, which imports torch._dynamo (two seconds) at every program's first step."""


class RotatedAdam(torch.optim.Adam):
    """Adam that updates some kernels in a rotated basis, where a given input direction is one coordinate.

    Adam changes each weight by about the learning rate. Along a direction that involves thousands of weights and has
    most of the inputs' energy, these changes add up: one step changes the output much more than in other directions. In
    the rotated basis that direction changes only once by the learning rate. (SOAP uses all eigenvectors of the gradients; Vyas
    et al., arXiv 2409.11321. This uses one direction of the inputs, at no cost.)

    A step never reads a tensor's value: learning rates are tensors on the parameters' device, and a step is skipped there.

    Args:
        groups: parameter groups as for Adam; each ``lr`` is a number or a scalar tensor, which may change in place.
        directions: unit vector ``(I * k * k,)`` for each kernel ``(O, I, k, k)``.
    """

    found_inf: Tensor | None
    """A scalar, 1.0: the next step changes nothing, neither parameters nor moments; 0.0: it runs. GradScaler sets and deletes
    it, too, hence the name."""

    def __init__(self, groups: Iterable[Any], directions: Mapping[nn.Parameter, Tensor]) -> None:
        super().__init__(groups, fused=True)
        self._mirrors = {kernel: _mirror(direction).to(kernel) for kernel, direction in directions.items()}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Rotate kernels and gradients, do a step of Adam, and rotate the kernels back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        turned = [(kernel, mirror) for kernel, mirror in self._mirrors.items() if kernel.grad is not None]
        before = [kernel.detach().clone() for kernel, _ in turned]
        for kernel, mirror in turned:
            _reflect(kernel, mirror)
            _reflect(kernel.grad, mirror)
        _adam_step(self)
        skipped = getattr(self, "found_inf", None)
        for (kernel, mirror), old in zip(turned, before, strict=True):
            _reflect(kernel, mirror)
            if skipped is not None:  # reflecting twice rounds
                torch.where(skipped.bool(), old, kernel, out=kernel)
        return loss


def _mirror(direction: Tensor) -> Tensor:
    """Normal of the Householder reflection that maps the first coordinate axis to ``direction``."""
    normal = direction.double().clone()
    normal[0] += torch.copysign(torch.ones(()), normal[0])  # this sign avoids cancellation
    return normal / normal.norm()


def _reflect(kernel: Any, normal: Tensor) -> None:
    flat = kernel.flatten(1)
    kernel.sub_((2 * torch.outer(flat @ normal, normal)).view_as(kernel))


@torch.no_grad()
def brightness_directions(student: Codec, pictures: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """Direction of highest energy in the inputs of each trained convolution, the same at all taps of its kernel.

    Convolutions are found at any depth; if one runs several times, all its inputs count.

    Args:
        pictures: ``(B, 3, H, W)`` in [0, 1].
        latents: rounded latents, ``(B, M, H/16, W/16)``.

    Returns: unit vectors ``(I * k * k,)``, float32, by the kernel's name.
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
    # a folded upsampling layer does not call its convolution; it is visited first
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
