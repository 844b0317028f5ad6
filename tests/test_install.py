"""The coder is compiled when the package is installed; without a compiler the package installs all the same."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("compiler", ["the usual one", "none"])
def test_a_wheel_has_the_coder_where_a_compiler_is(tmp_path: Path, compiler: str) -> None:
    if compiler != "none" and not shutil.which("gcc"):
        assert os.environ.get("CODECSWAP_REQUIRE_C") != "1"
        pytest.skip("there is no gcc")
    pytest.importorskip("setuptools", minversion="83")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "c", tmp_path / "c", ignore=shutil.ignore_patterns("build"))
    (tmp_path / "src" / "codecswap").mkdir(parents=True)
    shutil.copy(ROOT / "src" / "codecswap" / "__init__.py", tmp_path / "src" / "codecswap")
    environment = os.environ | ({"CC": str(tmp_path / "no compiler")} if compiler == "none" else {})
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "codecswap/__init__.py" in names
    assert any(name.startswith("codecswap/_coder.") for name in names) == (compiler != "none")
    assert "-cp311-abi3-" in wheel.name
