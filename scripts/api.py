"""Write docs/api.md, the Python API, from the docstrings of what `codecswap` exports: `python -m scripts.api`."""

import inspect
import re
import typing
from pathlib import Path

import codecswap

FILE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# Python API

Written by `python -m scripts.api` from the docstrings. Everything here comes with `from codecswap import ...`, and is
imported when it is first used. [examples/](../examples) has a short script for each main job.
"""
METHODS = ("compress", "decompress")
"""Methods of codecs that belong to the API."""


def main() -> None:
    """Write the file."""
    FILE.write_text(text(), "utf-8")


def text() -> str:
    """The content of docs/api.md."""
    sections = [HEAD, *(_section(name, getattr(codecswap, name)) for name in codecswap.__all__)]
    for name in METHODS:
        sections.append(_section(f"codec.{name}", getattr(codecswap.open_codec.__annotations__["return"], name)))
    return "\n".join(sections)


def _section(name: str, thing: object) -> str:
    kind = "" if inspect.isclass(thing) else f"\n```python\n{_signature(name, thing)}\n```\n"
    return f"## `{name}`\n{kind}\n{_docstring(inspect.getdoc(thing) or '')}\n"


def _signature(name: str, function: object) -> str:
    """A function's signature, with a line for each parameter where it is long."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]  # type: ignore[arg-type]
    returns = inspect.formatannotation(inspect.signature(function).return_annotation)  # type: ignore[arg-type]
    words = []
    for place, one in enumerate(parameters):
        if one.kind is one.KEYWORD_ONLY and (not place or parameters[place - 1].kind is not one.KEYWORD_ONLY):
            words.append("*")
        options = typing.get_args(one.annotation) if one.kind is one.VAR_KEYWORD else ()
        if options:  # Unpack[...]: options by name, with the defaults of the command
            hints = typing.get_type_hints(options[0])
            words += [_short(f"{key}: {inspect.formatannotation(kind)} = ...") for key, kind in hints.items()]
        else:
            words.append(_short(str(one)))
    line = f"{name}({', '.join(words)}) -> {_short(returns)}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(words) + f",\n) -> {_short(returns)}"


def _short(annotation: str) -> str:
    """Types without their modules; a function that is a default has no text that stays the same."""
    return re.sub(r"<function .*? at 0x\w+>", "...", re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", annotation))


def _docstring(text: str) -> str:
    """Google-style sections as Markdown lists, references as code."""
    lines, inside = [], False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises):", line):
            lines += [f"**{line.rstrip(':')}**", ""]
            inside = True
        elif inside and (entry := re.fullmatch(r" {4}(\w[\w, *`.]*): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif inside and line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            inside = inside and not line.strip()
            lines.append(re.sub(r"^Returns: ", "**Returns** ", line))
    return re.sub(r"(?<!`)`codecswap\.([\w.]+)`", r"`\1`", "\n".join(lines)).replace("``", "`").strip()


if __name__ == "__main__":
    main()
