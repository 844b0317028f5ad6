"""Contents of codec.json, which describes the folder of an exported codec (`codecswap.inference.folder`)."""

import hashlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from codecswap.entropy.model import Predictor
from codecswap.entropy.passes import Pass, check_passes, has_context, predicted
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import EntropyTables
from codecswap.inference.split_inputs import SplitInputs
from codecswap.inference.tiles import TILE

FORMAT = "codecswap exported codec"
VERSION = 1
"""Version of codec.json."""
INPUTS = ("picture", "latents", "symbols", "split_inputs")
"""Possible inputs of a network."""


@dataclass(frozen=True)
class Network:
    """One ONNX file of the folder."""

    file: str
    sha256: str
    input: str
    """Name and meaning of its input: ``picture``, ``latents``, ``symbols`` or ``split_inputs``."""
    output: str


@dataclass(frozen=True)
class SideInformation:
    """Files of a codec with hyper-latents (`codecswap.entropy.model`)."""

    factor: int
    """Latents per hyper-latent along each axis."""
    gaussians_sha256: str
    """`EntropyTables.digest` of the Gaussians' tables."""
    prediction_sha256: str
    """`Predictor.digest`: of the integer hyper-synthesis or, with a context model, of the networks in PyTorch."""


@dataclass(frozen=True)
class RateLevels:
    """The levels of a codec with variable rate (`codecswap.entropy.rates.Rates`)."""

    gains: tuple[float, ...]
    """Gain of each level, ascending; any gain from the first to the last may be chosen."""
    steps: tuple[float, ...]
    """Quantization step of the hyper-latents: one for each level (the level closest to the gain counts), or one for all."""
    tables_sha256: tuple[str, ...]
    """`EntropyTables.digest` of the tables of each step; the last are those of entropy.json (`rate_tables`)."""
    offsets: tuple[tuple[float, ...], ...]
    """For each level and CDF index: what is added to the magnitude of a symbol other than 0, before it is divided by the gain.
    Between two levels it is linear in the gain."""

    @classmethod
    def of(cls, rates: Rates) -> "RateLevels":
        """Describe the levels of a codec."""
        offsets = np.zeros((len(rates.gains), 1)) if rates.offsets is None else rates.offsets
        return cls(
            gains=rates.gains,
            steps=tuple(each.step for each in rates.tables),
            tables_sha256=tuple(each.digest().hex() for each in rates.tables),
            offsets=tuple(tuple(row) for row in offsets.tolist()),
        )


@dataclass(frozen=True)
class Manifest:
    """Contents of codec.json."""

    name: str
    """Source of the weights, as text."""
    N: int
    """Channels inside the transforms."""
    M: int
    """Channels of the latents."""
    factor: int
    """Pixels per latent along each axis."""
    replacement: str
    """``none``, ``upsample``, ``masked`` or ``subpixel``."""
    precision: str
    """``float32``, ``float16``, ``w8a8``, ``mixed`` or ``w8a16``."""
    remedies: dict[str, str]
    """Layers that are not quantized as ``precision`` says, and what they got (`codecswap.quantize.scheme.REMEDIES`)."""
    opset: int
    height: int | None
    """Height of the padded pictures if the networks have a fixed size."""
    width: int | None
    encoder: Network | None
    decoder: Network | None
    split_inputs: SplitInputs | None
    """Input layout of a decoder whose input is ``split_inputs``."""
    tables_sha256: str
    """`codecswap.entropy.tables.EntropyTables.digest`: codecs with the same digest can exchange files."""
    passes: tuple[Pass, ...]
    """Passes of entropy coding (`codecswap.entropy.passes`)."""
    margin: int
    """Overlap of tiles in latents: the radius of the receptive field (`codecswap.inference.tiles`)."""
    checks: dict[str, str] | None = None
    """SHA-256 of the files of `codecswap.inference.check`, by name; None: not quantized."""
    hyper_encoder: Network | None = None
    """Hyper-analysis (latents to hyper-latents), if there is one."""
    side: SideInformation | None = None
    rates: RateLevels | None = None
    """Levels of a codec with variable rate."""

    @property
    def networks(self) -> list[Network]:
        """All networks of the folder."""
        return [network for network in (self.encoder, self.decoder, self.hyper_encoder) if network]

    @property
    def has_context(self) -> bool:
        """Whether latents are predicted from other latents: PyTorch alone does that, so the folder codes no files."""
        return has_context(self.passes)

    @property
    def multiple(self) -> int:
        """Pictures are padded to multiples of this many pixels."""
        return self.factor * (self.side.factor if self.side else 1)


