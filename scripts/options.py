"""Write docs/options.md, the table of every option, from the option classes: `python -m scripts.options`."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse_from_object

from codecswap.cli import COMMANDS

FILE = Path(__file__).parents[1] / "docs" / "options.md"
KINDS = {bool: "flag", int: "integer", float: "number", str: "text", Path: "path"}
HEAD = """# Every option

Written by `python -m scripts.options` from `src/codecswap/config`; `codecswap COMMAND --help` shows the same.

Hyphens and underscores in names are the same. A flag is given as `--flag`, `--flag true` or `--flag false`. An option with
"several" may be repeated, or given values separated by commas. A leading `~` is the home folder. `--config FILE.yaml` reads
options from a file, where values mean what they mean here; options on the command line override it.
"""


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), "utf-8")


def text() -> str:
    """The content of docs/options.md."""
    sections = [HEAD]
    for name, command in COMMANDS.items():
        usage = f" {command.argument.upper()}" if command.argument else ""
        rows = "".join(_rows(command.options))
        sections.append(
            f"## `codecswap {name}{usage}`\n\n{command.options.__doc__}\n\n"
            f"| option | value | default | meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n".join(sections)


def _rows(options: type) -> list[str]:
    """A row for each option, the command's own first."""
    classes = [base for base in options.__mro__ if is_dataclass(base)]
    owner = {key: place for place, base in reversed(list(enumerate(classes))) for key in base.__annotations__}
    meaning = {
        param.arg_name: param.description or ""
        for base in reversed(classes)
        for param in parse_from_object(base).params
    }
    rows = []
    for field in sorted(fields(options), key=lambda field: owner[field.name]):
        default = field.default if field.default is not MISSING else ""
        default = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        words = " ".join(meaning[field.name].split()).replace("|", "\\|")
        rows.append(f"| `--{field.name}` | {_kind(field.type)} | {default} | {words} |\n")
    return rows


def _kind(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    return f"{_kind(get_args(kind)[0])}, several" if get_origin(kind) is list else KINDS[kind]


if __name__ == "__main__":
    main()
