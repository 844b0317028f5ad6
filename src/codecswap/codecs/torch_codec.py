"""Run a codec in PyTorch, with the interface of an exported one."""

from typing import Any

import numpy as np
import torch

from codecswap.codecs.float32 import full_float32
from codecswap.inference.tiles import TILE, Region, Size, in_tiles


class TorchCodec:
    """A teacher or student with the interface of `codecswap.inference.runtime.OnnxCodec`.

    Args:
        codec: a `codecswap.codecs.protocol.Codec` on any device, with its entropy tables.
        tile: height and width in latents above which a picture is computed in tiles.

    """

    def __init__(self, codec: Any, tile: Size = TILE) -> None:
        self.codec = codec
        self.factor = codec.factor
        self.entropy = codec.entropy_model()
        self.tables = self.entropy.tables
        self._tile = tile

    def analyze(self, picture: np.ndarray) -> np.ndarray:
        """Latents y ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, in [0, 1], or of a batch."""
        return self._run(self.codec.g_a, picture, scale_in=self.factor, scale_out=1)

    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/4, w/4)``, before rounding, of latents ``(M, h, w)`` of a codec that has them."""
        return self.codec.hyper_analyze(latents)

    def synthesize(
        self, symbols: np.ndarray, means: np.ndarray | None = None, region: Region | None = None
    ) -> np.ndarray:
        """Decode ``symbols: (M, H/16, W/16)``, int32, and their means to a picture ``(3, H, W)``, float32, not clamped.

        Args:
            symbols, means: of the whole picture.
            region: rows and columns of latents whose pixels are computed; by default all.
        """
        latents = self.tables.to_latents(symbols) if means is None else symbols.astype(np.float32) + means
        return self._run(self.codec.g_s, latents, scale_in=1, scale_out=self.factor, region=region)

    def _run(
        self,
        transform: torch.nn.Module,
        x: np.ndarray,
        *,
        scale_in: int,
        scale_out: int,
        region: Region | None = None,
    ) -> np.ndarray:
        device = next(self.codec.parameters()).device

        @torch.inference_mode()
        def run(tile: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(tile).to(device)
            with full_float32(device):
                return (transform(x) if x.ndim == 4 else transform(x[None])[0]).cpu().numpy()

        margin = self.codec.margin
        return in_tiles(run, x, self._tile, margin, scale_in=scale_in, scale_out=scale_out, region=region)
