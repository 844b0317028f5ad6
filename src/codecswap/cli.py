"""The command line: a table of commands, whose options are the classes in config/.

Heavy libraries are imported by the commands, not here, so that ``codecswap --help`` is fast.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from codecswap import config
from codecswap.console import one_line, show_any_name, showing_warnings
from codecswap.errors import UserError, how_to_install
from codecswap.identify import no_file
from codecswap.stages import STAGES

MOST_CONFIG = 1 << 17
"""Most bytes of a YAML file of options."""
ANY_CPU = "cpu"
"""A ``--target`` of `codecswap rewrite` without a TOML file."""
MOST_WORDS = 500
"""Characters of an error message about options: it may contain a value of any length."""
BOOLEANS = {"true": "true", "yes": "true", "on": "true", "1": "true"}
BOOLEANS |= {"false": "false", "no": "false", "off": "false", "0": "false"}
"""Values of a boolean option."""


STAND_INS = {code: 0x100000 + code for code in (*range(32), *range(127, 160), *range(0xDC80, 0xDD00))}
"""Private characters for those that the parser cannot take, but names of files can contain: control characters, and
surrogates, in which Python keeps bytes that are not UTF-8."""
ORIGINALS = {private: code for code, private in STAND_INS.items()}


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
    """Option that positional arguments are added to."""


COMMANDS = {
    "prepare": Command(config.PrepareOptions, "data.prepare.command:main", extra=None),
    **{stage.name: Command(stage.options, "training.command:main") for stage in STAGES.values()},
    "eval": Command(config.EvalOptions, "evaluation.command:main"),
    "report": Command(config.ReportOptions, "report.command:main", argument="runs"),
    "advise": Command(config.AdviseOptions, "advice.command:main"),
    "benchmark": Command(config.BenchmarkOptions, "benchmarking.command:main", extra="deploy"),
    "demo": Command(config.DemoOptions, "demo:main"),
    "export": Command(config.ExportOptions, "export.command:main", extra="deploy"),
    "quantize": Command(config.QuantizeOptions, "quantize.command:main", extra="deploy"),
    "compile": Command(config.CompileOptions, "compile.command:main", extra="deploy"),
    "rewrite": Command(config.RewriteOptions, "rewrite.command:main", extra="rewrite", argument="file"),
    "page": Command(config.PageOptions, "page.command:main", extra=None, argument="codec"),
    "encode": Command(config.EncodeOptions, "coding.command:encode", extra=None, argument="input"),
    "decode": Command(config.DecodeOptions, "coding.command:decode", extra=None, argument="input"),
    "verify": Command(config.VerifyOptions, "archives.command:main", extra="archive", argument="archive"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``codecswap`` with ``argv`` (default: ``sys.argv``); returns the exit code."""
    show_any_name()
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

    Returns: the exit code: 0, or, after one sentence on stderr, 2 (wrong input), 1 (the run failed) or 128 + n (signal n); 3
        where a command's result has something to look at.
    """
    show_any_name()
    command = COMMANDS[name]
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parse(name, arguments)
        _check(options)
        with showing_warnings():
            return _function(command)(options) or 0
    except UserError as error:
        print(f"codecswap {name}: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the program that read our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"codecswap {name}: {one_line(_os_sentence(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"codecswap {name}: stopped.", file=sys.stderr)
        return 130


def _check(options: config.Options) -> None:
    """Check paths and targets before PyTorch is imported, which takes seconds."""
    options.check_paths()
    if (target := getattr(options, "target", None)) not in (None, ANY_CPU):
        from codecswap.targets.target import load_target

        load_target(target)


def launch(name: str) -> NoReturn:
    """Run one command with ``sys.argv`` and exit with its code; the recipe's scripts call this."""
    sys.exit(run(name))


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Read a command's options from its arguments, and from the YAML file that ``--config`` names.

    Hyphens and underscores in names are the same; a boolean option takes ``--flag``, ``--flag true`` or ``--flag false``; a
    leading ``~`` is the home folder. A value in the file means what it means on the command line, which comes first.

    Returns: the options; they record which were explicitly set.

    Raises:
        UserError: an argument is unknown, or a value is not allowed.
    """
    import jsonargparse

    command = COMMANDS[name]
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"codecswap {name}", description=command.options.__doc__, exit_on_error=False, default_env=False
    )
    parser.add_argument("--config", help="YAML file with any of these options.")
    parser.add_class_arguments(command.options, nested_key=None, fail_untyped=False)
    if any(word in ("-h", "--help") for word in arguments):
        parser.print_help()
        raise SystemExit(0)
    kinds = {field.name: field.type for field in fields(command.options)}
    given = _given(name, kinds, arguments)
    if path := given.pop("config", None):
        given = _read_config(Path(path), kinds) | given
    if empty := [option for option, value in given.items() if value is None]:
        raise UserError(f"--{empty[0]} is given without a value: give it one, or omit it.")
    words = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}".translate(STAND_INS)
        for key, value in given.items()
    ]
    try:
        values = {name: _named(value) for name, value in vars(parser.parse_args(words, defaults=False)).items()}
    except (jsonargparse.ArgumentError, ValueError, OverflowError) as error:  # (the last: numbers that are too long)
        sentence = " ".join(str(getattr(error, "message", error) or error).split())
        if (found := re.search(r'Parser key "(\w+)"', sentence)) and found[1] in given:
            sentence = f"--{found[1]} is {_wanted(kinds[found[1]])}, not {given[found[1]]}"
        sentence = sentence if len(sentence) < MOST_WORDS else f"{sentence[:MOST_WORDS]} [...]"
        raise UserError(f"{sentence.rstrip('.')}. See `codecswap {name} --help`.") from None
    for option, value in values.items():  # the parser accepts null for any option
        if value is None and type(None) not in get_args(kinds[option]):
            raise UserError(f"--{option} is given without a value (null): give it one, or omit it.")
    return command.options(**values)


def _named(value: Any) -> Any:
    """An option's value with the characters that `STAND_INS` replaced."""
    if isinstance(value, list):
        return [_named(one) for one in value]
    return type(value)(str(value).translate(ORIGINALS)) if isinstance(value, str | Path) else value


