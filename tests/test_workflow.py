"""The workflow for GitHub: it calls make, and what it calls is there."""

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
JOBS = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def test_every_step_is_make_but_for_what_make_needs() -> None:
    runs = [shlex.split(step["run"]) for step in STEPS if "run" in step]
    targets = [words[1] for words in runs if words[0] == "make"]
    assert targets == ["test-deps", "check", "test", "dist"]
    assert all(words[0] in ("make", "apt-get") for words in runs)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_variables_that_it_sets_are_read() -> None:
    names = {name for step in STEPS for name in step.get("env", {})}
    text = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    assert names and all(name in text for name in names)
