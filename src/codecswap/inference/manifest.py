"""The folder of an exported codec: networks, entropy tables, and codec.json, which describes them."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from codecswap.entropy.hyper_synthesis import IntegerNetwork
from codecswap.entropy.model import EntropyModel, Predictor
from codecswap.entropy.passes import Pass, check_passes, has_context, predicted
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.identify import describe
from codecswap.inference.split_inputs import SplitInputs
from codecswap.inference.tiles import TILE

FORMAT = "codecswap exported codec"
VERSION = 1
"""Version of codec.json."""
MANIFEST, TABLES, BINARY_TABLES = "codec.json", "entropy.json", "entropy.bin"
GAUSSIANS, BINARY_GAUSSIANS, PREDICTION = "gaussians.json", "gaussians.bin", "hyper_decoder.bin"
BINARY_RATES = "rates.bin"
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


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write a codec into; its files are then moved into ``folder``, codec.json last.

    Files that only the previous codec.json names are removed; sub-folders are replaced. If
    the block fails, ``folder`` is not changed (or not created).
    """
    made, new = folder / ".part", not folder.exists()
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        stale = _files(folder)
        for path in sorted(made.iterdir(), key=lambda path: path.name == MANIFEST):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)
        for name in stale - _files(folder):
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if new:
            with suppress(OSError):  # unless something was written into it
                folder.rmdir()


def _files(folder: Path) -> set[str]:
    """The files that a folder's codec.json names; none if it cannot be read."""
    try:
        manifest, _ = read_folder(folder)
    except UserError:
        return set()
    side = {GAUSSIANS, BINARY_GAUSSIANS, PREDICTION} if manifest.side else set()
    side |= {*rate_tables(manifest.rates), BINARY_RATES} if manifest.rates else set()
    return {network.file for network in manifest.networks} | side | set(manifest.checks or ())


