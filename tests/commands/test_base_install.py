"""The base install, from the wheel, in an environment of its own: no PyTorch, numpy 2, and newer Pythons where they are."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from codecswap import cli

ROOT = Path(__file__).parents[2]


def find(release: str) -> str | None:
    """A Python of this release, where one on the path runs (pyenv's needs to be told that it may)."""
    ask = [f"python{release}", "-c", "import sys, venv; print(sys.executable)"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, env=os.environ | {"PYENV_VERSION": release})
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


NEWER = {release: find(release) for release in ("3.13", "3.14")}


def call(program: Path | str, *words: object, code: int = 0) -> str:
    """Run a program far from the checkout; returns what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, cwd=Path(program).parent, env=environment
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "python",
    [
        pytest.param(sys.executable, id="this"),
        *(
            pytest.param(path, id=release, marks=pytest.mark.skipif(not path, reason=f"no Python {release} here"))
            for release, path in NEWER.items()
        ),
    ],
)
def test_encode_and_decode_in_the_base_install(python: str, wheel: Path, pictures: Path, tmp_path: Path) -> None:
    """The same bytes and pixels as here, with the same release of ONNX Runtime on the same processor."""
    subprocess.run([python, "-m", "venv", str(tmp_path / "bare")], check=True)
    bare = tmp_path / "bare" / "bin"
    pip = [bare / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*map(str, pip), "download", "--no-deps", "-d", str(tmp_path), "mdurl"]).returncode:
        pytest.skip("no package registry can be reached")
    call(*pip, "install", wheel, "numpy>=2", f"onnxruntime=={version('onnxruntime')}")
    said = call(
        bare / "python", "-c", "import numpy, importlib.util as u; print(numpy.__version__, u.find_spec('torch'))"
    )
    assert said.startswith("2.") and said.endswith("None\n")

    codec, picture = tmp_path / "codec", sorted((pictures / "val").iterdir())[0]
    export = ["export", "--teacher", "tiny", "--replacement", "subpixel", "--images", str(pictures)]
    assert cli.main([*export, "--output", str(codec)]) == 0
    coded, decoded = [], []
    for name, run in (("here", cli.main), ("bare", lambda words: call(bare / "codecswap", *words) and 0)):
        coded.append(tmp_path / f"{name}.csw")
        decoded.append(tmp_path / f"{name}.png")
        assert run(["encode", "--codec", str(codec), str(picture), "-o", str(coded[-1])]) == 0
        assert run(["decode", "--codec", str(codec), str(coded[0]), "-o", str(decoded[-1])]) == 0
    assert coded[0].read_bytes() == coded[1].read_bytes()
    assert decoded[0].read_bytes() == decoded[1].read_bytes()

    call(bare / "codecswap", "prepare", "--images", pictures, "--out_dir", tmp_path / "crops", "--val_ratio", "0.2")
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == 10
    refused = call(bare / "codecswap", "distill", "--coco_dir", pictures, code=2)
    assert "which is not installed" in refused and refused.count("\n") == 1
    assert ("with Python 3.11 or 3.12" in refused) == (python in NEWER.values())
