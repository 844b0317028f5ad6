"""Run an exported codec with ONNX Runtime or OpenVINO, without PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime

from codecswap.entropy.bitstream import CodesPictures
from codecswap.entropy.model import EntropyModel
from codecswap.errors import UserError
from codecswap.inference.check import run_check, saturates
from codecswap.inference.folder import network_bytes, read_entropy, read_folder
from codecswap.inference.manifest import Network
from codecswap.inference.openvino import OpenVinoSession
from codecswap.inference.tiles import TILE, Region, Size, in_tiles
from codecswap.inference.wide_activations import in_float


def session_entries(wide_sums: bool | None = None) -> dict[str, str]:
    """Entries of a session's configuration; ``wide_sums`` as in `open_session`."""
    # it would round weights of convolutions that the file has in float (``--keep``), all of a layer to one scale
    entries = {"optimization.disable_specified_optimizers": "WeightBiasQuantization"}
    # without it, sums overflow on x86 without VNNI where weights exceed 7 bits; with it, VNNI takes twice the time
    if saturates() if wide_sums is None else wide_sums:
        entries["session.x64quantprecision"] = "1"
    return entries


def open_session(
    model: bytes | str, threads: int | None = None, *, reference: bool = False, wide_sums: bool | None = None
) -> onnxruntime.InferenceSession:
    """Open a model on the CPU in ONNX Runtime.

    Args:
        model: bytes or path of the model.
        threads: number of threads; None: ONNX Runtime's default.
        reference: without graph optimizations, operator by operator: the reference execution of a quantized network.
        wide_sums: add products of 8 bits in 32: slower, and right on every processor. None: where the processor needs it.
    """
    options = onnxruntime.SessionOptions()
    if reference:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in session_entries(wide_sums).items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3  # its warnings are about its own optimizer
    if threads is None:  # the machine may be shared: waiting threads must not spin
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxCodec(CodesPictures):
    """Encoder and decoder of an exported folder; each is loaded when it is first used.

    Args:
        folder: what `codecswap export` or `codecswap quantize` wrote.
        threads: threads of the runtime; None: its default.
        tile: height and width in latents above which a picture is computed in tiles.
        reference: compute the reference execution of a quantized folder (`codecswap.inference.check`); slow.
        runtime: ``onnxruntime`` or ``openvino``.

    Raises:
        UserError: the folder is no exported codec, or its files are damaged or mixed.
    """

    def __init__(
        self,
        folder: Path,
        threads: int | None = None,
        tile: Size = TILE,
        *,
        reference: bool = False,
        runtime: str = "onnxruntime",
    ) -> None:
        self.folder, self.runtime = folder, runtime
        self.manifest, self.tables = read_folder(folder)
        self.factor = self.manifest.factor
        self._entropy = None if self.manifest.has_context else read_entropy(folder, self.manifest, self.tables)
        self._threads, self._reference = threads, reference
        self._fixed = self.manifest.height is not None
        if self.manifest.height and self.manifest.width:
            tile = (self.manifest.height // self.factor, self.manifest.width // self.factor)
        self._tile = tile
        self._sessions: dict[str, Any] = {}

    def coder(self) -> "OnnxCodec":  # noqa: D102
        return self

    @property
    def entropy(self) -> EntropyModel:
        """The entropy model.

        Raises:
            UserError: the codec has a context model, which no folder holds (`with_entropy`).
        """
        return self._entropy or read_entropy(self.folder, self.manifest, self.tables)

    def with_entropy(self, entropy: EntropyModel) -> Self:
        """Take the entropy model of the codec in PyTorch, where the folder has none: its codec has a context model.

        Raises:
            UserError: it is of another codec.
        """
        if self._entropy is None:
            predictor, side = entropy.predictor, self.manifest.side
            if not (predictor and side and predictor.digest.hex() == side.prediction_sha256):
                raise UserError(
                    f"{self.folder} is of another codec: name the one that it was made from with --teacher."
                )
            self._entropy = entropy
        return self

    def analyze(self, picture: np.ndarray) -> np.ndarray:
        """Latents y ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, in [0, 1], or of a batch.

        Raises:
            UserError: the folder has no encoder, its fixed size does not fit the picture, or it is computed wrongly here.
        """
        return self._run("encoder", picture, scale_in=self.factor, scale_out=1)

    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/4, w/4)``, before rounding, of latents ``(M, h, w)`` of a codec that has them.

        Raises:
            UserError: as `analyze`.
        """
        return self._run("hyper_encoder", latents, scale_in=self.manifest.multiple // self.factor, scale_out=1)

    def synthesize(
        self, symbols: np.ndarray, means: np.ndarray | None = None, region: Region | None = None
    ) -> np.ndarray:
        """Decode ``symbols: (M, H/16, W/16)``, int32, and their means to a picture ``(3, H, W)``, float32, not clamped.

        Args:
            symbols, means: of the whole picture.
            region: rows and columns of latents whose pixels are computed; by default all.

        Raises:
            UserError: the folder has no decoder, its fixed size does not fit the picture, or it is computed wrongly here.
        """
        return self.run_decoder(self.decoder_input(symbols, means), region)

    def run_decoder(self, x: np.ndarray, region: Region | None = None) -> np.ndarray:
        """Decode what `decoder_input` gives; other arguments, result and errors as in `synthesize`."""
        return self._run("decoder", x, scale_in=1, scale_out=self.factor, region=region)

    def check_size(self, height: int, width: int, *, unit: int | None = None) -> None:
        """Refuse pictures of ``height`` x ``width`` pixels that a folder of a fixed size cannot take.

        Args:
            unit: pixels per element that tiles are measured in; by default those of a latent.

        Raises:
            UserError: the picture is smaller than the fixed size, or the fixed size is too small for tiles.
        """
        unit = unit or self.factor
        sides = [-(-side // unit) for side in (height, width)]
        tile = [side * self.factor // unit for side in self._tile]
        fixed = f"{self.folder} is fixed at {self.manifest.width}x{self.manifest.height} pixels"
        if self._fixed and any(side < size for side, size in zip(sides, tile, strict=True)):
            raise UserError(
                f"{fixed} and takes no smaller picture ({unit * sides[1]}x{unit * sides[0]} with its padding): "
                "export it without --height and --width."
            )
        if any(2 * self.manifest.margin >= size < side for side, size in zip(sides, tile, strict=True)):
            raise UserError(
                f"{fixed}, too small for tiles of a larger picture: export it with sides of more than "
                f"{2 * self.manifest.margin * unit}."
            )

    def decoder_input(self, symbols: np.ndarray, means: np.ndarray | None = None) -> np.ndarray:
        """Input of the decoder's network, ``(C, H/16, W/16)``, float32; arguments as in `synthesize`."""
        input = self._network("decoder").input
        if input == "split_inputs" and self.manifest.split_inputs:
            return self.manifest.split_inputs.split(symbols, means)
        if input == "symbols":
            return symbols.astype(np.float32)
        return self.tables.to_latents(symbols) if means is None else symbols.astype(np.float32) + means

    def load(self, part: str) -> None:
        """Load a network now, and run its stored check.

        Raises:
            UserError: the folder has none, or it is computed wrongly here.
        """
        self._session(part, self._network(part))

    def _network(self, part: str) -> Network:
        network = getattr(self.manifest, part)
        if network is None:
            raise UserError(
                f"{self.folder} holds no {part}: export it with --part both or --part {part.removeprefix('hyper_')}."
            )
        return network

    def _run(
        self, part: str, x: np.ndarray, *, scale_in: int, scale_out: int, region: Region | None = None
    ) -> np.ndarray:
        # unit of tiles: hyper-latents or latents
        unit = self.manifest.multiple if part == "hyper_encoder" else self.factor
        self.check_size(*(unit * (side // scale_in) for side in x.shape[-2:]), unit=unit)
        tile = (self._tile[0] * self.factor // unit, self._tile[1] * self.factor // unit)
        network = self._network(part)
        session = self._session(part, network)
        channels = {"decoder": 3, "encoder": self.manifest.M, "hyper_encoder": self.manifest.N}[part]

        def run(tile: np.ndarray) -> np.ndarray:
            batch = tile if tile.ndim == 4 else tile[None]
            wanted = (len(batch), channels, *(side // scale_in * scale_out for side in tile.shape[-2:]))
            with self._refusing(network):
                result = session.run([network.output], {network.input: batch})[0]
                if result.shape != wanted or result.dtype != np.float32:
                    raise ValueError(f"its result is {result.dtype} {result.shape}")
            return result if tile.ndim == 4 else result[0]

        margin = self.manifest.margin
        return in_tiles(run, x, tile, margin, scale_in=scale_in, scale_out=scale_out, region=region)

    def _session(self, part: str, network: Network) -> Any:
        """Session of a network; its stored check runs when it is opened, and decides on wide sums."""
        if part not in self._sessions:
            content = network_bytes(self.folder, network)
            if self._reference:
                self._sessions[part] = self._opened(network, content)
            else:
                with self._refusing(network):
                    content = in_float(content)
                self._open_checked(part, network, content)
        return self._sessions[part]

    def _open_checked(self, part: str, network: Network, content: bytes) -> None:
        """Open a session that passes the network's stored check, with wide sums where it does not pass without."""
        narrow = self.runtime == "onnxruntime" and not saturates()
        for wide in (False, True) if narrow else (True,):
            self._sessions[part] = self._opened(network, content, wide)
            try:
                run_check(self, part)
            except UserError:
                del self._sessions[part]
                if wide:
                    raise
            else:
                return

    def _opened(self, network: Network, content: bytes, wide: bool = True) -> Any:
        with self._refusing(network):
            if self.runtime == "openvino":
                return OpenVinoSession(content, self._threads)
            return open_session(content, self._threads, reference=self._reference, wide_sums=wide)

    @contextmanager
    def _refusing(self, network: Network) -> Iterator[None]:
        """Convert any exception of a runtime to a UserError about the file."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.folder / network.file} cannot be run ({type(error).__name__}): export the codec again."
            ) from error


def open_codec(folder: str | Path, *, threads: int | None = None, runtime: str = "onnxruntime") -> OnnxCodec:
    """Open an exported or quantized folder; it needs no PyTorch.

    Args:
        folder: what `codecswap.export` or `codecswap.quantize` wrote.
        threads: threads of the runtime; None: its default.
        runtime: ``onnxruntime`` or ``openvino`` (a package of its own).

    Returns: the codec, with ``compress`` and ``decompress``; its networks are loaded when they are first used.

    Raises:
        UserError: the folder is no exported codec, or its files are damaged or mixed.
    """
    if runtime not in ("onnxruntime", "openvino"):
        raise UserError(f"runtime is onnxruntime or openvino, not {runtime}.")
    return OnnxCodec(Path(folder), threads, runtime=runtime)
