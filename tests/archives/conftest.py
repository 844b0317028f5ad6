"""The embedded codec as an exported folder, which needs no PyTorch, so that workers start at once."""

from pathlib import Path

import making
import pytest

from codecswap import export
from codecswap.codecs.source import load_codec


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("codec") / "tiny"
    export(load_codec("tiny"), target)
    return target


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.folder(tmp_path_factory.mktemp("source"))
