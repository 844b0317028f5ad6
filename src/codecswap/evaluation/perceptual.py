"""LPIPS by torchmetrics: the perceptual distance of two pictures."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from codecswap.console import warn
from codecswap.evaluation.measure import Lpips

SMALLEST_SIDE = 32
"""AlexNet's last layer is empty for a picture with a shorter side."""
DOWNLOAD_TIMEOUT = 20.0
"""Seconds without an answer after which the download of the backbone fails."""


def load_lpips(device: torch.device) -> Lpips | None:
    """LPIPS with AlexNet, as its authors recommend; None, with a warning, if the backbone cannot be loaded.

    The linear layers come with torchmetrics; the backbone is torchvision's AlexNet, downloaded (233 MB) the first time.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    try:
        with _download_timeout():
            metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)
    except (OSError, RuntimeError) as error:  # no network, no space, a wrong hash, a damaged file
        url = AlexNet_Weights.DEFAULT.url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        warn(
            f"There is no LPIPS: its backbone could not be had ({' '.join(str(error).split())}). "
            f"Fetch {url} on another machine and put it into {folder}."
        )
        return None

    @torch.no_grad()
    def lpips(x: Tensor, y: Tensor) -> float | None:
        if min(x.shape[-2:]) < SMALLEST_SIDE:
            return None
        return metric.net(x.to(device), y.to(device), normalize=True).item()  # the metric itself would keep every score

    return lpips


@contextmanager
def _download_timeout() -> Iterator[None]:
    """torchvision's download has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
