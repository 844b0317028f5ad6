"""Both READMEs are short, say the same, and name nothing that is not there; docs/options.md is what the option classes say."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from scripts import options

from codecswap.cli import COMMANDS

ROOT = Path(__file__).parents[1]
OPTION = re.compile(r"--([a-z]\w*)")
READMES = ("README.md", "README.ja.md")


def test_the_options_page_is_up_to_date() -> None:
    assert options.FILE.read_text(encoding="utf-8") == options.text(), "run `python -m scripts.options`"


def test_the_options_page_has_every_option_of_every_command() -> None:
    sections = dict(re.findall(r"^## `codecswap (\w+)[^\n]*\n(.*?)(?=^## |\Z)", options.text(), re.M | re.S))
    assert list(sections) == list(COMMANDS)
    for name, command in COMMANDS.items():
        rows = re.findall(r"^\| `--(\w+)` \| .+ \|.*\| \S.* \|$", sections[name], re.M)
        assert sorted(rows) == sorted(field.name for field in fields(command.options)), name


@pytest.mark.parametrize("name", READMES)
def test_the_readme_is_short_and_names_only_options_that_there_are(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    known = {field.name for command in COMMANDS.values() for field in fields(command.options)} | {"config"}
    assert set(OPTION.findall(text)) <= known
    assert set(re.findall(r"codecswap (\w+) -", text)) <= set(COMMANDS)


def test_files_that_readmes_and_docs_link_to_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_both_languages_have_the_same_tables() -> None:
    shapes = []
    for name in READMES:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        shapes.append([line.count("|") for line in lines if line.startswith("|")])
        shapes.append([line.count("#") for line in lines if line.startswith("#")])
    assert shapes[0] == shapes[2] and shapes[1] == shapes[3]
