"""Both READMEs name every command and every option, and nothing that is not there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from codecswap.cli import COMMANDS

ROOT = Path(__file__).parents[1]
OPTION = re.compile(r"--([a-z]\w*)")


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_every_option_is_in_the_readme(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    known = {field.name for command in COMMANDS.values() for field in fields(command.options)}
    named = set(OPTION.findall(text))
    assert known <= named, f"{name} does not name {sorted(known - named)}"
    assert named <= known | {"config", "flag", "help"}, f"{name} names {sorted(named - known)}, which nothing takes"
    assert all(f"codecswap {command}" in text for command in COMMANDS)


def test_files_named_in_the_readme_exist() -> None:
    for name in ("README.md", "README.ja.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name} links to {target}"


def test_both_languages_have_the_same_tables() -> None:
    shapes = []
    for name in ("README.md", "README.ja.md"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        shapes.append([line.count("|") for line in lines if line.startswith("|")])
        shapes.append([line.count("#") for line in lines if line.startswith("#")])
    assert shapes[0] == shapes[2] and shapes[1] == shapes[3]
