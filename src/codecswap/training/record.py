"""``run.json``: the record of a run, for reports and for reproducing it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from codecswap.codecs.source import state_digest
from codecswap.console import is_first_process
from codecswap.files import atomic_write
from codecswap.processes import cores
from codecswap.students.record import StudentRecord
from codecswap.training.resume import RunStart

NAME = "run.json"
FORMAT, VERSION = "codecswap run", 1
PACKAGES = ("codecswap", "torch", "torchvision", "lightning", "compressai", "pytorch-optimizer", "numpy", "pillow")


def write_record(
    folder: Path,
    stage: str,
    codec: StudentRecord,
    run_start: RunStart,
    pictures: dict[str, Any],
    shown: list[Path],
    forced: list[str],
) -> None:
    """Write a run's record; a resumed run appends an entry to ``starts``.

    Args:
        pictures: `codecswap.data.discovery.Pictures.identity`.
        shown: pictures whose reconstructions are saved, in order.
        forced: checks that ``--force`` overrode at this start.
    """
    if not is_first_process():
        return
    path = folder / NAME
    student = run_start.student
    before = _read(path) if run_start.resume else {}
    started_from = before.get("origin")
    if student and not run_start.resume:
        started_from = {
            "path": str(student.path.resolve()),
            "student_sha256": state_digest(student.content["student_state"]),
        }
    record = {
        "format": FORMAT,
        "version": VERSION,
        "stage": stage,
        "codec": asdict(codec),
        "origin": started_from,
        "pictures": pictures,
        "shown": [
            {"path": str(picture.resolve()), "sha256": hashlib.sha256(picture.read_bytes()).hexdigest()}
            for picture in shown
        ],
        "starts": [*before.get("starts", []), _start(run_start, forced)],
    }
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _start(run_start: RunStart, forced: list[str]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "epoch": run_start.progress[0],
        "batch": run_start.progress[1],
        "resumed": run_start.resume,
        "forced": forced,
        "versions": versions,
        "hardware": {
            "cpu": _processor(),
            "cores": cores(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "system": platform.platform(),
        },
    }


def _processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
