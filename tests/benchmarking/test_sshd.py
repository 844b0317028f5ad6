"""`codecswap benchmark --host` over a real OpenSSH server on this machine, and `.csw` files decoded at its other end."""

import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import codecswap
from codecswap.cli import main

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
TOOLS = [SSHD, shutil.which("ssh"), shutil.which("ssh-keygen")]
pytestmark = pytest.mark.skipif(not all(TOOLS), reason="no OpenSSH server: make test-deps installs it")
Board = Callable[..., Path]


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Starts a server named ``board`` for ssh, whose commands run in an empty environment in a folder, which is returned.

    Its arguments: what python3 is there, as a line of sh, and the folder.
    """
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a server of root drops its rights
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Host board\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\nIdentityFile {tmp_path / 'user'}\n"
        f"UserKnownHostsFile {tmp_path / 'known'}\nStrictHostKeyChecking no\nIdentitiesOnly yes\nLogLevel ERROR\n"
    )
    (tmp_path / "ssh").mkdir()
    program(tmp_path / "ssh" / "ssh", f'exec {shutil.which("ssh")} -F {tmp_path / "config"} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'ssh'}:{os.environ['PATH']}")
    started: list[subprocess.Popen[bytes]] = []

    def start(python: str = f'exec {sys.executable} "$@"', folder: Path | None = None) -> Path:
        there = folder or tmp_path / "board"
        (tmp_path / "bin").mkdir()
        there.mkdir(exist_ok=True)
        program(tmp_path / "bin" / "python3", python)
        where = f"HOME={there} TMPDIR={there} PATH={tmp_path / 'bin'}:/usr/bin:/bin"
        program(tmp_path / "shell", f'cd {there} && exec env -i {where} sh -c "$SSH_ORIGINAL_COMMAND"')
        (tmp_path / "sshd").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path / 'host'}\nAuthorizedKeysFile {tmp_path / 'user'}.pub\n"
            f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"ForceCommand {tmp_path / 'shell'}\n"
        )
        assert SSHD
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd")], stderr=log))
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if started[-1].poll() is not None:
                pytest.skip(f"sshd does not start: {(tmp_path / 'log').read_text()[-200:]}")
            time.sleep(0.05)
        return there

    yield start
    for server in started:
        server.terminate()
        server.wait()


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A benchmark of an ONNX file of one operator on the board."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, "h", "w")) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "a.onnx")
    more = ["--form", "native", "--runtime", "onnxruntime", "--sizes", "16x16", "--rounds", "1", "--host", "board"]
    return ["benchmark", "--onnx", str(tmp_path / "a.onnx"), *more, "--output", str(tmp_path / "out")]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    (folder / "all").write_bytes(bytes(4096))
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_board_with_a_full_disk_is_measured(board: Board, words: list[str], full_disk: Path, tmp_path: Path) -> None:
    board(folder=full_disk)
    with pytest.raises(OSError):
        (full_disk / "more").write_bytes(b"x")
    assert main(words) == 0
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["rows"]
    assert row["status"] == "ok" and row["to_here"] == 150.0  # equal, bit for bit


def test_a_board_without_numpy(board: Board, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    board(python=f'exec {sys.executable} -S "$@"')
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "NumPy is not installed" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_connection_is_cut_in_the_middle_of_an_answer(
    board: Board, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    count = tmp_path / "count"
    # its answer begins, then its server's process is killed: the first of its ancestors that is an sshd
    find = "p=$$; until grep -q sshd /proc/$p/comm; do p=$(cut -d' ' -f4 /proc/$p/stat); done"
    cut = f'{sys.executable} "$@" | head -c 100; {find}; kill -9 $p; exit'
    there = board(python=f'echo >> {count}; [ $(wc -l < {count}) -gt 2 ] && {{ {cut}; }}; exec {sys.executable} "$@"')
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "no connection to board, or no more" in said and said.count("\n") == 1
    assert count.read_text().count("\n") == 3 and not (tmp_path / "out").exists() and not list(there.iterdir())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_real_files_are_decoded_by_the_c_library_on_a_full_disk(board: Board, full_disk: Path, tmp_path: Path) -> None:
    board(folder=full_disk)
    words = ["--teacher", "tiny", "--form", "subpixel", "--precision", "float32", "--runtime", "onnxruntime"]
    words += ["--sizes", "32x32", "--rounds", "1", "--host", "board", "--output", str(tmp_path / "out")]
    assert main(["benchmark", *words]) == 0
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["rows"]
    assert row["status"] == "ok" and not row["files_status"]
    files = row["files"]
    assert files["same_inputs"] == files["count"] > 0 and files["to_here"] == 150.0


@pytest.mark.slow
def test_files_are_decoded_to_the_same_bytes_at_the_other_end(
    board: Board, tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/benchmarks.md says: the folder and the files go there through tar, and the pictures come back."""
    package = Path(codecswap.__file__).parents[1]
    there = board(python=f'PYTHONPATH={package} OMP_NUM_THREADS=1 exec {sys.executable} "$@"')
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--teacher", "tiny", "--part", "both", "--output", "codec"]) == 0
    for index, photo in enumerate(photos[:2]):
        assert main(["encode", "--codec", "codec", str(photo), "-o", f"{index}.csw"]) == 0
        assert main(["decode", "--codec", "codec", f"{index}.csw", "-o", f"{index}.png"]) == 0
    decode = "for i in 0 1; do python3 -m codecswap decode --codec codec $i.csw -o $i.png >&2 || exit; done"
    command = f"tar x && {decode} && tar c *.png"
    send = f"tar c codec 0.csw 1.csw | ssh board {shlex.quote(command)} > pictures.tar"
    subprocess.run(["sh", "-c", send], check=True)
    (tmp_path / "back").mkdir()
    subprocess.run(["tar", "xf", "pictures.tar", "-C", "back"], check=True)
    for name in ("0.png", "1.png"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert sorted(path.name for path in there.iterdir()) == ["0.csw", "0.png", "1.csw", "1.png", "codec"]
