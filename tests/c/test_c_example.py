"""csw_decode, linked with ONNX Runtime, gives the pictures of `codecswap decode`; the skeletons for NPUs compile."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from csw_library import LIBRARY, missing, tool
from PIL import Image

from codecswap import cli
from codecswap.data.pictures import load_picture

FOLDERS = {  # how each is exported
    "latents": ["export", "--replacement", "subpixel"],
    "symbols": ["export", "--replacement", "none", "--input", "symbols"],
    "tiles": ["export", "--replacement", "subpixel", "--height", "128", "--width", "112"],
    "hyperprior": ["export", "--replacement", "subpixel"],
    "split_inputs": ["quantize", "--replacement", "subpixel", "--calibration_count", "2", "--refit", "false"],
    "hyperprior, split inputs": ["quantize", "--calibration_count", "2", "--refit", "false"],
    "variable rate": ["export", "--replacement", "subpixel"],
}


@pytest.fixture(scope="session")
def csw_decode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built with make; CODECSWAP_ORT names ONNX Runtime's include/ and lib/ (scripts/onnxruntime_c.py)."""
    if not (ort := os.environ.get("CODECSWAP_ORT")):
        missing("CODECSWAP_ORT is not set")
    build = tmp_path_factory.mktemp("example")
    command = [tool("make"), "-C", str(LIBRARY), "example", f"BUILD={build}", f"ORT={ort}", "CFLAGS=-O2 -Werror"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return build / "csw_decode"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, Path]:
    """An exported folder of each kind."""
    root = tmp_path_factory.mktemp("folders")
    for name, (command, *more) in FOLDERS.items():
        images = ["--images", str(pictures / "val")]
        teacher = {"hyperprior": "tiny_hyper", "variable rate": "tiny_vbr"}.get(name.split(",")[0], "tiny")
        assert cli.main([command, "--teacher", teacher, *more, "--output", str(root / name), *images]) == 0
    return {name: root / name for name in FOLDERS}


def run(program: Path, *arguments: Path) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", FOLDERS)
def test_pictures_are_those_of_codecswap_decode(
    csw_decode: Path, folders: dict[str, Path], photos: list[Path], tmp_path: Path, kind: str
) -> None:
    load_picture(photos[0]).crop((0, 0, 301, 215)).save(tmp_path / "a.png")
    files = ["--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "a.csw")]
    encoder, gain = str(folders[kind.split(",")[0]]) if kind.startswith(("hyperprior", "variable rate")) else "tiny", []
    if kind.startswith("variable rate"):
        gain = ["--gain", "0.8"]
    assert cli.main(["encode", "--codec", encoder, *gain, *files]) == 0
    files = ["--input", str(tmp_path / "a.csw"), "--output", str(tmp_path / "python.png")]
    assert cli.main(["decode", "--codec", str(folders[kind]), *files]) == 0
    done = run(csw_decode, folders[kind], tmp_path / "a.csw", tmp_path / "c.png")
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "python.png") as ours, Image.open(tmp_path / "c.png") as theirs:
        assert ours.mode == theirs.mode == "RGB"
        difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    assert difference.shape == (215, 301, 3)
    assert difference.max() == 0


def test_bad_input_is_one_sentence_and_no_picture(
    csw_decode: Path, folders: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    load_picture(photos[0]).crop((0, 0, 60, 50)).save(tmp_path / "a.png")
    good, folder = tmp_path / "a.csw", folders["latents"]
    assert cli.main(["encode", "--codec", "tiny", "--input", str(tmp_path / "a.png"), "-o", str(good)]) == 0
    broken = tmp_path / "broken.csw"
    broken.write_bytes(good.read_bytes()[:-7])
    changed = {}
    for name in ("codec.json", "entropy.bin", "decoder.onnx"):
        changed[name] = tmp_path / f"changed {name}"
        changed[name].mkdir()
        for path in folder.iterdir():
            content = bytearray(path.read_bytes())
            if path.name == name:
                content[len(content) // 2] ^= 1
            (changed[name] / path.name).write_bytes(content)
    manifest = json.loads((folder / "codec.json").read_text())
    manifest["decoder"]["file"] = "../latents/decoder.onnx"
    (changed["codec.json"] / "codec.json").write_text(json.dumps(manifest))
    cases = {
        "by a codec without a hyperprior, and this one is with one": (folders["hyperprior"], good),
        "truncated": (folder, broken),
        "cannot be opened": (tmp_path, good),
        "outside its folder": (changed["codec.json"], good),
        "damaged entropy tables": (changed["entropy.bin"], good),
        "not the one that codec.json": (changed["decoder.onnx"], good),
        "larger size": (folders["tiles"], good),
    }
    for words, arguments in cases.items():
        done = run(csw_decode, *arguments, tmp_path / "c.png")
        assert done.returncode == 2, words
        assert words in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("c.png*"))


@pytest.mark.parametrize("name", ["rknn", "ethos_u"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_skeletons_compile_against_their_stubs(tmp_path: Path, name: str, compiler: str) -> None:
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{LIBRARY}",
        f"-I{LIBRARY / 'examples' / 'stubs'}",
    ]
    command = [tool(compiler), *flags, "-c", str(LIBRARY / "examples" / f"csw_{name}.c"), "-o", str(tmp_path / "x.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_quick_start_compiles(tmp_path: Path) -> None:
    code = re.search(r"```c\n(.*?)```", (LIBRARY.parent / "docs" / "c.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    (tmp_path / "quick.c").write_text(code[1])
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-value", f"-I{LIBRARY}"]
    done = subprocess.run([tool("gcc"), *flags, "-c", "quick.c"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_cmake_builds_and_installs_the_library(tmp_path: Path) -> None:
    tool("cmake")
    for step in (
        ["-S", str(LIBRARY), "-B", str(tmp_path / "build"), f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'there'}"],
        ["--build", str(tmp_path / "build")],
        ["--install", str(tmp_path / "build")],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
    user = tmp_path / "user"
    user.mkdir()
    (user / "main.c").write_text(
        "#include <codecswap.h>\nint main(void) { return csw_error_text(CSW_OK)[0] != 'i'; }\n"
    )
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(user C)\nfind_package(codecswap REQUIRED)\n"
        "add_executable(user main.c)\ntarget_link_libraries(user codecswap::codecswap)\n"
    )
    for step in (["-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'there'}"], ["--build", "build"]):
        done = subprocess.run(["cmake", *step], cwd=user, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
    assert subprocess.run([user / "build" / "user"]).returncode == 0
