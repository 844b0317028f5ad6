"""Shared ground: one thread, the embedded teacher, and a folder of small pictures cut from the embedded photographs."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read when NumPy and PyTorch are imported; commands that tests start get it too
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import chromium
from PIL import Image
from residual import residual_checkpoint

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.source import load_codec
from codecswap.console import showing_warnings
from codecswap.data.discovery import scan
from codecswap.entropy.tables import EntropyTables

PHOTOS = Path(str(files("codecswap") / "assets" / "photos"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run side by side; one thread each is faster than all fighting for the cores, and makes results repeatable.

    Before each test, because commands that tests run in this process set another number.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache folder alone; with the commands that they start, they share one of their own."""
    own = tmp_path_factory.mktemp("cache")
    (own / "codecswap").mkdir()
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecswap"
    for runtime in users.glob("onnxruntime-web-*"):  # what was downloaded for the page is read, and never changes
        (own / "codecswap" / runtime.name).symlink_to(runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(own))
        yield


@pytest.fixture(autouse=True)
def shown_warnings() -> Iterator[None]:
    """Warnings of functions are printed as commands print them, where ``capsys`` sees them."""
    with showing_warnings():
        yield


@pytest.fixture
def teacher() -> FactorizedPrior:
    """The embedded codec, a fresh copy."""
    return load_codec("tiny")


@pytest.fixture
def residual(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a codec with residual and attention blocks, whose architecture is known until the test's end."""
    return residual_checkpoint(tmp_path_factory.mktemp("residual"), monkeypatch)


@pytest.fixture(scope="session")
def hyper_codec() -> Callable[..., HyperCodec]:
    """Makes codecs with a hyperprior whose random weights give latents, scales and means of many sizes."""

    def make(name: str, n: int = 8, m: int = 12) -> HyperCodec:
        torch.manual_seed(0)
        codec: Any = ARCHITECTURES[name](n, m)
        with torch.no_grad():
            codec.g_a[6].weight *= 100
            codec.h_a[4].weight *= 20
            last = codec.entropy_parameters[4] if name == "mbt2018" else codec.h_s[4]
            last.weight *= 6
            last.bias[:m] += torch.linspace(1, 16, m)
        codec.make_tables()
        return codec.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The embedded photographs held out for validation, 768x512."""
    return scan(PHOTOS / "val")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ (8 pictures of 240x240) and val/ (2), not prepared crops."""
    root = tmp_path_factory.mktemp("pictures")
    for side, count in (("train", 8), ("val", 2)):
        (root / side).mkdir()
        for path in scan(PHOTOS / side)[:count]:
            with Image.open(path) as photo:
                left, top = (photo.width - 240) // 2, (photo.height - 240) // 2
                photo.crop((left, top, left + 240, top + 240)).save(root / side / f"{path.stem}.png")
    return root


@pytest.fixture(scope="session")
def random_tables() -> Callable[..., EntropyTables]:
    """Tables of random frequencies, lengths and offsets; all medians are zero."""

    def draw(rng: np.random.Generator, channels: int) -> EntropyTables:
        rows = []
        for _ in range(channels):
            size = rng.integers(2, 40)
            counts = np.maximum(1, (rng.dirichlet(np.full(size, 0.3)) * (65536 - size)).astype(int))
            counts[counts.argmax()] += 65536 - counts.sum()
            rows.append(np.concatenate([[0], counts.cumsum()]))
        cdf = np.zeros((channels, max(map(len, rows))), np.int32)
        for row, values in zip(cdf, rows, strict=True):
            row[: len(values)] = values
        lengths = np.array([len(row) for row in rows], np.int32)
        return EntropyTables(
            cdf, lengths, rng.integers(-20, 5, channels).astype(np.int32), np.zeros(channels, np.float32)
        )

    return draw
