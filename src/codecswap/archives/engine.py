"""Where shards are made: in this process, in several, or on a Ray cluster."""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from codecswap.archives.ahead import as_completed
from codecswap.archives.folder import Archive
from codecswap.archives.index import Summary
from codecswap.archives.shards import Shard
from codecswap.archives.work import Job
from codecswap.coding.source import Source
from codecswap.entropy import bitstream
from codecswap.errors import RunFailure, UserError, how_to_install
from codecswap.inference.runtime import OnnxCodec
from codecswap.processes import follow_parent

RETRIES = 20
"""How often Ray repeats a shard whose node or process dies, before the run ends."""


@dataclass(frozen=True)
class Task:
    """What to do with every shard."""

    job: Job
    codec: Source
    part: str
    """``encoder`` or ``decoder``: the network of an exported folder that it needs."""
    archive: Archive

    def __call__(self, shard: Shard) -> tuple[str, Summary]:
        """Make a shard, unless another worker has made it by now; returns its name and summary."""
        summary = self.archive.done(shard) or self.job(_open(self.codec, self.part), self.archive, shard)
        return shard.name, summary


@lru_cache(1)
def _open(source: Source, part: str) -> bitstream.Codec:
    """The codec of this process. An error of the codec is one here, not one of every picture."""
    codec = source.open()
    if isinstance(codec, OnnxCodec):
        codec.load(part)
    return codec


def run_here(task: Task, shards: Iterable[Shard]) -> Iterator[tuple[str, Summary]]:
    """Make shards in this process, one after the other."""
    return map(task, shards)


def run_processes(task: Task, shards: Iterable[Shard], jobs: int) -> Iterator[tuple[str, Summary]]:
    """Make shards in ``jobs`` processes; yields in the order of completion.

    Raises:
        RunFailure: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _begin)
    try:
        yield from as_completed(lambda shard: pool.submit(task, shard), shards, jobs + 1)
    except BrokenProcessPool:
        raise RunFailure(
            "A worker process was killed, perhaps for lack of memory: the same command goes on, with fewer --jobs if need be."
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    follow_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that attempts remove their files


def run_ray(task: Task, shards: Iterable[Shard], jobs: int | None, gpus: float = 0) -> Iterator[tuple[str, Summary]]:
    """Make shards as tasks of a Ray cluster: that of ``RAY_ADDRESS``, the one that runs here, or a new one of this machine.

    A task takes one core. Its process keeps the codec for the next one; if it or its node dies, Ray repeats the task elsewhere.

    Args:
        jobs: most tasks at a time; None: one for each core of the cluster.
        gpus: share of a GPU that a task takes.

    Raises:
        UserError: Ray is not installed.
        RunFailure: a task died too often, or the cluster is lost.
    """
    try:
        import ray
    except ImportError:
        raise UserError(f"--engine ray needs ray, which is not installed: {how_to_install('ray')}.") from None
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, include_dashboard=False)

    @ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
    def make(task: Task, shard: Shard) -> tuple[str, Summary]:
        return task(shard)

    try:
        shared = ray.put(task)
        cores = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield from as_completed(lambda shard: make.remote(shared, shard).future(), shards, cores + 1)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines()[0].rstrip(".")
        raise RunFailure(f"The Ray cluster lost a task ({words}): the same command goes on.") from None
    finally:
        if started:
            ray.shutdown()


def _cause(error: Any) -> Exception:
    """The exception that a task raised, as it was."""
    cause = getattr(error, "cause", None)
    return type(cause)(*cause.args) if isinstance(cause, UserError) else RunFailure(f"A task failed: {cause or error}.")
