"""`codecswap benchmark --host`, with a program named ssh that runs the command in another folder.

It has an empty environment, and may write no byte to any file (``ulimit -f 0``), as on a board whose disk is full.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from codecswap.benchmarking import machines, runtimes
from codecswap.benchmarking.machines import Machine
from codecswap.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the program named ssh is a shell script")
CONNECTED = 'cd "{board}" && ulimit -f 0 && exec env -i PATH="{board}/bin:/usr/bin:/bin" sh -c "$*"'
Connect = Callable[..., None]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Puts an ssh on PATH that runs a shell script, after its options and the host; ``python`` are options of python3 there."""
    board = tmp_path / "board"
    (board / "bin").mkdir(parents=True)
    (tmp_path / "ssh").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'ssh'}:{os.environ['PATH']}")

    def program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def make(script: str = CONNECTED, python: str = "") -> None:
        program(board / "bin" / "python3", f'exec "{sys.executable}" {python} "$@"')
        skip = 'while [ "$1" != -- ]; do shift; done; test "$2" = me@board || exit 9; shift 2\n'
        program(tmp_path / "ssh" / "ssh", skip + script.format(board=board, count=tmp_path / "count"))

    return make


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A benchmark of an ONNX file of one operator on the board."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, "h", "w")) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "a.onnx")
    more = ["--form", "native", "--runtime", "onnxruntime", "--sizes", "16x16", "--rounds", "2"]
    return [
        "benchmark",
        "--onnx",
        str(tmp_path / "a.onnx"),
        "--host",
        "me@board",
        *more,
        "--output",
        str(tmp_path / "out"),
    ]


def test_a_board_without_space_is_measured_and_compared(tmp_path: Path, connect: Connect, words: list[str]) -> None:
    connect()
    assert main(words) == 0
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))
    (row,) = content["rows"]
    assert row["status"] == "ok" and row["times"]["16x16"]["median"] > 0 and row["version"].startswith("onnxruntime")
    assert row["to_here"] == 150.0  # equal, bit for bit
    assert content["machine"] and "board" not in content["machine"]
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["bin"]


def test_a_decoder_on_a_board_loses_what_it_loses_here(tmp_path: Path, connect: Connect) -> None:
    connect()
    words = ["--teacher", "tiny", "--form", "subpixel", "--precision", "float32", "--runtime", "pytorch,onnxruntime"]
    words += ["--sizes", "32x32", "--rounds", "1", "--host", "me@board", "--output", str(tmp_path / "out")]
    assert main(["benchmark", *words]) == 0
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["rows"]  # PyTorch is for this machine
    assert row["runtime"] == "onnxruntime" and row["status"] == "ok"
    assert abs(row["lost"]) < 0.01 and row["to_here"] > 100


@pytest.mark.parametrize(
    ("script", "python", "code", "said"),
    [
        ("echo 'me@board: Permission denied (publickey).' >&2; exit 255", "", 1, "Permission denied (publickey)"),
        ("exit 127", "", 2, "has no python3"),
        (CONNECTED, "-S", 2, "NumPy is not installed on this machine"),
        ("printf PK; exit 0", "", 2, "its answer is cut off"),
        ("exit 3", "", 2, "its process ended with code 3"),
    ],
    ids=["no connection", "no python", "no numpy", "cut off", "another failure"],
)
def test_a_board_that_cannot_be_measured(
    script: str,
    python: str,
    code: int,
    said: str,
    tmp_path: Path,
    connect: Connect,
    words: list[str],
    capsys: pytest.CaptureFixture,
) -> None:
    connect(script, python)
    assert main(words) == code
    captured = capsys.readouterr().err
    assert said in captured and captured.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("calls", [2, 3])
def test_a_connection_that_is_cut_in_the_middle(
    calls: int, tmp_path: Path, connect: Connect, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "benchmark.json").write_text("old")
    cut = f"echo x >> {{count}}; if [ $(wc -l < {{count}}) -gt {calls} ]; then head -c 100; exit 255; fi\n"
    connect(cut + CONNECTED)
    assert main(words) == 1
    captured = capsys.readouterr().err
    assert "no connection to me@board" in captured and captured.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["benchmark.json"]
    assert (tmp_path / "out" / "benchmark.json").read_text() == "old"


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", ""])
def test_a_host_that_is_no_name(host: str, words: list[str], capsys: pytest.CaptureFixture) -> None:
    at = words.index("--host")
    assert main([*words[:at], f"--host={host}", *words[at + 2 :]]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_runtime_that_a_board_lacks_is_a_line() -> None:
    board = Machine(machines.ask_here, "", frozenset({"onnxruntime", "tflite_runtime"}), False, is_board=True)
    assert runtimes.missing("openvino", board) == "Not installed: pip install openvino."
    assert runtimes.missing("litert", board) is None and runtimes.missing("onnxruntime", board) is None
