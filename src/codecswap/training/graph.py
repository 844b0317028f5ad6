"""Training steps as one CUDA graph: launched by one call of the host instead of thousands."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codecswap.console import warn

Step = Callable[[Tensor], None]
WARM_UP = 3
"""Steps before the capture: they choose cuDNN's algorithms and allocate the optimizer's state."""


class GraphedStep:
    """A step whose operators are captured once and replayed.

    The first steps run as they are, on the stream that is captured later. A captured step reads its pictures from one place
    and everything else (weights, learning rates, random numbers, counters) from where it was at the capture: all of these are
    tensors that change in place, or the device's generator. If the capture fails, or pictures of another shape come, steps
    run as they are.

    Args:
        step: takes ``(B, 3, H, W)``; it must not read a tensor's value.
        capture: captures a function without running it, and returns what replays it; by default a CUDA graph.
    """

    def __init__(self, step: Step, capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None) -> None:
        self.step, self.capture = step, capture or CudaGraph().capture
        self.pictures: Tensor | None = None
        self.replay: Callable[[], None] | None = None
        self.taken, self.failed = 0, False

    def __call__(self, x: Tensor) -> None:
        """Train on ``x: (B, 3, H, W)``."""
        if self.failed or (self.pictures is not None and self.pictures.shape != x.shape):
            self.step(x)
            return
        if self.taken < WARM_UP:
            self.taken += 1
            self._warm_up(x)
            return
        if self.pictures is None:
            self.pictures = torch.empty_like(x)
            self._try_capture(self.pictures)
        if self.replay is None:
            self.step(x)
            return
        self.pictures.copy_(x, non_blocking=True)
        self.replay()

    def _warm_up(self, x: Tensor) -> None:
        """A step on another stream than the default one, which cannot be captured."""
        if not x.is_cuda:
            self.step(x)
            return
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            self.step(x)
        torch.cuda.current_stream(x.device).wait_stream(side)

    def _try_capture(self, pictures: Tensor) -> None:
        try:
            self.replay = self.capture(lambda: self.step(pictures))
        except RuntimeError as error:  # PyTorch has no narrower exception for it
            self.failed = True
            reason = str(error).strip().split("\n")[0].rstrip(".")
            warn(f"the step cannot be captured as a CUDA graph ({reason}): training runs on, more slowly.")


class CudaGraph:
    """A function as a CUDA graph, with its own memory."""

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Capture a function; returns what replays it.

        Raises:
            RuntimeError: an operator cannot be captured.
        """
        graph: Any = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            function()
        return graph.replay


def can_capture(device: torch.device, *, precision: str, optimizer: torch.optim.Optimizer, processes: int) -> bool:
    """Whether steps are captured: on one CUDA device, with fused Adam, without float16's scaling of gradients."""
    fused = bool(optimizer.defaults.get("fused"))
    return device.type == "cuda" and processes == 1 and fused and precision != "16-mixed"