def write_folder(
    folder: Path,
    manifest: Manifest,
    tables: EntropyTables,
    side: tuple[EntropyTables, IntegerNetwork] | None = None,
    rates: Rates | None = None,
) -> None:
    """Write tables and codec.json, the latter last: a folder without it is not a codec yet.

    Args:
        side: the Gaussians' tables and the hyper-synthesis of a codec with hyper-latents and without a context model.
        rates: the levels of a codec with variable rate.
    """
    for name, each in zip(rate_tables(manifest.rates), rates.tables if rates else (), strict=False):
        with atomic_write(folder / name) as path:
            path.write_text(each.to_json(), encoding="utf-8")
    if rates:
        with atomic_write(folder / BINARY_RATES) as path:  # for the C library
            path.write_bytes(rates.binary)
    if side:
        with atomic_write(folder / GAUSSIANS) as path:
            path.write_text(side[0].to_json(), encoding="utf-8")
        with atomic_write(folder / BINARY_GAUSSIANS) as path:  # for the C library
            path.write_bytes(side[0].binary)
        with atomic_write(folder / PREDICTION) as path:
            path.write_bytes(side[1].binary)
    with atomic_write(folder / TABLES) as path:
        path.write_text(tables.to_json(), encoding="utf-8")
    with atomic_write(folder / BINARY_TABLES) as path:  # for the C library
        path.write_bytes(tables.binary)
    content = {"format": FORMAT, "version": VERSION, "entropy": TABLES, **asdict(manifest)}
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_folder(folder: Path) -> tuple[Manifest, EntropyTables]:
    """Read codec.json and the tables, and check that they belong together.

    Raises:
        UserError: it is not an exported codec, is of a newer version, or its files are damaged or mixed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} is no exported codec (it has no {MANIFEST}) but {describe(folder)}. `codecswap export` makes one."
        )
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        if content["version"] != VERSION:
            version = str(content["version"])[:20]
            raise UserError(f"{path} has version {version}, this program reads {VERSION}: update codecswap.")
        known = {entry.name: content[entry.name] for entry in fields(Manifest) if entry.name in content}
        manifest = Manifest(**known | _parts(content))
        _check(manifest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or of another program: export the codec again.") from error
    tables_path = folder / TABLES
    if not tables_path.is_file():
        raise UserError(f"{folder} lacks {TABLES}, without which nothing can be coded: export the codec again.")
    tables = EntropyTables.from_json(tables_path.read_bytes())
    channels = manifest.N if manifest.side else manifest.M
    if tables.digest().hex() != manifest.tables_sha256 or tables.channels != channels:
        raise UserError(f"{tables_path} is not the one that {path} was written with: export the codec again.")
    _check_binary(folder / BINARY_TABLES, tables)
    split_inputs = manifest.split_inputs
    if split_inputs and not manifest.side:
        wanted = SplitInputs.for_tables(tables, split_inputs.constant)
        if wanted != split_inputs:
            raise UserError(
                f"{path} has other split inputs than its tables ask for ({len(wanted.channels)}): export the codec again."
            )
    return manifest, tables


def _check_binary(path: Path, content: EntropyTables | Rates) -> None:
    """Refuse another content than this one in a file that only the C library needs."""
    if path.is_file() and path.read_bytes() != content.binary:
        raise UserError(
            f"{path} is not the one that {path.parent / MANIFEST} was written with: export the codec again."
        )


def read_entropy(folder: Path, manifest: Manifest, tables: EntropyTables) -> EntropyModel:
    """Read the entropy model.

    Raises:
        UserError: a file is missing, damaged, or not the one that the folder was written with; or the codec has a context
            model.
    """
    if not manifest.side:
        return EntropyModel(manifest.passes, tables)
    if manifest.has_context:
        raise UserError(
            f"{folder} has the networks of a codec with a context model, which PyTorch alone computes, so it codes no files: "
            f"encode and decode with the checkpoint that it was made from ({manifest.name}), which --codec takes too."
        )
    for name in (GAUSSIANS, PREDICTION):
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, without which nothing can be coded: export the codec again.")
    gaussians = EntropyTables.from_json((folder / GAUSSIANS).read_bytes())
    network = IntegerNetwork.from_binary((folder / PREDICTION).read_bytes())
    for name, digest, wanted in (
        (GAUSSIANS, gaussians.digest(), manifest.side.gaussians_sha256),
        (PREDICTION, network.digest, manifest.side.prediction_sha256),
    ):
        if digest.hex() != wanted:
            raise UserError(f"{folder / name} is not the one that {MANIFEST} was written with: export the codec again.")
    _check_binary(folder / BINARY_GAUSSIANS, gaussians)
    given = (len(network.medians), network.channels, network.factor, len(network.thresholds) + 1)
    fits = given == (manifest.N, manifest.M, manifest.side.factor, gaussians.channels)
    if manifest.split_inputs and not manifest.rates:
        fits = fits and manifest.split_inputs.fractional_bits == (network.mean_bits or 0)
    if not fits:
        raise UserError(f"{folder / PREDICTION} does not fit {MANIFEST}: export the codec again.")
    model = EntropyModel(manifest.passes, tables, gaussians, network, manifest.side.factor)
    if manifest.rates is None:
        return model
    rates = _read_rates(folder, manifest.rates, tables, gaussians)
    _check_binary(folder / BINARY_RATES, rates)
    return replace(model, rates=rates).at(rates.gains[-1])


def rate_tables(rates: RateLevels | None) -> list[str]:
    """Names of the files with the tables of all steps but the last, whose tables are in entropy.json."""
    return [f"entropy_{level}.json" for level in range(len(rates.steps) - 1)] if rates else []


def _read_rates(folder: Path, described: RateLevels, tables: EntropyTables, gaussians: EntropyTables) -> Rates:
    found = []
    for name in rate_tables(described):
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, without which nothing can be coded: export the codec again.")
        found.append(EntropyTables.from_json((folder / name).read_bytes()))
    found.append(tables)
    if [(each.digest().hex(), each.step) for each in found] != list(
        zip(described.tables_sha256, described.steps, strict=True)
    ):
        raise UserError(
            f"The entropy tables in {folder} are not those that {MANIFEST} was written with: export it again."
        )
    offsets = np.array(described.offsets, np.float32)
    if offsets.shape[1] == 1:
        offsets = np.repeat(offsets, gaussians.channels, 1)
    try:
        if offsets.shape[1] != gaussians.channels:
            raise ValueError(offsets.shape)
        return Rates(described.gains, tuple(found), offsets)
    except ValueError as error:
        raise UserError(f"{folder / MANIFEST} is damaged or of another program: export the codec again.") from error


def network_bytes(folder: Path, network: Network) -> bytes:
    """The content of a network's file.

    Raises:
        UserError: it is missing, or not the one that the folder was written with.
    """
    return file_bytes(folder, network.file, network.sha256)


def file_bytes(folder: Path, name: str, sha256: str, most: int | None = None) -> bytes:
    """The content of a file that codec.json names, of at most ``most`` bytes.

    Raises:
        UserError: it is missing, or not the one that the folder was written with.
    """
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} lacks {name}: export the codec again.")
    content = path.read_bytes() if most is None or path.stat().st_size <= most else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the one that {MANIFEST} was written with: export the codec again.")
    return content


def check_names(part: str) -> tuple[str, str]:
    """The coded picture and the PNG that check a network (`codecswap.inference.check`): ``encoder`` or ``decoder``."""
    return f"check_{part}.csw", f"check_{part}.png"


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
