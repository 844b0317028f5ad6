"""How many cores a process may use."""

import os
from pathlib import Path

import pytest

from codecswap import processes


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("30000 100000", 1),
        ("6400000 100000", 8),
        ("max 100000", 8),
        ("", 8),
    ],
)
def test_a_containers_share_of_time_counts(
    limit: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert processes.cores() == wanted
