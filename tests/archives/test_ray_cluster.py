"""A Ray cluster of several nodes on this machine; one is killed while it makes a shard."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import psutil
import pytest
from making import content, finish, start

from codecswap import cli

SIZE = ("--archive", "tar", "--shard_size", "2", "--threads", "1")


def test_without_ray_it_is_said_what_to_install(
    codec: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["encode", str(source), "-o", str(tmp_path / "out"), "--codec", str(codec), "--engine", "ray"]
    assert cli.main([*words, "--archive", "tar"]) == 2
    assert "--engine ray needs ray, which is not installed: pip install '.[ray]'" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "--engine is for archives" in capsys.readouterr().err


def test_an_address_where_nothing_listens_is_refused(
    codec: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("RAY_ADDRESS", "{}:{}".format(*closed.getsockname()))
    words = ["encode", str(source), "-o", str(tmp_path / "out"), "--codec", str(codec), "--engine", "ray"]
    assert cli.main([*words, "--archive", "tar"]) == 2
    assert "There is no Ray cluster to connect to" in capsys.readouterr().err


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without cores, and two nodes with one core each."""
    pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # its sockets' paths must be short
        monkeypatch.setenv("RAY_TMPDIR", folder)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        try:
            for _ in range(2):
                started.add_node(num_cpus=1, **small)
            monkeypatch.setenv("RAY_ADDRESS", started.address)
            yield started
        finally:
            started.shutdown()
            signal.signal(signal.SIGTERM, before)


def waited_for(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("nothing came")


def writer(pipe: Path) -> int | None:
    """The other end of a named pipe that is being read."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def reads(process: psutil.Process, pipe: Path) -> bool:
    """Whether a process has a named pipe open."""
    with suppress(OSError):  # it may end meanwhile
        return any(entry.resolve() == pipe for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    return False


def raylet(node: Any) -> psutil.Process:
    """The process that a node's workers are children of."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


@pytest.mark.slow
def test_a_killed_node_changes_nothing(codec: Path, source: Path, tmp_path: Path, cluster: Any) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(source, pictures)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in pictures.rglob("*.*"))
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    words = ["encode", "list.txt", "--codec", os.path.relpath(codec, tmp_path), *SIZE, "-o"]
    alone = subprocess.run([sys.executable, "-m", "codecswap", *words, "alone", "--jobs", "1"], cwd=tmp_path)
    assert alone.returncode == 3, "one of the files is no picture"

    stuck = tmp_path / names[5]  # its reader waits for a writer
    aside = stuck.rename(tmp_path / "aside")
    os.mkfifo(stuck)
    run = start([*words, "on ray", "--engine", "ray"], cwd=tmp_path)
    pipe = waited_for(lambda: writer(stuck))
    nodes = list(cluster.worker_nodes)
    # A waiting reader gets its descriptor only after the writer came.
    at_work = waited_for(
        lambda: [node for node in nodes if any(reads(child, stuck) for child in raylet(node).children(recursive=True))]
    )
    assert len(at_work) == 1
    aside.replace(stuck)
    cluster.remove_node(at_work[0], allow_graceful=False)
    code, said = finish(run)
    os.close(pipe)
    assert code == 3, said
    assert f"{len(list((tmp_path / 'alone/index').iterdir()))} shards made, 0 were there" in said
    assert content(tmp_path / "on ray") == content(tmp_path / "alone")
    assert not list((tmp_path / "on ray" / ".work").iterdir())

    back = ["decode", "alone", "--codec", os.path.relpath(codec, tmp_path), *SIZE, "-o"]
    for name, engine in (("back alone", ["--jobs", "1"]), ("back on ray", ["--engine", "ray"])):
        code, said = finish(start([*back, name, *engine], cwd=tmp_path))
        assert code == 0, said
    assert content(tmp_path / "back on ray") == content(tmp_path / "back alone")

    code, said = finish(start([*words, "more", "--engine", "ray", "--threads", "2"], cwd=tmp_path))
    assert code == 2 and "No node of the Ray cluster has 2 cores" in said
