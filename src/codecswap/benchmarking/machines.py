"""Where the runner runs: in a process here, or on a board over the user's own ssh."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from codecswap import runner
from codecswap.errors import RunFailure, UserError
from codecswap.inference.check import PROBE, PROBE_FEEDS, PROBE_RESULT, saturates
from codecswap.runner import messages, respond

Ask = Callable[[bytes, int, Path | None], tuple[bytes, str]]
"""Sends a request to a new runner with a number of threads; returns its answer, and why there is none. The last argument is the
Python interpreter of the runtime's own environment on this machine (None: it needs none); boards have one for all."""
HOST = re.compile(r"[A-Za-z0-9_][\w.@:%\[\]-]*")
"""A name for ssh, which is no option of it."""
SSH_FAILED = 255
"""Exit code of ssh where there is no connection, or no more."""
SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""No questions, and an end where the other side is silent for 15 seconds."""
START = "import sys; f = sys.stdin.buffer; exec(f.read(int(f.readline())))"
"""Program that reads the runner from its input, so that nothing is written on the board."""
RUNNER = ("messages", "networks", "power", "files", "respond")
"""The runner's modules, each after those that it imports."""
LOAD = b"""\
import types
for _ in range(%d):
    name, size = f.readline().decode().split()
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(f.read(int(size)), name, "exec"), vars(module))
module.main()
"""
PYTHON_MISSING = 127
"""Exit code of a shell that finds no such program."""


@dataclass(frozen=True)
class Machine:
    """A machine to measure on."""

    ask: Ask
    description: str
    """Processor, cores and system."""
    modules: frozenset[str]
    """Python modules that it has, of those that were asked for."""
    wide_sums: bool
    """As in `codecswap.inference.runtime.open_session`."""
    triple: str = ""
    """Its processor and system, as compilers name them; empty: unknown."""
    has_sensor: bool = False
    """Whether it shows how much power it uses."""
    sensor: str = ""
    """That sensor, or why there is none, as a clause."""
    is_board: bool = False
    """It is another machine than the one that this runs on."""


def this_machine(modules: Sequence[str]) -> Machine:
    """The machine that this runs on."""
    there = frozenset(name for name in modules if find_spec(name))
    return Machine(ask_here, modules=there, wide_sums=saturates(), **respond.describe_machine())


def board(host: str, modules: Sequence[str]) -> Machine:
    """A machine that ``ssh`` reaches without questions, with Python 3 and NumPy.

    Args:
        host: as for ssh: ``user@board``, or a name of its configuration.
        modules: Python modules to ask for.

    Raises:
        UserError: it cannot be reached, or lacks Python or NumPy.
    """
    if not HOST.fullmatch(host):
        raise UserError(f"--host is a name for ssh, e.g. user@board, not {host}.")
    if shutil.which("ssh") is None:
        raise UserError("--host needs the program ssh, which is not there: install OpenSSH's client.")

    def ask(request: bytes, threads: int, python: Path | None) -> tuple[bytes, str]:
        return _ask_over_ssh(host, request, threads)

    try:
        facts, _ = messages.answer(*ask(messages.pack({"tasks": [], "modules": [*modules]}, {}), 1, None))
    except messages.NoAnswer as error:
        raise UserError(f"{host} cannot run the measurement: {error}.") from None
    there = frozenset(facts["modules"])
    wide_sums = "onnxruntime" in there and _saturates(ask)
    return Machine(ask, modules=there, wide_sums=wide_sums, is_board=True, **facts["machine"])


def ask_here(request: bytes, threads: int, python: Path | None = None) -> tuple[bytes, str]:
    """Run the runner in a process of its own on this machine."""
    command = [str(python or sys.executable), "-c", START]
    done = subprocess.run(
        command, input=program() + request, capture_output=True, env=os.environ | _environment(threads)
    )
    return done.stdout, ended(done.returncode, done.stderr)


def _ask_over_ssh(host: str, request: bytes, threads: int) -> tuple[bytes, str]:
    there = ["env", *(f"{name}={value}" for name, value in _environment(threads).items()), "python3", "-c", START]
    done = subprocess.run(
        ["ssh", *SSH, "--", host, shlex.join(there)],
        input=program() + request,
        capture_output=True,
    )
    if done.returncode == SSH_FAILED:
        last = "".join(done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:])[:200].rstrip(".")
        raise RunFailure(
            f"There is no connection to {host}, or no more ({last or 'ssh ended'}): `ssh {host}` must work without a password. "
            "Nothing was written; run it again."
        )
    if done.returncode == PYTHON_MISSING:
        raise UserError(f"{host} has no python3: install it there, with NumPy and a runtime.")
    return done.stdout, ended(done.returncode, done.stderr)


def program() -> bytes:
    """The runner as `START` reads it."""
    load = LOAD % len(RUNNER)
    sent = [b"%d\n%s" % (len(load), load)]
    for name in RUNNER:
        source = (files(runner) / f"{name}.py").read_bytes()
        sent.append(b"codecswap.runner.%s %d\n%s" % (name.encode(), len(source), source))
    return b"".join(sent)


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"ORT_DISABLE_TELEMETRY": "1"}  # which would write on the board


def _saturates(ask: Ask) -> bool:
    """`codecswap.inference.check.saturates` of another machine."""
    config = {"provider": "CPUExecutionProvider", "entries": {}}
    task = {"network": "probe", "feeds": {name: name for name in PROBE_FEEDS}, "repeats": 0, "keep": True}
    facts = {"runtime": "onnxruntime", "threads": 1, "config": config, "tasks": [task]}
    request = messages.pack(facts, {"probe": np.frombuffer(PROBE, np.uint8), **PROBE_FEEDS})
    try:
        _, results = messages.answer(*ask(request, 1, None))
    except messages.NoAnswer:  # the rows will say so
        return True
    return bool((results["0"] != PROBE_RESULT).any())


def ended(code: int, errors: bytes) -> str:
    """How a process ended that gave no answer, as a clause."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was ended by {name}" + (" (too little memory?)" if name == "SIGKILL" else "")
    last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
    return f"its process ended with code {code}" + "".join(f" ({line[:200]})" for line in last)
