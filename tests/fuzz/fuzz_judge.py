"""The judge: feeds damaged inputs to a process that may crash, hang or swell, and says which ones did what.

Each input is a function of (seed, format, index) alone. The process sits in an empty folder, its memory is measured for
each input on its own, and everything that it opens for writing, starts or connects to is written down.
"""

import collections
import contextlib
import faulthandler
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_mutations import SPECIAL, mutate, read_seeds

FORMATS = sorted(SPECIAL)
LIMIT_S = 10.0
"""Seconds for one input."""
LIMIT_BYTES = 1 << 30
"""Memory above the start for one input."""
SUFFIXES = {"safetensors": ".safetensors", "pth": ".pth", "pt": ".pt"}


@dataclass
class Count:
    """What became of a format's inputs."""

    accepted: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0
    """Most bytes above the start, of all inputs."""
    reasons: Counter = field(default_factory=collections.Counter)
    """How often each sentence was said, without its path and numbers."""

    @property
    def inputs(self) -> int:
        """All of them."""
        return self.accepted + self.refused + len(self.violations)


def damaged(seeds: Path, format: str, seed: int, index: int) -> tuple[str, bytes]:
    """The input with a number: the name of the valid one it began as, and its bytes."""
    return mutate(format, random.Random(f"{seed}/{format}/{index}"), read_seeds(seeds, format))


def judge(plan: dict[str, int], *, seed: int, save: Path | None = None) -> dict[str, Count]:
    """Try ``plan[format]`` inputs of each format.

    Args:
        plan: how many.
        seed: of all of them.
        save: folder that inputs go to which did what they must not.

    Raises:
        AssertionError: a valid input is not accepted, so that the rest would prove nothing.
    """
    from fuzz_seeds import make_seeds  # (imports PyTorch, which a process that only judges can do without)

    counts = {format: Count() for format in plan}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz")))
        make_seeds(folder / "seeds")
        worker = stack.enter_context(Worker(folder / "seeds"))
        for format in plan:
            for name in read_seeds(worker.seeds, format):
                outcome, words, _ = worker.ask(format, name)
                assert outcome == "accepted", f"{format}/{name}, undamaged: {outcome}, {words}"
        for format, number in plan.items():
            count, began = counts[format], time.monotonic()
            for index in range(number):
                outcome, words, peak = worker.ask(format, (seed, index))
                count.peak = max(count.peak, peak)
                if outcome == "accepted":
                    count.accepted += 1
                elif outcome == "refused":
                    count.refused += 1
                    count.reasons[words] += 1
                else:
                    count.violations.append(f"{format}, seed {seed}, input {index}: {outcome}: {words}")
                    if save:
                        save.mkdir(parents=True, exist_ok=True)
                        name, data = damaged(worker.seeds, format, seed, index)
                        (save / f"{format}-{seed}-{index}-{name}").write_bytes(data)
            count.seconds = time.monotonic() - began
    return counts


class Worker:
    """The other process; a new one where it died or had to be ended.

    Args:
        seeds: what `fuzz_seeds.make_seeds` wrote; the process works beside it.
        serve: the process's life.
    """

    def __init__(self, seeds: Path, serve: Callable[[Connection, Path, Path], None] | None = None) -> None:
        self.seeds, self.serve = seeds, serve or _serve
        self.process: Any = None

    def __enter__(self) -> "Worker":
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _start(self) -> None:
        room = Path(tempfile.mkdtemp(dir=self.seeds.parent))
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.serve, args=(theirs, self.seeds, room), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.poll(120) and self.pipe.recv() == "ready", "the process did not start"

    def _end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def ask(self, format: str, which: str | tuple[int, int]) -> tuple[str, str, int]:
        """Try one input, by the name of a valid one or by (seed, index): the outcome, words about it, and bytes taken."""
        self.pipe.send((format, which))
        answer = ("hang", f"nothing after {2 * LIMIT_S:.0f} s", 0)
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.pipe.poll(2 * LIMIT_S):
                return self.pipe.recv()
        self.process.join(1)
        if self.process.exitcode is not None:
            answer = ("crash", f"exit code {self.process.exitcode}", 0)
        self._end()
        self._start()
        return answer


