"""The folder of an exported codec: networks, entropy tables, and codec.json, which describes them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from codecswap.entropy.hyper_synthesis import IntegerNetwork
from codecswap.entropy.model import EntropyModel
from codecswap.entropy.rates import Rates
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.identify import describe
from codecswap.inference.manifest import FORMAT, VERSION, Manifest, Network, RateLevels, from_content
from codecswap.inference.split_inputs import SplitInputs

MANIFEST, TABLES, BINARY_TABLES = "codec.json", "entropy.json", "entropy.bin"
GAUSSIANS, BINARY_GAUSSIANS, PREDICTION = "gaussians.json", "gaussians.bin", "hyper_decoder.bin"
BINARY_RATES = "rates.bin"


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
        manifest = from_content(content)
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
