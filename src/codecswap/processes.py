"""Number of worker processes, and how they end."""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Folder of the CPU limits of a container on Linux."""


def cores() -> int:
    """Number of cores that this process may use, limited by its CPU affinity and by its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        quota, period = map(int, (CGROUP / "cpu.max").read_text("utf-8").split())
        count = min(count, max(1, round(quota / period)))
    return count


def follow_parent() -> None:
    """In a worker process: ignore Ctrl-C, and exit when the main process ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
