"""Valid files, to be damaged."""

from pathlib import Path

import pytest
from fuzz_seeds import make_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeds")
    make_seeds(root)
    return root