def _given(command: str, kinds: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The options on a command line: text, a list of texts where several values are taken, or None without a value.

    Raises:
        UserError: an option is unknown, or positional arguments are more than the command takes.
    """
    words, given, argument, positional = list(arguments), dict[str, Any](), COMMANDS[command].argument, 0
    ended = False
    while words:
        word = words.pop(0)
        if word == "--" and not ended:  # what follows is no option, whatever it begins with
            ended = True
            continue
        if word == "-o" and not ended:
            word = "--output"
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_").removesuffix("+")
        named = word.startswith("--") and not ended
        if not named:
            if argument is None or (word.startswith("-") and not ended):
                raise UserError(
                    f"{word} is no option of this command: see `codecswap {command} --help`"
                    f"{f' (a file of that name is ./{word})' if os.path.exists(word) else ''}."
                )
            name, equals, value, positional = argument, "=", word, positional + 1
        elif name not in kinds and name != "config":
            raise UserError(f"--{name} is no option of this command: see `codecswap {command} --help`.")
        elif not equals and words:
            follows = words[0].lower() in BOOLEANS if kinds.get(name) is bool else not words[0].startswith("--")
            equals, value = ("=", words.pop(0)) if follows else ("", "")
        if kinds.get(name) is bool:
            given[name] = BOOLEANS.get(value.lower(), value) if equals else "true"
        elif not equals:
            given[name] = None
        elif get_origin(kinds.get(name)) is list:
            given.setdefault(name, []).extend(_several(value) if named else [_home(value)])
        else:
            given[name] = _home(value)
    if positional > 1 and get_origin(kinds[str(argument)]) is not list:
        raise UserError(f"{positional} arguments are given for --{argument}, which takes one.")
    return given


def _wanted(kind: Any) -> str:
    """Allowed values of an option, as text."""
    if kinds := [part for part in get_args(kind) if part is not type(None)]:
        return " or ".join(str(part) if get_origin(kind) is Literal else _wanted(part) for part in kinds)
    return {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "text")


def _several(value: str) -> list[str]:
    """The values in ``A``, ``A,B`` or ``[A, B]``; a path with a comma in its name is one value."""
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    elif Path(_home(value)).exists():
        return [_home(value)]
    return [_home(part.strip().strip("'\"")) for part in value.split(",")]


def _home(value: str) -> str:
    return os.path.expanduser(value) if value.startswith("~") else value


def _read_config(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a YAML file, as `_given` has them.

    YAML that options never need is refused before it is parsed: it can expand to any size, or name code to run.

    Raises:
        UserError: there is no such file, it is not YAML, it has aliases, tags or nested values, or an option is unknown.
    """
    import yaml

    if not path.is_file():
        raise no_file(path, "YAML file", "check --config")
    if path.stat().st_size > MOST_CONFIG:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, too many for options: check --config.")
    loader = yaml.SafeLoader  # libyaml refuses the escapes of names that are not UTF-8
    depth = 0
    try:
        text = path.read_text("utf-8-sig")
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            refused = "an alias" if isinstance(event, yaml.AliasEvent) else getattr(event, "tag", None)
            if depth > 2 or (depth == 2 and isinstance(event, yaml.MappingStartEvent)):
                refused = "a value inside a value"
            if refused:
                line = f", line {event.start_mark.line + 1}," if event.start_mark else ""
                raise UserError(f"{path}{line} has {refused[:80]}, which no option takes: write plain values.")
        node = loader(text).get_single_node()
        content = loader(text).get_single_data()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it in that encoding, or check --config.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}): check --config.") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds no options: write one on each line, e.g. epochs: 15.")
    keys = [key.value for key, _ in node.value] if node and content else []
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise UserError(f"{path} gives {min(twice)[:80]} twice: leave one of them.")
    given = dict[str, Any]()
    for key, value in (content or {}).items():
        name = str(key).replace("-", "_")
        if name not in kinds:
            raise UserError(f"{path} has {str(key)[:80]}, which is no option of this command.")
        if (several := get_origin(kinds[name]) is list) and value is not None:
            given[name] = [_text(one) for one in value] if isinstance(value, list) else _several(_text(value))
        elif isinstance(value, list) and not several:
            raise UserError(f"{path} gives {len(value)} values for {name}, which takes one.")
        else:
            whole = isinstance(value, float) and value.is_integer() and int in (kinds[name], *get_args(kinds[name]))
            given[name] = str(int(value)) if whole else _text(value)
    return given


def _text(value: Any) -> str:
    """A value of YAML as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else _home(str(value))


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
