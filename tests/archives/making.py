"""Pictures, tar shards, and workers in processes of their own."""

import os
import signal
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

KILL_AT = """
import os, signal, sys
left = int(sys.argv.pop(1))
def hook(event, arguments):
    global left
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR) and not str(arguments[0]).startswith("/dev")
    if writes or event in ("os.rename", "os.mkdir", "shutil.rmtree"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
if left:
    sys.addaudithook(hook)
from codecswap import cli
sys.exit(cli.main(sys.argv[1:]))
"""
"""Runs a command, and kills it at its n-th write; 0: never."""


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A picture with some structure."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def folder(root: Path, count: int = 11) -> Path:
    """Pictures of two sizes in sub-folders, one that cannot be read, and a file that is none."""
    (root / "sub" / "deep").mkdir(parents=True)
    for number in range(count):
        where = root / ("", "sub", "sub/deep")[number % 3]
        picture(number, ((48, 32), (35, 50))[number % 2]).save(where / f"p{number:02d}.png")
    (root / "sub" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (root / "notes.md").write_text("no picture")
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file as WebDataset writes it."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return path


def png(seed: int) -> bytes:
    """A picture's file."""
    buffer = BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def content(archive: Path) -> dict[str, bytes]:
    """All files of an archive but the clocks."""
    return {
        path.relative_to(archive).as_posix(): path.read_bytes()
        for path in sorted(archive.rglob("*"))
        if path.is_file() and path.relative_to(archive).parts[0] != "seconds"
    }


def start(arguments: list[str], *, kill_at: int = 0, cwd: Path | None = None, **environment: str) -> subprocess.Popen:
    """Start ``codecswap ARGUMENTS`` in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RANK", "WORLD_SIZE"))}
    return subprocess.Popen(
        [sys.executable, "-c", KILL_AT, str(kill_at), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=clean | environment,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code, and what it said."""
    said = process.communicate(timeout=120)[0]
    return process.returncode, said


KILLED = -signal.SIGKILL
