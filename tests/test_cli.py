"""The command line: what it accepts, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from codecswap.cli import COMMANDS, main, parse, run
from codecswap.errors import UserError


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, codecswap, codecswap.cli; codecswap.cli.main(['--help']);"
        "bad = {'torch', 'numpy', 'lightning', 'jsonargparse'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_booleans_hyphens_and_equals() -> None:
    options = parse("distill", ["--train-igdn", "--use_prepared", "true", "--unfreeze_all=false", "--coco-dir", "x"])
    assert (options.train_igdn, options.use_prepared, options.unfreeze_all, options.coco_dir) == (
        True,
        True,
        False,
        "x",
    )
    assert options.given == {"train_igdn", "use_prepared", "unfreeze_all", "coco_dir"}
    assert parse("distill", ["--train_igdn", "False"]).train_igdn is False
    assert parse("finetune", ["--freeze_igdn", "--lr", "1e-5"]).freeze_igdn is True


def test_a_flag_does_not_take_the_positional_argument_after_it() -> None:
    options = parse("report", ["--watch", "a", "-o", "r.html", "b", "--runs=c"])
    assert (options.watch, options.runs, str(options.output)) == (True, ["a", "b", "c"], "r.html")
    assert [parse("distill", ["--compile", word]).compile for word in ("1", "off", "Yes")] == [True, False, True]


def test_positional_arguments_and_o() -> None:
    options = parse("encode", ["--codec", "tiny", "a.png", "-o", "a.csw", "--jobs", "2"])
    assert (options.input, str(options.output), options.jobs) == (["a.png"], "a.csw", 2)
    assert parse("encode", ["a.png", "--codec", "tiny"]) == parse("encode", ["--input=a.png", "--codec=tiny"])


def test_recipe_defaults() -> None:
    distill = parse("distill", [])
    assert (distill.epochs, distill.batch_size, distill.lr, distill.quality) == (15, 16, 1e-4, 8)
    assert (distill.lambda_l1, distill.lambda_msssim, distill.save_dir) == (1.0, 0.2, "./checkpoints")
    assert (distill.recon_every, distill.recon_count, distill.recon_subdir, distill.val_ratio) == (5, 16, "recon", 0.02)
    tune = parse("finetune", [])
    assert (tune.epochs, tune.save_dir, tune.recon_subdir) == (10, "./checkpoints_ft", "recon_ft")


def test_configuration_file_then_typed_options(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 3\nlr: 0.001\ntrain_igdn: true\n")
    options = parse("distill", ["--config", str(tmp_path / "a.yaml"), "--epochs", "4"])
    assert (options.epochs, options.lr, options.train_igdn) == (4, 1e-3, True)
    assert options.given == {"epochs", "lr", "train_igdn"}


def test_the_saved_configuration_is_a_configuration_file(tmp_path: Path) -> None:
    from codecswap.stages import STAGES
    from codecswap.training.start import make_folder

    options = parse("finetune", ["--epochs", "2", "--save_dir", str(tmp_path), "--freeze_igdn"])
    make_folder(STAGES["finetune"], options, None)
    assert parse("finetune", ["--config", str(tmp_path / "config.yaml")]) == options


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "x"],
        ["--nope"],
        ["--kernel_size", "4"],
        ["--coco_dir"],
        ["stray"],
        ["--use_prepared", "perhaps"],
        ["--amp", "64"],
        ["--config", "missing.yaml"],
    ],
)
def test_bad_arguments_are_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError):
        parse("distill", arguments)
    assert run("distill", arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("codecswap distill: ") and said.err.count("\n") == 1


def test_unknown_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["destil"]) == 2
    assert "there is no command 'destil'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "more"), [((3, 12, 1), ""), ((3, 13, 0), "with Python 3.11 or 3.12 (for 3.13 CompressAI")]
)
def test_a_missing_extra_is_one_sentence(pictures: Path, version: tuple[int, ...], more: str) -> None:
    """In a process of its own: elsewhere in this one Lightning may have been imported already."""
    program = (
        "import sys; from types import SimpleNamespace; from codecswap import errors; from codecswap.cli import main\n"
        "sys.modules['lightning.pytorch'] = None\n"
        f"errors.sys = SimpleNamespace(version_info={version})\n"
        f"sys.exit(main(['distill', '--coco_dir', {str(pictures)!r}, '--teacher', 'tiny']))"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    said = ran.stderr
    assert ran.returncode == 2 and "pip install '.[train]'" in said and said.count("\n") == 1
    assert more in said and ("--no-deps compressai" in said) == bool(more)


def bad_runs(pictures: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Runs that cannot work, and a part of the sentence each must give."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no picture")
    (tmp_path / "broken").mkdir()
    for index in range(60):
        (tmp_path / "broken" / f"{index}.jpg").write_text("no picture")
    (tmp_path / "file").write_text("in the way")
    torch.save({"student_state": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    good = ["--coco_dir", str(pictures), "--teacher", "tiny", "--batch_size", "4", "--num_workers", "0"]
    return {
        "missing folder": ([*good, "--coco_dir", str(tmp_path / "none")], "There is no folder"),
        "no pictures": ([*good, "--coco_dir", str(tmp_path / "text")], "There are no pictures"),
        "broken pictures": ([*good, "--coco_dir", str(tmp_path / "broken"), "--val_ratio", "0.2"], "can be read"),
        "batch": ([*good, "--batch_size", "9"], "larger than the 8 training pictures"),
        "folder": ([*good, "--save_dir", str(tmp_path / "file" / "x")], "cannot be written into it"),
        "not a checkpoint": ([*good, "--resume", str(tmp_path / "text" / "a.txt")], "not a checkpoint"),
        "other checkpoint": ([*good, "--resume", str(tmp_path / "other.pt")], "another architecture"),
        "no teacher": ([*good, "--teacher", str(tmp_path / "none.pth")], "There is no checkpoint"),
        "share": ([*good, "--val_ratio", "2"], "a share between 0 and 1"),
        "count": ([*good, "--max_images", "-1"], "--max_images is at least 1"),
        "epochs": ([*good, "--epochs", "-1"], "at least 0"),
        "devices": ([*good, "--accelerator", "abacus"], "cannot train on this"),
    }


def test_bad_input_is_one_sentence_and_leaves_nothing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, (arguments, sentence) in bad_runs(pictures, tmp_path).items():
        folder = tmp_path / f"run of {name}"
        arguments = arguments if "--save_dir" in arguments else [*arguments, "--save_dir", str(folder)]
        assert run("distill", arguments) == 2, name
        error = capsys.readouterr().err.strip().splitlines()
        assert sentence in error[-1] and error[-1].startswith("codecswap distill: "), (name, error)
        assert not any("Traceback" in line for line in error)
        assert not list(folder.rglob("*.pt*")), name


def test_a_list_is_what_all_its_options_say(tmp_path: Path) -> None:
    assert parse("quantize", ["--keep", "g_s.6", "--keep=g_s.4,g_s.2", "--keep+", "g_s.0"]).keep == [
        "g_s.6",
        "g_s.4",
        "g_s.2",
        "g_s.0",
    ]
    assert parse("quantize", ["--keep", "[g_s.6, g_s.4]"]).keep == ["g_s.6", "g_s.4"]
    (tmp_path / "c.yaml").write_text("keep: [g_s.0]")
    assert parse("quantize", ["--config", str(tmp_path / "c.yaml"), "--keep", "g_s.6"]).keep == ["g_s.6"]


def test_a_path_with_a_comma_is_one_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    assert parse("eval", ["--codec", "a,b"]).codec == ["a,b"]
    assert parse("eval", ["--codec", "a,c"]).codec == ["a", "c"]
    assert parse("report", ["x,y", "z"]).runs == ["x,y", "z"]


def test_more_positional_arguments_than_a_command_takes_are_refused() -> None:
    with pytest.raises(UserError, match="2 arguments are given for --codec, which takes one"):
        parse("page", ["a", "b"])


def test_yaml_means_what_the_command_line_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = tmp_path / "a.yaml"
    path.write_text('amp: 32\ndevices: 1\nepochs: "3"\nlr: 1e-3\nsave-dir: ~/run\nforce: yes\nteacher:\n')
    options = parse("distill", ["--config", "~/a.yaml"])
    assert (options.amp, options.devices, options.epochs, options.lr) == ("32", "1", 3, 1e-3)
    assert (options.save_dir, options.force, options.teacher) == (str(tmp_path / "run"), True, None)
    path.write_text("codec: a,b\nquality: 1\n")
    assert parse("eval", ["--config", str(path), "--quality=2"]).given == {"codec", "quality"}
    assert parse("eval", ["--config", str(path)]).codec == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("save_dir: [a, b]", "2 values for save_dir"),
        ("epochs:", "--epochs is an integer, not null"),
        ("3", "holds no options"),
        ("epoch: 3", "has epoch, which is no option"),
        ("lr: fast", "--lr is a number, not fast"),
        ("amp: 64", "--amp is 32 or bf16-mixed or 16-mixed, not 64"),
        ("lr: -1", "--lr is at least 0"),
        ("lambda_l1: .nan", "--lambda_l1 is a number, not nan"),
        ("epochs: 1\nepochs: 2", "gives epochs twice"),
        ("epochs: 1.5", "--epochs is an integer, not 1.5"),
        ("epochs: 2024-01-01", "--epochs is an integer, not 2024-01-01"),
        ("1: 2", "has 1, which is no option"),
        ("epochs: 1\n---\nlr: 1", "cannot be read as YAML"),
        ("epochs: 1\0", "cannot be read as YAML"),
        (b"\xff\xfee\0p\0", "is not text in UTF-8"),
        ("<!doctype html>", "holds no options"),
    ],
)
def test_yaml_that_is_refused(content: str | bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence):
        parse("distill", ["--config", str(tmp_path / "a.yaml")])


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert parse("distill", ["--save_dir=~/x"]).save_dir == str(tmp_path / "x")
    assert parse("encode", ["~/a.png", "-o", "~/a.csw"]).output == tmp_path / "a.csw"
    assert parse("eval", ["--codec", "~/a,~/b"]).codec == [str(tmp_path / "a"), str(tmp_path / "b")]


NO_TORCH = """
import sys
from codecswap import cli
code = cli.main(sys.argv[1:])
sys.exit(99 if {"torch", "lightning", "compressai"} & set(sys.modules) else code)
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["distill", "--coco_dir", "nowhere"], "There is no folder nowhere"),
        (["distill", "--teacher", "nowhere.pth"], "There is no checkpoint nowhere.pth"),
        (["finetune", "--resume_student", "nowhere.pt"], "There is no checkpoint nowhere.pt"),
        (["eval", "--images", "nowhere"], "There is no folder nowhere"),
        (["eval", "--codec", "nowhere"], "nowhere"),
        (["export", "--checkpoint", "nowhere.pt"], "There is no checkpoint nowhere.pt"),
        (["quantize", "--calibration_images", "nowhere"], "There is no folder nowhere"),
        (["compile", "--target", "rk9999"], "rk9999"),
        (["advise", "--images", "nowhere"], "There is no folder nowhere"),
        (["report", "nowhere"], "There is no folder nowhere"),
        (["distill", "--epochs", "many"], "epochs"),
    ],
)
def test_a_wrong_path_or_value_is_told_before_pytorch_is_imported(
    arguments: list[str], sentence: str, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="names are not bytes there")
