"""Source distribution and wheels with the compiled coder, for Linux, macOS and Windows, from one machine: `make dist`.

The coder is cross-compiled by Zig (the registry's package ``ziglang``), which brings the C libraries of all platforms. It uses
CPython's limited API only, so there is one wheel per platform, for Python 3.11 and newer.
"""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).parents[1]
QUIET = {"--global-option": ["--quiet"]}
TARGETS = {  # the wheel's platform: Zig's target
    "manylinux_2_17_x86_64.manylinux2014_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64.manylinux2014_aarch64": "aarch64-linux-gnu.2.17",
    "manylinux_2_17_armv7l.manylinux2014_armv7l": "arm-linux-gnueabihf.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
    "musllinux_1_2_armv7l": "arm-linux-musleabihf",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
}
STABLE_ABI = [
    "_PyArg_ParseTuple_SizeT",
    "PyBuffer_Release",
    "PyBytes_AsStringAndSize",
    "PyBytes_FromStringAndSize",
    "PyCapsule_GetPointer",
    "PyCapsule_New",
    "PyErr_NoMemory",
    "PyErr_SetString",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyModuleDef_Init",
    "PyObject_GetBuffer",
    "_Py_Dealloc",
]
"""Functions that c/python.c calls, by their names in the stable ABI."""
STABLE_DATA = ("PyExc_ValueError", "_Py_NoneStruct")
CONFIGURATION = """\
#ifdef __APPLE__ /* pymacconfig.h has the sizes */
#else
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#endif
#ifdef _WIN32
#define MS_WINDOWS 1
#define HAVE_DECLSPEC_DLL 1
#define Py_ENABLE_SHARED 1
#endif
#define SIZEOF_SHORT __SIZEOF_SHORT__
#define SIZEOF_INT __SIZEOF_INT__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#define HAVE_SSIZE_T 1
"""
"""What Python's headers want to know of a platform, in place of this machine's pyconfig.h."""


def zig(*arguments: str | Path) -> None:
    """Run Zig; its complaints go to the screen."""
    subprocess.run([sys.executable, "-m", "ziglang", *map(str, arguments)], check=True)


def compile_coder(target: str, folder: Path) -> Path:
    """The coder for one of Zig's targets, as a file in ``folder`` with the name that Python looks for there."""
    headers = folder / "include"
    shutil.copytree(sysconfig.get_path("include"), headers, ignore=shutil.ignore_patterns("pyconfig.h"))
    (headers / "pyconfig.h").write_text(CONFIGURATION)
    sources = sorted((ROOT / "c").glob("*.c"))
    made = folder / ("_coder.pyd" if "windows" in target else "_coder.abi3.so")
    more: list[str | Path] = ["-Wl,-s"]
    if "macos" in target:  # Python's functions are found when the module is loaded
        more = ["-Wl,-undefined,dynamic_lookup"]
    if "windows" in target:
        more.append(python3_library(folder))
    zig("cc", "-target", target, "-O3", "-shared", "-fPIC", "-I", headers, "-o", made, *sources, *more)
    return made


def python3_library(folder: Path) -> Path:
    """The import library of Windows's python3.dll, which forwards to that of the Python that runs."""
    definition, library = folder / "python3.def", folder / "libpython3.a"
    lines = ["LIBRARY python3.dll", "EXPORTS", *STABLE_ABI, *(f"{name} DATA" for name in STABLE_DATA)]
    definition.write_text("\n".join(lines) + "\n")
    zig("dlltool", "-m", "i386:x86-64", "-d", definition, "-l", library)
    return library


def write_wheel(source: Path, platform: str, coder: Path, out: Path) -> Path:
    """The wheel ``source`` with another compiled coder, for another platform, in the folder ``out``."""
    made = out / re.sub(r"-cp311-.*", f"-cp311-abi3-{platform}.whl", source.name)
    rows = []
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        files = {name: old.read(name) for name in old.namelist() if "/_coder." not in name}
        [record], [tags] = (
            [name for name in files if name.endswith(f".dist-info/{end}")] for end in ("RECORD", "WHEEL")
        )
        del files[record]
        lines = [line for line in files[tags].decode().splitlines() if line and not line.startswith("Tag:")]
        lines += [f"Tag: cp311-abi3-{one}" for one in platform.split(".")]
        files[tags] = ("\n".join(lines) + "\n").encode()
        files[f"codecswap/{coder.name}"] = coder.read_bytes()
        for name, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
            new.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
        new.writestr(zipfile.ZipInfo(record, (2020, 1, 1, 0, 0, 0)), "\n".join([*rows, f"{record},,"]) + "\n")
    return made


def main(out: Path) -> None:
    """Write everything to ``out``; a folder that was there is replaced when all is done."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}") as temporary:
        done = Path(temporary, "done")
        done.mkdir()
        build_meta.build_sdist(str(done), QUIET)
        base = Path(temporary) / build_meta.build_wheel(temporary, QUIET)
        for platform, target in TARGETS.items():
            with tempfile.TemporaryDirectory() as folder:
                print(write_wheel(base, platform, compile_coder(target, Path(folder)), done).name)
        shutil.rmtree(out, ignore_errors=True)
        done.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else ROOT / "dist").resolve())
