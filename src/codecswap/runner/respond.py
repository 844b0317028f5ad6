"""Run networks a few times in one runtime, and say how long they take and how much energy.

This folder is all that a board gets: it imports nothing else of the package, and needs Python 3.8, NumPy and a runtime.
A request (`codecswap.runner.messages`) comes on standard input and the answer goes to standard output. One process answers one
request, so its peak memory is that of one runtime.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codecswap.runner.files import Library, decode
from codecswap.runner.messages import pack, unpack
from codecswap.runner.networks import RUNTIMES, Network
from codecswap.runner.power import SYS, find


def main() -> None:
    """Answer one request; an exception becomes the answer ``{"error": ...}``."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes print
    try:
        content = respond(sys.stdin.buffer.read())
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError) and error.name == "numpy":
            text = "NumPy is not installed on this machine (python3 -m pip install numpy)"
        content = json.dumps({"error": f"{type(error).__name__}: {text}"}).encode()
    with output:
        output.write(content)
    os._exit(0)  # some runtimes crash when they are unloaded, after all is done


def respond(request: bytes, root: Path = SYS) -> bytes:
    """Do the tasks of a request.

    Its facts: ``runtime``, ``threads``, ``config`` (of the runtime), ``modules`` (Python modules to look for), ``power``
    (whether energy is measured), and ``tasks``: each names the array of its ``network`` and those of its ``feeds``, by input;
    how often it is run and timed after one run that is not (``repeats``); and whether the result is answered (``keep``).

    Or, without tasks, ``files`` for `codecswap.runner.files`: the ``codec``, and names of the arrays of its ``binaries``, of
    the ``library``, of ``contents`` (of .csw files) and of the ``network``.

    Args:
        request: the request.
        root: folder of the system's sensors.

    Returns: ``machine`` (`describe_machine`); the ``modules`` that are there; the runtime's ``version``; ``peak_bytes`` of this
        process (None where the system does not tell); of each task ``ms`` and ``cpu_ms`` of every run, and where energy is
        measured ``joules`` of one run and ``idle_joules`` of the same time without it; ``files``; and
        results as arrays, by the index of the task or file.
    """
    facts, arrays = unpack(request)
    networks: dict[str, Network] = {}
    done, results, network, files = [], {}, Network(), facts.get("files")
    sensor = find(root)[0] if facts.get("power") else None
    idle = sensor.idle() if sensor else 0.0

    def opened(name: str) -> Network:
        if name not in networks:
            networks.clear()  # one at a time, for its memory
            networks[name] = RUNTIMES[facts["runtime"]](arrays[name].tobytes(), facts["threads"], facts["config"])
        return networks[name]

    for index, task in enumerate(facts["tasks"]):
        network = opened(task["network"])
        given = network.given({key: arrays[array] for key, array in task["feeds"].items()})
        result, ms, cpu_ms = network.run(given), [], []
        for _ in range(task["repeats"]):
            began, cpu = time.perf_counter(), time.process_time()
            result = network.run(given)
            ms.append(1e3 * (time.perf_counter() - began))
            cpu_ms.append(1e3 * (time.process_time() - cpu))
        measured: dict[str, Any] = {"ms": ms, "cpu_ms": cpu_ms}
        if sensor and ms:
            joules, seconds = sensor.measure(partial(network.run, given))
            measured.update(joules=joules, idle_joules=idle * seconds)
        done.append(measured)
        if task["keep"]:
            results[str(index)] = network.array(result)
    decoded: list[dict[str, Any]] = []
    if files:
        binaries = {name: arrays[name].tobytes() for name in files["binaries"]}
        library = Library(arrays[files["library"]].tobytes(), files["codec"], binaries)
        contents = [arrays[name].tobytes() for name in files["contents"]]
        decoded, pictures = decode(library, contents, opened(files["network"]))
        results = {str(index): picture for index, picture in enumerate(pictures)}
    there = [name for name in facts.get("modules", ()) if find_spec(name)]
    found = {"tasks": done, "files": decoded, "version": network.version, "peak_bytes": network.peak() or peak()}
    return pack({**found, "machine": describe_machine(root), "modules": there}, results)


def describe_machine(root: Path = SYS) -> dict[str, Any]:
    """What a machine is.

    Returns: ``description``, processor, cores and system, without the machine's name; ``has_sensor`` and ``sensor``
        (`codecswap.runner.power.find`), and `triple`.
    """
    sensor, said = find(root)
    return {"description": describe(), "has_sensor": sensor is not None, "sensor": said, "triple": triple()}


def triple() -> str:
    """Processor and system that this Python is for, as compilers name them, e.g. ``aarch64-linux-gnu``; empty: unknown."""
    return getattr(sys.implementation, "_multiarch", "")


def describe() -> str:
    """Processor, cores and system, without the machine's name."""
    lines: list[str] = []
    for path in ("/proc/cpuinfo", "/proc/device-tree/model"):  # Arm's kernels name the processor in the second
        try:
            text = Path(path).read_text("utf-8", "replace").strip("\0\n")
        except OSError:
            continue
        lines += text.splitlines() if path == "/proc/cpuinfo" else [f"model name: {text}"]
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def peak() -> int | None:
    """Largest resident memory of this process so far, in bytes."""
    try:  # getrusage would count the process that started this one
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
