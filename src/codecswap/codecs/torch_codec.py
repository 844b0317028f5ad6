"""A codec at work in PyTorch, with the interface of an exported one."""

import hashlib
from functools import cached_property

import numpy as np
import torch

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.entropy.side_information import FLOAT, SideInformation
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.inference.tiles import TILE, Size, in_tiles


class TorchPrediction:
    """Rows and means computed by h_s in PyTorch (`codecswap.entropy.side_information.Prediction`).

    Another machine, another number of threads or another version of PyTorch may round a scale to the other side of a step.
    """

    arithmetic = FLOAT

    def __init__(self, codec: HyperCodec, tables: EntropyTables) -> None:
        self.codec = codec
        self._tables = tables
        digest = hashlib.sha256(codec.scale_table.detach().cpu().numpy().tobytes())
        for name, value in sorted(codec.h_s.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self.digest = digest.digest()

    @torch.inference_mode()
    def __call__(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute them for the whole picture at once, as CompressAI does: in tiles other roundings would come out."""
        z_hat = torch.from_numpy(self._tables.to_latents(symbols))[None].to(next(self.codec.parameters()).device)
        scales, means = self.codec.gaussians(z_hat)
        return self.codec.indexes(scales)[0].to(torch.uint8).cpu().numpy(), means[0].cpu().numpy()


class TorchCodec:
    """A teacher or student with the interface of `codecswap.inference.runtime.OnnxCodec`.

    Args:
        codec: on any device; its entropy tables are taken as they are.
        tile: height and width in latents above which a picture is computed in tiles.

    """

    def __init__(self, codec: Codec, tile: Size = TILE) -> None:
        self.codec = codec
        self.factor = codec.factor
        self.tables = codec.entropy_tables()
        self._tile = tile

    @cached_property
    def side(self) -> SideInformation | None:
        """How latents are coded by hyper-latents; None: each channel has its table.

        Raises:
            UserError: the codec decodes one latent after the other.
        """
        if not isinstance(self.codec, HyperCodec):
            return None
        if self.codec.serial:
            raise UserError(
                "This codec has a context model, which decodes one position after the other: no files are made with it. "
                "Take a codec without one (mbt2018_mean), or measure this one with `codecswap eval`."
            )
        prediction = TorchPrediction(self.codec, self.tables)
        return SideInformation(self.tables, self.codec.gaussian_tables(), prediction, self.codec.hyper_factor)

    def analyze(self, picture: np.ndarray) -> np.ndarray:
        """Latents y ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, float32 in [0, 1]."""
        return self._run(self.codec.g_a, picture, scale_in=self.factor, scale_out=1)

    @torch.inference_mode()
    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/4, w/4)``, before rounding, of latents ``(M, h, w)`` of a codec that has them."""
        assert isinstance(self.codec, HyperCodec)
        y = torch.from_numpy(latents)[None].to(next(self.codec.parameters()).device)
        return self.codec.hyper_latents(y)[0].cpu().numpy()

    def synthesize(self, symbols: np.ndarray, means: np.ndarray | None = None) -> np.ndarray:
        """The picture ``(3, H, W)``, float32, not clamped, of ``symbols: (M, H/16, W/16)``, int32, and their means."""
        latents = self.tables.to_latents(symbols) if means is None else symbols.astype(np.float32) + means
        return self._run(self.codec.g_s, latents, scale_in=1, scale_out=self.factor)

    def _run(self, transform: torch.nn.Module, x: np.ndarray, *, scale_in: int, scale_out: int) -> np.ndarray:
        device = next(self.codec.parameters()).device

        @torch.inference_mode()
        def run(tile: np.ndarray) -> np.ndarray:
            return transform(torch.from_numpy(tile)[None].to(device))[0].cpu().numpy()

        return in_tiles(run, x, self._tile, self.codec.margin, scale_in=scale_in, scale_out=scale_out)
