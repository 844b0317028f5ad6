"""Find the order in which the layers of a transform run, by running it.

It does not use `torch.fx` as `codecswap.graph.leaves` does: a swap must find layers in any ``forward``, also one that branches
on values, and does not need the operators between them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _Enough(Exception):
    """Stops a forward pass early."""


@torch.no_grad()
def execution_order(transform: nn.Module, x: Tensor) -> dict[str, int]:
    """Run a transform and record which of its modules are called.

    Args:
        transform: a module tree of any shape; blocks come before the layers inside them.
        x: its input, ``(B, C, H, W)``.

    Returns: how often each module ran, by name, in the order of the first calls. A module with several names has the
    first of them. Modules that did not run, or that have more than one input, are left out.
    """
    counts: dict[str, int] = {}

    def count(name: str, inputs: int) -> None:
        if inputs == 1:
            counts[name] = counts.get(name, 0) + 1

    handles = [
        module.register_forward_pre_hook(
            lambda _, arguments, options, name=name: count(name, len(arguments) + len(options)), with_kwargs=True
        )
        for name, module in transform.named_modules()
        if name
    ]
    try:
        transform(x)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def inputs_of(layer: nn.Module, transform: nn.Module, x: Tensor, calls: int = 1) -> Sequence[Tensor]:
    """Inputs of ``layer`` in its first ``calls`` calls when ``transform`` computes ``x``; later layers are not run."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0].clone() if calls > 1 else arguments[0])  # later layers may change it in place
        if len(caught) == calls:
            raise _Enough

    handle = layer.register_forward_pre_hook(catch)
    try:
        transform(x)
    except _Enough:
        pass
    finally:
        handle.remove()
    return caught
