"""The library in every build (csw_library.py)."""

from collections.abc import Iterator

import pytest
from csw_library import BUILDS, HERE, SLOW, Library, compile_with, tool


@pytest.fixture(scope="session", params=[pytest.param(b, marks=pytest.mark.slow) if b in SLOW else b for b in BUILDS])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The library in each build; it must end without a word."""
    command, run = BUILDS[request.param]
    if run:
        tool(run[0])
    program = compile_with(command, [HERE / "runner.c"], tmp_path_factory.mktemp("c") / "runner")
    process = Library([*run, str(program)])
    yield process
    assert process.close() == (0, "")
