"""Both READMEs are short, say the same, and name nothing that is not there; docs/options.md is what the option classes say."""

import re
import shlex
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from scripts import api, options

from codecswap import cli
from codecswap.cli import COMMANDS

ROOT = Path(__file__).parents[1]
OPTION = re.compile(r"--([a-z]\w*)")
READMES = ("README.md", "README.ja.md")


def test_the_options_page_is_up_to_date() -> None:
    assert options.FILE.read_text(encoding="utf-8") == options.text(), "run `python -m scripts.options`"


def test_the_api_page_is_up_to_date() -> None:
    assert api.FILE.read_text(encoding="utf-8") == api.text(), "run `python -m scripts.api`"


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


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`codecswap ([a-z]+) (--[^`]*)`")
SCRIPTS = {
    "python -m scripts.coco_prepare": "prepare",
    "python src/train_distill.py": "distill",
    "python finetune_after_distill.py": "finetune",
    "python -m src.eval": "eval",
}


def documented() -> list[tuple[str, str]]:
    """Every command line in the code blocks of READMEs and docs: the page, and the line without its comment."""
    found = []
    for page in PAGES:
        for block in FENCED.findall(page.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for script, name in SCRIPTS.items():
                    line = line.replace(script, f"codecswap {name}")
                if line.startswith("codecswap ") or "bin/codecswap " in line:
                    found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), documented())
def test_every_documented_command_parses(page: str, line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    cli.parse(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_sentences_name_only_their_own_options(page: Path) -> None:
    for name, arguments in INLINE.findall(page.read_text("utf-8")):
        known = {field.name for field in fields(COMMANDS[name].options)} | {"config"}
        assert set(OPTION.findall(arguments)) <= known, f"codecswap {name} {arguments}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_modules_and_files_in_sentences_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in re.findall(r"python -m ((?:benchmarks|scripts|codecswap)[.\w]*)", text):
        found = ROOT.joinpath("src" if name.startswith("codecswap") else "", *name.split("."))
        assert found.with_suffix(".py").exists() or found.is_dir(), f"{page.name}: {name}"
    for name in re.findall(r"`((?:src|tests|docs|examples|benchmarks|scripts)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_files_that_readmes_and_docs_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def said(section: str) -> tuple[Counter, ...]:
    """What a section of a README says in any language: commands and code, figures, links and the shape of its tables."""
    blocks = [line.split("#")[0].strip() for block in FENCED.findall(section) for line in block.splitlines()]
    prose = FENCED.sub("", section)
    code, prose = re.findall(r"`([^`]+)`", prose), re.sub(r"`[^`]+`", "", prose)
    links, prose = re.findall(r"\]\(([^)]+)\)", prose), re.sub(r"\]\([^)]+\)", "]", prose)
    figures = [figure.replace(",", "") for figure in re.findall(r"\d[\d.,]*\d|\d", prose)]
    tables = [str(line.count("|")) for line in prose.splitlines() if line.startswith("|")]
    return tuple(map(Counter, (filter(None, blocks), code, links, figures, tables)))


def test_both_languages_say_the_same() -> None:
    english, japanese = (re.split(r"^## ", (ROOT / name).read_text("utf-8"), flags=re.M) for name in READMES)
    assert len(english) == len(japanese)
    for ours, theirs in zip(english[1:], japanese[1:], strict=True):
        assert said(ours) == said(theirs), ours.splitlines()[0]
