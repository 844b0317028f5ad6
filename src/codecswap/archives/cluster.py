"""Make shards on the nodes of a Ray cluster.

A shard is a Ray task: it makes the same files as in any other process, and Ray repeats it elsewhere if its node is lost. Ray's
worker processes serve one task after the other, and keep the codec open between them. (Ray Data is for rows that travel
between stages through its object store; here nothing travels but names and summaries.)
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from codecswap.archives.ahead import as_completed
from codecswap.archives.engine import Task
from codecswap.archives.index import Summary
from codecswap.archives.shards import Shard
from codecswap.data.sources import ARCHIVE, is_address
from codecswap.errors import RunFailure, UserError, how_to_install

RETRIES = 3
"""How often a shard is made again whose node or process was killed; then it may be the shard that kills it."""


def run_ray(task: Task, shards: Iterable[Shard], jobs: int | None) -> Iterator[tuple[str, Summary]]:
    """Make shards on the nodes of the Ray cluster that runs; yields in the order of completion.

    All nodes need the source, the codec and the archive under the same absolute paths. A task takes as many cores as the codec
    has threads; nodes that join later get work, too.

    Args:
        jobs: largest number of tasks at a time. None: as many as the cluster has cores for.

    Raises:
        UserError: Ray is not installed, no cluster runs, or no node has enough cores.
        RunFailure: a task was killed too often, or its node does not see the archive.
    """
    ray = _connect()
    try:
        threads = task.codec.threads
        if not _room(ray, threads):
            raise UserError(f"No node of the Ray cluster has {threads} cores: name fewer --threads.")
        remote = ray.remote(num_cpus=threads, max_retries=RETRIES)(_make)
        everywhere = _absolute(task)

        def submit(shard: Shard) -> Future[tuple[str, Summary]]:
            items = tuple(replace(item, place=_absolute_path(item.place)) for item in shard.items)
            return remote.remote(everywhere, replace(shard, items=items)).future()

        yield from as_completed(submit, shards, lambda: jobs or _room(ray, threads) + 1)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunFailure(
            f"The Ray cluster could not finish a shard ({_first_line(error)}), perhaps for lack of memory: the same command "
            "goes on, with fewer --jobs if need be."
        ) from None
    finally:
        ray.shutdown()


def _connect() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(f"--engine ray needs ray, which is not installed: {how_to_install('ray')}.") from None
    try:
        _look_for(os.environ.get("RAY_ADDRESS", ""))
        ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"There is no Ray cluster to connect to ({_first_line(error)}): start one with `ray start --head`, or name one in "
            "RAY_ADDRESS (docs/archives.md)."
        ) from None
    return ray


def _look_for(address: str) -> None:
    """Raise OSError at once if nothing listens at ``HOST:PORT``: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), 10).close()


def _room(ray: Any, threads: int) -> int:
    """Number of tasks that the living nodes have cores for."""
    nodes = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    return sum(int(cores) // threads for cores in nodes)


def _absolute(task: Task) -> Task:
    """The task with paths that do not depend on the working folder, which differs between nodes."""
    path = task.codec.path
    codec = replace(task.codec, path=_absolute_path(path)) if path and os.path.exists(path) else task.codec
    return replace(task, codec=codec, archive=replace(task.archive, folder=task.archive.folder.absolute()))


def _absolute_path(place: str) -> str:
    return place if is_address(place) else os.path.abspath(place)


def _make(task: Task, shard: Shard) -> tuple[str, Summary]:
    """Make a shard on a node."""
    if not (task.archive.folder / ARCHIVE).is_file():  # or else it would be made on a disk of its own
        raise RunFailure(
            f"The Ray node {socket.gethostname()} has no {task.archive.folder}: put the archive where all nodes see it "
            "under one path, and source and codec, too."
        )
    return task(shard)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
