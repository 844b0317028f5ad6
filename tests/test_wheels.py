"""The wheels that `make dist` wrote: each has the coder for its platform, and codes the same bytes there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scripts import wheels

from codecswap.entropy import rans
from codecswap.entropy.tables import EntropyTables

ROOT = Path(__file__).parents[1]
WHEELS = {
    re.sub(r".*-abi3-([^.]+).*", r"\1", path.name): path for path in (ROOT / "dist").glob("codecswap-*-abi3-*.whl")
}
PYTHONS = ROOT / "build" / "pythons"  # scripts/foreign_pythons.sh
MAGIC = {"linux": b"\x7fELF", "macosx": b"\xcf\xfa\xed\xfe", "win_": b"MZ"}
MACHINE = {"x86_64": 62, "aarch64": 183, "armv7l": 40}
"""ELF's numbers of processors."""
CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from codecswap import _coder
tables, string, symbols = (open(path, "rb").read() for path in sys.argv[2:])
opened, found = _coder.open(tables), bytearray(len(symbols))
_coder.decode(opened, string, found)
assert found == symbols and _coder.encode(opened, symbols) == string
print(_coder.__file__)
"""
"""Decodes and encodes with the standard library only."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WHEELS, reason="there are no wheels in dist/: make dist"),
]


@pytest.fixture
def coded(random_tables: Callable[..., EntropyTables], tmp_path: Path) -> list[Path]:
    """Tables, a string and its symbols, as files."""
    rng = np.random.default_rng(1)
    tables = random_tables(rng, 7)
    symbols = (rng.standard_normal((7, 40, 30)) * 20).astype("<i4")
    paths = [tmp_path / name for name in ("tables", "string", "symbols")]
    for path, content in zip(paths, (tables.binary, rans.encode(symbols, tables), symbols.tobytes()), strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("platform", sorted(WHEELS))
def test_every_wheel_has_a_coder_of_its_platform(platform: str) -> None:
    with zipfile.ZipFile(WHEELS[platform]) as wheel:
        assert wheel.testzip() is None
        [name] = [name for name in wheel.namelist() if "/_coder." in name]
        assert name.endswith("_coder.pyd" if platform.startswith("win_") else "_coder.abi3.so")
        content = wheel.read(name)
        [tags] = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/WHEEL")]
    [magic] = [magic for system, magic in MAGIC.items() if system in platform]
    assert content.startswith(magic)
    if "linux" in platform:
        [machine] = [number for name, number in MACHINE.items() if platform.endswith(name)]
        assert int.from_bytes(content[18:20], "little") == machine
        versions = {tuple(map(int, one.split(b"."))) for one in re.findall(rb"GLIBC_(\d+\.\d+)", content)}
        assert all(one <= (2, 17) for one in versions) and bool(versions) == ("manylinux" in platform)
    if platform.startswith("win_"):
        libraries = imports(content)
        others = [name for name in libraries if not re.match(r"(?i)python3\.dll|kernel32\.dll|api-ms-win-crt-", name)]
        assert "python3.dll" in libraries and not others
        assert set(libraries["python3.dll"]) == {*wheels.STABLE_ABI, *wheels.STABLE_DATA}
    assert f"Tag: cp311-abi3-{platform}\n" in tags


def imports(content: bytes) -> dict[str, list[str]]:
    """Libraries that a 64-bit Windows file wants, and the names that it takes from each, by Microsoft's PE format."""

    def number(place: int, size: int = 4) -> int:
        return int.from_bytes(content[place : place + size], "little")

    def text(place: int) -> str:
        return content[place : content.index(b"\0", place)].decode()

    head = number(0x3C)
    assert content[head : head + 4] == b"PE\0\0" and number(head + 4, 2) == 0x8664
    table = head + 24 + number(head + 20, 2)
    sections = [table + 40 * index for index in range(number(head + 6, 2))]

    def place(address: int) -> int:
        [section] = [
            one for one in sections if 0 <= address - number(one + 12) < max(number(one + 8), number(one + 16))
        ]
        return address - number(section + 12) + number(section + 20)

    found, entry = {}, place(number(head + 24 + 120))
    while number(entry + 12):
        names, one = [], place(number(entry))
        while address := number(one, 8):
            names.append(text(place(address) + 2))
            one += 8
        found[text(place(number(entry + 12)))] = names
        entry += 20
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="of the wheels, Linux's are installed here")
def test_an_installed_wheel_codes_the_same_bytes(coded: list[Path], tmp_path: Path) -> None:
    [wheel] = [path for platform, path in WHEELS.items() if platform.endswith(f"manylinux_2_17_{os.uname().machine}")]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(pip, check=True, env={"PATH": os.environ["PATH"]})
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    command = [python, "-I", "-c", CODE, packages, *coded]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and str(packages) in done.stdout, done.stderr


@pytest.mark.parametrize("machine", ["aarch64", "armv7l"])
def test_foreign_wheels_code_the_same_bytes_in_an_emulator(machine: str, coded: list[Path], tmp_path: Path) -> None:
    root, emulator = PYTHONS / machine, shutil.which({"aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}[machine])
    if not emulator or not (root / "usr" / "bin" / "python3.11").exists():
        pytest.skip("qemu-user or build/pythons is missing: make test-deps; scripts/foreign_pythons.sh build/pythons")
    with zipfile.ZipFile(WHEELS[f"manylinux_2_17_{machine}"]) as wheel:
        wheel.extractall(tmp_path / "wheel")
    command = [emulator, "-L", root, root / "usr" / "bin" / "python3.11", "-I", "-c", CODE, tmp_path / "wheel", *coded]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
