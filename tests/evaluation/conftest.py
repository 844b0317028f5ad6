"""Codecs of several rates made from the embedded one, students with records, and a folder of small pictures."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import fingerprint, load_codec
from codecswap.students.record import StudentRecord
from codecswap.swaps.apply import swap


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Two PNGs of 200x180, one of them in a sub-folder."""
    root = tmp_path_factory.mktemp("whole")
    (root / "sub").mkdir()
    for path, target in zip(photos, (root / "a.png", root / "sub" / "b.png"), strict=False):
        Image.open(path).crop((100, 100, 300, 280)).save(target)
    return root


@torch.no_grad()
def coarser(step: float) -> FactorizedPrior:
    """The embedded codec with quantization steps ``1 / step`` as wide: the same transforms, another rate."""
    codec = load_codec("tiny")
    codec.g_a[6].weight *= step
    codec.g_a[6].bias *= step
    codec.g_s[0].weight /= step
    bottleneck = codec.entropy_bottleneck
    bottleneck.quantiles *= step
    first = F.softplus(bottleneck.matrices[0]) / step  # the first layer of the distribution function takes the latents
    bottleneck.matrices[0].copy_(first.expm1().log())
    codec.update(force=True)
    return codec.eval()


@pytest.fixture(scope="session")
def local_teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of four codecs of ascending rate."""
    root = tmp_path_factory.mktemp("teachers")
    paths = [root / f"q{number}.pth" for number in range(1, 5)]
    for path, step in zip(paths, (0.2, 0.35, 0.6, 1.0), strict=True):
        torch.save(coarser(step).state_dict(), path)
    return paths


@pytest.fixture
def student_of(tmp_path: Path) -> Callable[..., Path]:
    """Saves a student as distillation does: ``student_of("tiny", "subpixel", "runs/last.pt", epoch=3)``; ``weigh`` may
    change it first."""

    def make(
        teacher: str,
        replacement: str,
        name: str,
        weigh: Callable[[FactorizedPrior], object] | None = None,
        **content: Any,
    ) -> Path:
        codec = load_codec(teacher)
        student, _ = swap(codec, replacement)
        if weigh:
            weigh(student)
        record = StudentRecord(
            N=codec.N,
            M=codec.M,
            replacement=replacement,
            kernel_size=None,
            teacher=teacher,
            quality=8,
            metric="mse",
            teacher_sha256=fingerprint(codec),
            same_latents=True,
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"student_state": student.state_dict(), "codec": asdict(record), "stage": "distill"}
        torch.save(state | content, path)
        return path

    return make
