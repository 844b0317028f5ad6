"""A codec at work in PyTorch, and where the deploying commands take it from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecswap.codecs.source import FactorizedPrior, load_codec, read_state, teacher_name
from codecswap.errors import UserError
from codecswap.inference.manifest import FACTOR
from codecswap.inference.runtime import TILE
from codecswap.inference.tables import EntropyTables
from codecswap.inference.tiles import Size, in_tiles
from codecswap.swaps.apply import swap
from codecswap.training.checkpoint import load_student


class TorchCodec:
    """A teacher or student with the interface of `codecswap.inference.runtime.OnnxCodec`.

    Args:
        codec: on any device; its entropy tables are taken as they are.
        tile: height and width in latents above which a picture is computed in tiles.
    """

    def __init__(self, codec: FactorizedPrior, tile: Size = TILE) -> None:
        self.codec = codec
        self.tables = EntropyTables.of(codec)
        self._tile = tile

    def analyse(self, picture: np.ndarray) -> np.ndarray:
        """Latents y ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, float32 in [0, 1]."""
        return self._run(self.codec.g_a, picture, scale_in=FACTOR, scale_out=1)

    def synthesise(self, symbols: np.ndarray) -> np.ndarray:
        """The picture ``(3, H, W)``, float32, not clamped, of ``symbols: (M, H/16, W/16)``, int32."""
        return self._run(self.codec.g_s, self.tables.to_latents(symbols), scale_in=1, scale_out=FACTOR)

    def _run(self, transform: torch.nn.Module, x: np.ndarray, *, scale_in: int, scale_out: int) -> np.ndarray:
        device = next(self.codec.parameters()).device

        @torch.inference_mode()
        def run(tile: np.ndarray) -> np.ndarray:
            return transform(torch.from_numpy(tile)[None].to(device))[0].cpu().numpy()

        return in_tiles(run, x, self._tile, scale_in=scale_in, scale_out=scale_out)


def load_source(options: Any, typed: set[str]) -> tuple[FactorizedPrior, str, str]:
    """The codec that the options name: a student's checkpoint, or a teacher with or without a replacement.

    Args:
        options: with ``checkpoint``, ``teacher``, ``quality``, ``metric`` and ``replacement``.
        typed: names of the options that were typed.

    Returns: the codec, where it comes from in words, and its replacement (``none``: a teacher).

    Raises:
        UserError: a file is missing, damaged or another thing, or ``--replacement`` contradicts the checkpoint.
    """
    if not options.checkpoint:
        codec = load_codec(options.teacher, options.quality, options.metric)
        name = teacher_name(options.teacher and Path(options.teacher).name, options.quality, options.metric)
        if options.replacement != "none":
            codec, _ = swap(codec, options.replacement)
        return codec.requires_grad_(False), name, options.replacement
    loaded = load_student(options.checkpoint)
    made = loaded.record.replacement if loaded.record else "upsample"
    if "replacement" in typed and options.replacement != made:
        raise UserError(f"{loaded.path} holds a student with --replacement {made}, not {options.replacement}.")
    return loaded.student.requires_grad_(False), loaded.path.name, made


def load_any(path: str | None, quality: int, metric: str) -> FactorizedPrior:
    """A student or a teacher, whichever the file ``path`` holds; None: the zoo's teacher.

    Raises:
        UserError: the file is missing, damaged or neither.
    """
    if path and Path(path).is_file() and "student_state" in read_state(Path(path)):
        return load_student(path).student.requires_grad_(False)
    return load_codec(path, quality, metric)
