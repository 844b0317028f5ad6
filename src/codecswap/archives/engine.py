"""Where shards are made: in this process, or in several (`codecswap.archives.cluster`: on several machines)."""

import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache

from codecswap.archives.ahead import as_completed
from codecswap.archives.folder import Archive
from codecswap.archives.index import Summary
from codecswap.archives.shards import Shard
from codecswap.archives.work import Job
from codecswap.coding.source import Source
from codecswap.entropy import bitstream
from codecswap.errors import RunFailure
from codecswap.inference.runtime import OnnxCodec
from codecswap.processes import follow_parent


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
        yield from as_completed(lambda shard: pool.submit(task, shard), shards, lambda: jobs + 1)
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
