"""The command line: a table of commands; their options come from the classes in config/.

Heavy libraries are imported by the commands, not here, so that ``codecswap --help`` is fast.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from codecswap import config
from codecswap.errors import UserError, how_to_install
from codecswap.stages import STAGES

MOST_CONFIG = 1 << 20
"""Most bytes of a YAML file of options."""
MOST_WORDS = 500
"""Characters of an error message about options: it may contain a value of any length."""
BOOLEANS = {"true": "true", "yes": "true", "on": "true", "1": "true"}
BOOLEANS |= {"false": "false", "no": "false", "off": "false", "0": "false"}
"""Values of a boolean option."""


@dataclass(frozen=True)
class Command:
    """One sub-command."""

    options: type
    """Dataclass of its options."""
    function: str
    """``module:function`` inside codecswap; it takes the options."""
    extra: str | None = "train"
    """The extra that must be installed for it."""
    argument: str | None = None
    """The option that positional arguments are for."""


COMMANDS = {
    "prepare": Command(config.PrepareOptions, "data.prepare.command:main", extra=None),
    **{stage.name: Command(stage.options, "training.loop:train") for stage in STAGES.values()},
    "eval": Command(config.EvalOptions, "evaluation.command:main"),
    "report": Command(config.ReportOptions, "report.command:main", argument="runs"),
    "advise": Command(config.AdviseOptions, "advise:main"),
    "demo": Command(config.DemoOptions, "demo:main"),
    "export": Command(config.ExportOptions, "export.command:main", extra="deploy"),
    "quantize": Command(config.QuantizeOptions, "quantize.command:main", extra="deploy"),
    "compile": Command(config.CompileOptions, "compile.command:main", extra="deploy"),
    "page": Command(config.PageOptions, "page.command:main", extra=None, argument="codec"),
    "encode": Command(config.EncodeOptions, "coding:encode", extra=None, argument="input"),
    "decode": Command(config.DecodeOptions, "coding:decode", extra=None, argument="input"),
}

IN_INTEGERS = Command(config.FinetuneOptions, "compile.finetune:finetune", extra="deploy")
"""``finetune --quantized``, which needs what writes files for devices."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``codecswap`` with ``argv`` (default: ``sys.argv``); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name = {"distil": "distill", "quantise": "quantize"}.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        print(f"codecswap: there is no command {name!r}; the commands are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return run(name, arguments[1:])


def run(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: the exit code: 0, or, after one sentence on stderr, 2 (wrong input), 1 (the run failed) or 128 + n (signal n).
    """
    command = COMMANDS[name]
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parse(name, arguments)
        if getattr(options, "quantized", None):
            command = IN_INTEGERS
        return _function(command)(options) or 0
    except UserError as error:
        print(f"codecswap {name}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the program that read our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"codecswap {name}: {_os_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"codecswap {name}: stopped.", file=sys.stderr)
        return 130


def launch(name: str) -> NoReturn:
    """Run one command with ``sys.argv`` and exit with its code; the recipe's scripts call this."""
    sys.exit(run(name))


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Read a command's options from its arguments (and ``--config FILE.yaml``).

    Hyphens and underscores in names are the same; a boolean option takes ``--flag``, ``--flag true`` or ``--flag false``.

    Returns: the options; they know which of them were given on the command line or in the file.

    Raises:
        UserError: an argument is unknown, or a value is not allowed.
    """
    import jsonargparse

    command = COMMANDS[name]
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"codecswap {name}", description=command.options.__doc__, exit_on_error=False, default_env=False
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file with any of these options.")
    parser.add_class_arguments(command.options, nested_key=None, fail_untyped=False)
    normal = _normalize(command, arguments)
    for word in normal:
        key, _, value = word.partition("=")
        if value and len(key) > len("--co") and "--config".startswith(key):  # argparse accepts unique prefixes
            _check_config(Path(value))
    try:
        values = {k: v for k, v in vars(parser.parse_args(normal, defaults=False)).items() if k != "config"}
    except (jsonargparse.ArgumentError, ValueError, OverflowError) as error:  # (the last: numbers that are too long)
        sentence = " ".join(str(getattr(error, "message", error) or error).split())
        sentence = sentence if len(sentence) < MOST_WORDS else f"{sentence[:MOST_WORDS]} [...]"
        raise UserError(f"{sentence.rstrip('.')}. See `codecswap {name} --help`.") from None
    for field in fields(command.options):  # the parser accepts null for any option
        if values.get(field.name, field) is None and type(None) not in get_args(field.type):
            raise UserError(f"--{field.name} is given without a value (null): give it one, or omit it.")
    return command.options(**values)


def _check_config(path: Path) -> None:
    """Refuse YAML that options never need, before it is parsed: it can expand to any size, or name code to run.

    Raises:
        UserError: there is no such file, it is not YAML, or it has aliases, tags or nested values.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"There is no file {path}: check --config.")
    if path.stat().st_size > MOST_CONFIG:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, too many for options: check --config.")
    depth = 0
    try:
        for event in yaml.parse(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            refused = "an alias" if isinstance(event, yaml.AliasEvent) else getattr(event, "tag", None)
            if depth > 2 or (depth == 2 and isinstance(event, yaml.MappingStartEvent)):
                refused = "a value inside a value"
            if refused:
                line = f", line {event.start_mark.line + 1}," if event.start_mark else ""
                raise UserError(f"{path}{line} has {refused[:80]}, which no option takes: write plain values.")
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}): check --config.") from None


def _normalize(command: Command, arguments: Sequence[str]) -> list[str]:
    """The arguments as ``--name=value``, which is all that the parser takes.

    jsonargparse itself refuses ``--flag`` without a value and a list given twice, knows no hyphens in names, and hands
    positional arguments to the options in their order, one to each.
    """
    kinds = {field.name: get_origin(field.type) or field.type for field in fields(command.options)}
    words, result = list(arguments), []
    lists: dict[str, list[str]] = {}
    while words:
        word = words.pop(0)
        if command.argument and not word.startswith("-"):
            word = f"--{command.argument}={word}"
        elif word == "-o":
            word = "--output"
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            result.append(word)
            continue
        name = name[2:].replace("-", "_")
        kind = kinds.get(name)
        if not equals and words and (words[0].lower() in BOOLEANS if kind is bool else not words[0].startswith("--")):
            equals, value = "=", words.pop(0)
        if kind is bool:
            equals, value = "=", BOOLEANS.get(value.lower(), value) if equals else "true"
        if kind is list and equals and not value.startswith("["):
            lists.setdefault(name, []).append(value)
        else:
            result.append(f"--{name}{equals}{value}")
    return result + [f"--{name}={json.dumps(values)}" for name, values in lists.items()]


def _function(command: Command) -> Any:
    """Import a command's function.

    Raises:
        UserError: a package is missing; the sentence names its extra.
    """
    module, _, function = command.function.partition(":")
    try:
        return getattr(importlib.import_module(f"codecswap.{module}"), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("codecswap"):
            raise
        how = how_to_install(command.extra)
        raise UserError(f"This command needs {error.name}, which is not installed: {how}.") from None


def _os_sentence(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}. Check the path, its permissions and the free space."


def _overview() -> str:
    lines = [
        "usage: codecswap COMMAND [OPTIONS]",
        "",
        "Replace the transposed convolutions of a learned image codec, and train the result.",
        "",
    ]
    lines += [f"  {name:<12}{(command.options.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "`codecswap COMMAND --help` lists a command's options."])


if __name__ == "__main__":
    sys.exit(main())