def describe_network(path: Path, input: str, output: str) -> Network:
    """Describe a network's file, with its current hash."""
    return Network(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), input, output)


def describe_side(factor: int, gaussians: EntropyTables, predictor: Predictor) -> SideInformation:
    """Describe the tables of the Gaussians, and what predicts latents."""
    return SideInformation(factor, gaussians.digest().hex(), predictor.digest.hex())


def check_names(part: str) -> tuple[str, str]:
    """The coded picture and the PNG that check a network (`codecswap.inference.check`): ``encoder`` or ``decoder``."""
    return f"check_{part}.csw", f"check_{part}.png"


def from_content(content: dict[str, Any]) -> Manifest:
    """The manifest in the content of codec.json, whose format and version are known to be ours.

    Raises:
        ValueError, KeyError, TypeError: it is damaged or of another program.
    """
    known = {entry.name: content[entry.name] for entry in fields(Manifest) if entry.name in content}
    manifest = Manifest(**known | _parts(content))
    _check(manifest)
    return manifest


def _parts(content: dict[str, Any]) -> dict[str, Any]:
    kinds = {
        "encoder": Network,
        "decoder": Network,
        "split_inputs": SplitInputs,
        "hyper_encoder": Network,
        "side": SideInformation,
    }
    parts: dict[str, Any] = {part: kind(**content[part]) if content[part] else None for part, kind in kinds.items()}
    if rates := content.get("rates"):
        rows = tuple(tuple(map(float, row)) for row in rates["offsets"])
        numbers = {key: tuple(map(float, rates[key])) for key in ("gains", "steps")}
        parts["rates"] = RateLevels(**numbers, tables_sha256=tuple(rates["tables_sha256"]), offsets=rows)
    passes = (Pass(**each | {"channels": tuple(each["channels"])}) for each in content["passes"])
    return parts | {"passes": tuple(passes)}


def _check(manifest: Manifest) -> None:
    """Raise ValueError if a value has the wrong type or range."""
    counts = [manifest.N, manifest.M, manifest.opset, manifest.factor, manifest.margin]
    words = [manifest.name, manifest.replacement, manifest.precision, manifest.tables_sha256]
    sides = [manifest.height, manifest.width]
    if manifest.side:
        counts.append(manifest.side.factor)
        words += [manifest.side.gaussians_sha256, manifest.side.prediction_sha256]
    for network in manifest.networks:
        words += vars(network).values()
        if not re.fullmatch(r"[\w-][\w.-]{0,99}", network.file) or network.input not in INPUTS:  # a name, not a path
            raise ValueError(network)
    if manifest.checks is not None:
        known = {*check_names("encoder"), *check_names("decoder")}
        if type(manifest.checks) is not dict or not set(manifest.checks) <= known:
            raise ValueError(manifest.checks)
        words += manifest.checks.values()
    if type(manifest.remedies) is not dict:
        raise ValueError(manifest.remedies)
    words += [*manifest.remedies, *manifest.remedies.values()]
    if sides != [None, None]:
        counts += sides  # type: ignore[arg-type]
    if manifest.split_inputs:
        counts.append(manifest.split_inputs.constant)
        if manifest.side and not manifest.split_inputs.describes(manifest.M):
            raise ValueError(manifest.split_inputs)
    if not all(type(count) is int and 0 < count < 1 << 31 for count in counts):
        raise ValueError(counts)
    if not all(isinstance(word, str) for word in words) or any(side and side % manifest.multiple for side in sides):
        raise ValueError(words, sides)
    check_passes(manifest.passes, manifest.M, manifest.N)
    if bool(predicted(manifest.passes)) != bool(manifest.side):
        raise ValueError(manifest.passes)
    if rates := manifest.rates:
        if (
            not manifest.side
            or len(rates.steps) != len(rates.tables_sha256)
            or len(rates.steps) not in (1, len(rates.gains))
        ):
            raise ValueError(rates)
        if len({len(row) for row in rates.offsets}) != 1 or len(rates.offsets) != len(rates.gains):
            raise ValueError(rates)
        words += rates.tables_sha256
    if 2 * manifest.margin >= min(TILE):
        raise ValueError(manifest.margin)
