"""A long run in fast-forward leaks nothing; `benchmarks/soak.py` at full length is in docs/reliability.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_memory_handles_and_workers_stay_flat() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--steps", "3000", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout[done.stdout.rindex("{") :])
    assert result["steps"] == 3000
    assert result["memory_mb_per_1000_steps"] < 2, "a short run has noise; a leak of one picture a step would be 600"
    assert result["open_files"][0] == result["open_files"][1]
    assert result["processes"][0] == result["processes"][1] and result["children_left"] == 0
