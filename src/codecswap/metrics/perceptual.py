"""LPIPS by torchmetrics: the perceptual distance of two pictures."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecswap.console import warn

SMALLEST_SIDE = 32
"""AlexNet's last layer is empty for a picture with a shorter side."""
DOWNLOAD_TIMEOUT = 20.0
"""Seconds without an answer after which the download of the backbone fails."""


@torch.no_grad()
def lpips(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS with AlexNet, as its authors recommend (Zhang et al., arXiv 1801.03924); 0 for identical pictures.

    The linear layers come with torchmetrics; the backbone is torchvision's AlexNet, downloaded (233 MB) the first time.

    Args:
        x, y: ``(B, 3, H, W)``, RGB in [0, 1], sides of at least 32 pixels.

    Returns: ``(B,)``.

    Raises:
        OSError, RuntimeError: the backbone cannot be loaded; `load_lpips` says so before anything is measured.
    """
    pairs = zip(x.split(1), y.split(1), strict=True)
    return torch.stack([_network(x.device)(*pair, normalize=True).flatten()[0] for pair in pairs])


def load_lpips(device: torch.device) -> bool:
    """Load what `lpips` needs; False, with a warning that says how to get it, if that fails."""
    try:
        _network(device)
    except (OSError, RuntimeError) as error:  # no network, no space, a wrong hash, a damaged file
        from torchvision.models import AlexNet_Weights

        warn(
            f"There is no LPIPS: its backbone could not be had ({' '.join(str(error).split())}). Fetch "
            f"{AlexNet_Weights.DEFAULT.url} on another machine and put it into {Path(torch.hub.get_dir()) / 'checkpoints'}."
        )
        return False
    return True


@lru_cache(maxsize=2)
def _network(device: torch.device) -> Any:
    """The network, called with two pictures ``(1, 3, H, W)``; torchmetrics' own metric object would keep every score."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with _download_timeout():
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device).net


@contextmanager
def _download_timeout() -> Iterator[None]:
    """torchvision's download has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