def _serve(pipe: Connection, seeds: Path, room: Path) -> None:
    """The process's whole life."""
    import torch
    from fuzz_targets import Targets

    with open(os.devnull, "w") as nowhere:  # libraries print about damaged files; crashes show by the exit code
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    faulthandler.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cwd, inputs = room / "cwd", room / "inputs"
    cwd.mkdir()
    inputs.mkdir()
    os.chdir(cwd)
    targets = Targets(seeds, cwd)
    known = {format: read_seeds(seeds, format) for format in FORMATS}
    for format, contents in known.items():  # whatever is loaded or compiled on first use is no input's fault
        for name, data in contents.items():
            path = inputs / f"x{SUFFIXES.get(format, '')}"
            path.write_bytes(data)
            with contextlib.suppress(Exception):  # (the judge asks for these again)
                targets.of(format)(name, path)
    seen = watch(room)
    limit = _status("VmSize") + 4 * LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # the machine's own protection
    pipe.send("ready")
    while True:
        format, which = pipe.recv()
        if isinstance(which, str):
            name, data = which, known[format][which]
        else:
            name, data = mutate(format, random.Random(f"{which[0]}/{format}/{which[1]}"), known[format])
        path = inputs / f"x{SUFFIXES.get(format, '')}"
        path.write_bytes(data)
        pipe.send(judge_one(targets, format, name, path, seen))


def judge_one(targets: Any, format: str, name: str, path: Path, seen: list[str]) -> tuple[str, str, int]:
    """Try one input: the outcome, words about it, and bytes taken."""
    from codecswap.errors import UserError

    seen.clear()
    with open("/proc/self/clear_refs", "w") as file:  # the peak starts anew
        file.write("5")
    before, began = _status("VmRSS"), time.monotonic()
    outcome, words = "accepted", ""
    try:
        targets.of(format)(name, path)
    except UserError as error:
        sentence = str(error)
        outcome, words = "refused", _shortened(sentence, path)
        if "\n" in sentence or not sentence.endswith((".", ")")) or len(sentence) > 1500:
            outcome = "not one sentence"
    except OSError as error:  # the command line has a sentence for these
        outcome = "refused" if format == "zip" and error.strerror else "exception"
        words = f"{type(error).__name__}: {error.strerror or error}"
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        outcome, words = "exception", f"{type(error).__name__} in {where}: {str(error)[:200]}"
    taken, seconds = _status("VmHWM") - before, time.monotonic() - began
    if seen:
        outcome, words = "not allowed", "; ".join(seen[:3])
    elif left := sorted(str(found) for found in targets.room.rglob("*")):
        outcome, words = "left files", ", ".join(left[:3])
        shutil.rmtree(targets.room)
        targets.room.mkdir()
        os.chdir(targets.room)
    elif seconds > LIMIT_S:
        outcome, words = "hang", f"{seconds:.1f} s"
    elif taken > LIMIT_BYTES:
        outcome, words = "memory", f"{taken / 1e6:.0f} MB"
    return outcome, words, taken


def _shortened(sentence: str, path: Path) -> str:
    """A sentence without what differs from input to input."""
    words = re.sub(r"\S*/", "", sentence.replace(str(path), "FILE")).split("(")[0]
    return "".join("#" if letter.isdigit() else letter for letter in words)[:90]


def _status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{field}:"))


def watch(room: Path) -> list[str]:
    """Write down, from now on, whatever this process starts, connects to, unpickles, or changes outside of ``room``."""
    seen: list[str] = []
    started = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.", "socket.connect", "pickle.")
    changes = (
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.truncate",
        "shutil.",
    )
    inside = str(room)

    def outside(paths: Iterator[Any]) -> bool:
        names = (os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike))
        return any(not os.path.abspath(name).startswith((inside, "/dev/null", "/proc/self/")) for name in names)

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(started):
            seen.append(f"{event} {arguments!r:.200}")
        elif event.startswith(changes):
            if outside(iter(arguments)):
                seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            if writes and outside(iter([path])):
                seen.append(f"open {path!r:.150} for writing")

    sys.addaudithook(hook)
    return seen
