"""Real .csw files in a benchmark: what the C library reads is what Python reads, and differences are seen."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_codecs import small_codec

from codecswap.benchmarking import c_library, measure, runtimes
from codecswap.benchmarking.c_library import SOURCES, shared_library
from codecswap.benchmarking.contenders import Forms, of_codec, of_folder
from codecswap.benchmarking.files import FileCodec, compare
from codecswap.benchmarking.machines import ask_here, this_machine
from codecswap.benchmarking.measure import HeldOut
from codecswap.codecs.source import load_codec
from codecswap.errors import UserError
from codecswap.export.codec import export, quantize
from codecswap.runner import files as in_runner

HERE = this_machine(runtimes.MODULES)
SIZE = (64, 64)
compiled = pytest.mark.skipif(
    "linux" not in HERE.triple or shutil.which("cc") is None, reason="no Linux, or no C compiler here"
)


@compiled
@pytest.mark.parametrize("teacher", ["tiny", "tiny_hyper", "tiny_vbr"])
def test_files_are_decoded_to_what_python_makes_of_them(teacher: str, photographs: str) -> None:
    codec = load_codec(teacher)
    found = list(of_codec(codec, teacher, ("subpixel",), ["float32"], ["onnxruntime"], Forms(codec), HERE))
    library = shared_library(HERE.triple, HERE.triple)
    held_out = HeldOut(codec, codec, photographs)
    (row,) = measure.measure(found, [SIZE], held_out, ask_here, rounds=1, library=library)
    assert row.status == measure.OK and not row.files_status and row.files
    assert (row.files.count, row.files.same_inputs, row.files.to_here) == (2, 2, measure.HIGHEST)
    assert row.files.read_ms > 0 and row.files.rgb_ms > 0


@compiled
def test_a_folder_with_split_inputs_takes_files(photographs: str, tmp_path: Path) -> None:
    codec = load_codec("tiny_hyper")
    random = np.random.default_rng(0)
    pictures = [random.random((3, 64, 64), np.float32)]
    quantize(codec, tmp_path / "folder", equalize=False, refit=False, calibration_images=pictures)
    (contender,) = of_folder(tmp_path / "folder", codec, ["onnxruntime"], HERE)
    library = shared_library(HERE.triple, HERE.triple)
    (row,) = measure.measure(
        [contender], [SIZE], HeldOut(codec, codec, photographs), ask_here, rounds=1, library=library
    )
    assert row.files and (row.files.same_inputs, row.files.to_here) == (2, measure.HIGHEST)


@pytest.fixture
def changed(photographs: str, tmp_path: Path) -> Callable[..., measure.Row]:
    """Measures a decoder whose files are read with another codec's tables, or whose files are changed."""

    def measured(change: Callable[[bytes], bytes]) -> measure.Row:
        codec = load_codec("tiny")
        export(codec, tmp_path / "folder", part="decoder")
        (contender,) = of_folder(tmp_path / "folder", codec, ["onnxruntime"], HERE)

        class Changed(FileCodec):
            def encode(self, latents: np.ndarray, size: tuple[int, int]) -> bytes:
                return change(super().encode(latents, size))

            def read(self, data: bytes) -> object:
                return super().read(change(data))

        other = replace(contender, file_codec=lambda: Changed(tmp_path / "folder", None, codec.hyper_analyze))
        library = shared_library(HERE.triple, HERE.triple)
        held_out = HeldOut(codec, codec, photographs)
        (row,) = measure.measure([other], [SIZE], held_out, ask_here, rounds=1, library=library)
        return row

    return measured


@compiled
def test_a_file_that_the_c_library_refuses_is_a_sentence(changed: Callable[..., measure.Row]) -> None:
    row = changed(lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:])  # twice: Python reads the right one
    assert row.status == measure.OK and row.files is None
    assert row.files_status.startswith(
        "Failed: ValueError: the C library says that a file is no picture that codecswap encoded"
    )


def test_differences_are_seen() -> None:
    values = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    picture = np.full((2, 2, 3), 100, np.uint8)
    answers = [{"read_ms": [1.0, 2.0, 3.0], "rgb_ms": 4.0, "input_sha256": in_runner.digest(values)}]
    same = np.full((3, 2, 2), 100 / 255, np.float32)
    near = same.copy()
    near[0, 0, 0] = 101 / 255
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def decibels(x: np.ndarray, y: np.ndarray) -> float:
        seen.append((x, y))
        return float(np.abs(x - y).max())

    found = compare(answers, [picture], [values], [same], decibels)
    assert (found.count, found.same_inputs, found.read_ms, found.rgb_ms, found.to_here) == (1, 1, 2.0, 4.0, 0.0)
    found = compare(answers, [picture], [values + 1], [near], decibels)
    assert found.same_inputs == 0 and found.to_here == pytest.approx(1 / 255)
    assert compare(answers, [picture], [values], None, decibels).to_here is None
    assert in_runner.digest(np.float32([0.0])) == in_runner.digest(np.float32([-0.0]))


def test_a_context_model_is_refused() -> None:
    codec = small_codec("mbt2018")
    with pytest.raises(UserError, match="PyTorch alone computes its context model"):
        Forms(codec).file_codec("native", None)


@compiled
def test_the_structures_have_the_places_of_the_header(tmp_path: Path) -> None:
    program = """
        #include "codecswap.h"
        #include <stddef.h>
        #include <stdio.h>
        int main(void)
        {
            printf("%zu %zu %zu %zu %zu %zu", sizeof(csw_codec), sizeof(csw_file), sizeof(csw_size), sizeof(csw_tile),
                   offsetof(csw_codec, inputs), offsetof(csw_codec, input_bits));
            return 0;
        }"""
    (tmp_path / "a.c").write_text(program)
    subprocess.run(["cc", f"-I{SOURCES}", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    said = subprocess.run([tmp_path / "a"], capture_output=True, text=True, check=True).stdout
    codec, file, size, tile, inputs, input_bits = map(int, said.split())
    assert codec <= ctypes.sizeof(in_runner.Codec) and file <= ctypes.sizeof(in_runner.File)
    assert (size, tile) == (ctypes.sizeof(in_runner.Size), ctypes.sizeof(in_runner.Tile))
    assert (inputs, input_bits) == (in_runner.Codec.inputs.offset, in_runner.Codec.input_bits.offset)


@pytest.mark.parametrize(
    ("triple", "said"),
    [
        ("aarch64-linux-gnu", "A C compiler for aarch64-linux-gnu is needed here: pip install ziglang."),
        ("darwin", "The C library is tried on Linux only."),
        ("", "The C library is tried on Linux only."),
    ],
)
def test_without_a_compiler_it_says_how_to_install_one(triple: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_library, "find_spec", lambda name: None)
    shared_library.cache_clear()
    with pytest.raises(UserError, match=said):
        shared_library(triple, "x86_64-linux-gnu")


def test_an_installed_wheel_has_no_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_library, "SOURCES", tmp_path)
    shared_library.cache_clear()
    with pytest.raises(UserError, match="run the command of a checkout"):
        shared_library("x86_64-linux-gnu", "x86_64-linux-gnu")
