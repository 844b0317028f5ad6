"""Full float32: what decides a bitstream is never computed in TF32, bfloat16 or float16."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

BACKENDS: tuple[Any, ...] = (
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.cuda.matmul,
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
)
"""Where PyTorch may compute float32 with fewer bits; its default is TF32 in cuDNN's convolutions."""
FULL = "ieee"
"""The value of ``fp32_precision`` that allows nothing less than float32."""


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute in float32, whatever is set: no autocast, and no TF32 or bfloat16 inside float32 operators.

    TF32 keeps 10 bits of a product's factors. Latents close to a rounding boundary would become other symbols than those of
    the same codec on another machine. Gradients are computed where `backward` is called: it needs this, too.
    """
    before = [backend.fp32_precision for backend in BACKENDS]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        for backend, value in zip(BACKENDS, before, strict=True):
            stack.callback(setattr, backend, "fp32_precision", value)
            backend.fp32_precision = FULL
        yield