def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    for name, encoding in ((b"\xe9.png", "utf-8"), ("\u6e05.png".encode(), "cp1252")):
        environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
        command = [sys.executable, "-c", NO_TORCH, "encode", "--codec", "tiny", name, "-o", "x.csw"]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
        assert done.returncode == 2 and b"Traceback" not in done.stderr and b".png" in done.stderr


ODD_NAMES = [
    "caf\udce9",
    "\x1b[31m",
    "new\nline",
    "\U0001f4f7",
    "cafe\u0301",
    "a\x7f",
    "-dash",
    "[x]",
    "a: b",
    "null",
    "1",
]
"""Bytes of Latin-1, control characters, an emoji, decomposed letters, and what looks like YAML."""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_a_file_is_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    options = parse("encode", ["--output", str(path), f"--codec={path}", "--input", str(path), "--", str(path), name])
    assert options.output == path and options.codec == str(path) and options.input == [str(path), str(path), name]
    text = yaml.safe_dump({"output": str(path), "input": [str(path)], "codec": str(path)})
    (tmp_path / "a.yaml").write_text(text)
    options = parse("encode", ["--config", str(tmp_path / "a.yaml")])
    assert options.output == path and options.codec == str(path) and options.input == [str(path)]


def test_a_message_is_one_line_without_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("decode", ["--codec", "tiny", "-o", "a.png", str(tmp_path / "a\n\x1b[31m.csw")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a\\n\\x1b[31m.csw" in said


def test_a_file_whose_name_begins_with_a_dash_is_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-a.png").touch()
    with pytest.raises(UserError, match=r"a file of that name is \./-a\.png"):
        parse("encode", ["-a.png"])


def test_a_recipe_changes_defaults_and_nothing_that_was_given() -> None:
    original, fast = (parse("distill", ["--recipe", name]) for name in ("original", "fast"))
    assert (original.lr, original.train_igdn, original.warmup_steps) == (1e-4, False, 50)
    assert (fast.lr, fast.train_igdn, fast.warmup_steps, fast.optimizer) == (5e-4, True, 200, "adam")
    given = parse("distill", ["--recipe", "fast", "--lr", "2e-4", "--train_igdn", "false"])
    assert (given.lr, given.train_igdn, given.warmup_steps) == (2e-4, False, 200)
