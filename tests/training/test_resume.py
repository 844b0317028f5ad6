"""Going on with a run: from the newest whole checkpoint, and only with the same teacher and pictures."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from codecswap.cli import run
from codecswap.codecs.source import fingerprint
from codecswap.students.checkpoint import read_student

FAST = [
    *("--batch_size", "2", "--num_workers", "0", "--recon_count", "1", "--accelerator", "cpu", "--warmup_steps", "0"),
    *("--init", "weights"),
]


def distill(pictures: Path, folder: Path, *options: str, teacher: str = "tiny") -> int:
    return run(
        "distill", ["--coco_dir", str(pictures), "--save_dir", str(folder), "--teacher", teacher, *FAST, *options]
    )


@pytest.fixture
def begun(pictures: Path, tmp_path: Path) -> Path:
    """The folder of a run of one epoch."""
    assert distill(pictures, tmp_path / "run", "--epochs", "1") == 0
    return tmp_path / "run"


def test_auto_starts_afresh_and_goes_on(pictures: Path, tmp_path: Path, capsys) -> None:
    assert distill(pictures, tmp_path, "--epochs", "1", "--resume", "auto") == 0
    assert "a fresh start" in capsys.readouterr().out
    assert distill(pictures, tmp_path, "--epochs", "2", "--resume", "auto") == 0
    assert f"Resuming {tmp_path / 'last.pt'}, after 1 epoch." in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert [(start["epoch"], start["resumed"]) for start in record["starts"]] == [
        (0, None),
        (1, str(tmp_path / "last.pt")),
    ]


def test_auto_takes_an_undamaged_checkpoint(pictures: Path, begun: Path, capsys) -> None:
    content = (begun / "last.pt").read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:100_000] + bytes(64) + content[100_064:]):
        (begun / "last.pt").write_bytes(damaged)
        assert distill(pictures, begun, "--epochs", "1", "--resume", "auto") == 0
        said = capsys.readouterr()
        assert "damaged" in said.err and "left out" in said.err
        assert f"Resuming {begun / 'best_msssim.pt'}" in said.out
        # as after a kill between the two at the end of the last epoch: no step is left that would write it
        assert read_student(begun / "last.pt").progress == (1, 0)


@pytest.mark.slow
def test_another_teacher_is_refused_unless_forced(pictures: Path, begun: Path, tmp_path: Path, teacher, capsys) -> None:
    with torch.no_grad():
        teacher.g_s[0].bias += 1e-3
    other = str(tmp_path / "other.safetensors")
    save_file(dict(teacher.state_dict()), other)
    assert distill(pictures, begun, "--epochs", "2", "--resume", "auto", teacher=other) == 2
    expected = read_student(begun / "last.pt").record.teacher_sha256  # type: ignore[union-attr]
    said = capsys.readouterr().err
    assert fingerprint(teacher)[:12] in said and str(expected)[:12] in said and "name the right one" in said
    assert distill(pictures, begun, "--epochs", "2", "--resume", "auto", "--force", teacher=other) == 0
    assert "--force goes on" in capsys.readouterr().err
    forced = read_student(begun / "last.pt").content["forced"]
    assert len(forced) == 1 and "is not the one" in forced[0]
    assert json.loads((begun / "run.json").read_text())["starts"][1]["forced"] == forced
    assert distill(pictures, begun, "--epochs", "3", "--resume", "auto", teacher=other) == 0, (
        "it is the run's teacher now"
    )
    assert read_student(begun / "last.pt").content["forced"] == forced, "it is never forgotten"


@pytest.mark.slow
def test_other_pictures_are_refused_unless_forced(pictures: Path, begun: Path, tmp_path: Path, capsys) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    assert distill(moved, begun, "--epochs", "2", "--resume", "auto") == 0, "the same pictures elsewhere are the same"
    next((moved / "train").iterdir()).unlink()
    capsys.readouterr()
    assert distill(moved, begun, "--epochs", "3", "--resume", "auto") == 2
    said = capsys.readouterr().err
    assert "7 for training and 2 held out" in said and "8 for training and 2 held out" in said and "--force" in said
    assert read_student(begun / "last.pt").progress == (2, 0), "nothing was touched"
    assert distill(moved, begun, "--epochs", "3", "--resume", "auto", "--force") == 0
    assert "are not those" in read_student(begun / "last.pt").content["forced"][0]


def test_what_orders_an_epoch_cannot_change_within_it(pictures: Path, begun: Path, capsys, monkeypatch) -> None:
    from codecswap.training import saving

    save = saving.Checkpoints.save

    def save_and_stop(self: saving.Checkpoints, trainer: object, name: str) -> None:
        save(self, trainer, name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(saving.Checkpoints, "save", save_and_stop)
        distill(pictures, begun, "--epochs", "2", "--resume", "auto", "--save_every_steps", "1")
    assert read_student(begun / "last.pt").progress == (1, 1)
    for option in ("--batch_size", "--seed"):
        assert distill(pictures, begun, "--epochs", "2", "--resume", "auto", option, "4") == 2
        assert "middle of an epoch" in capsys.readouterr().err


def test_weights_that_are_not_those_saved_are_refused(pictures: Path, begun: Path, capsys) -> None:
    content = torch.load(begun / "last.pt", weights_only=True)
    content["student_state"]["g_s.0.1.bias"][0] += 1e-6
    torch.save(content, begun / "last.pt")
    assert run("eval", ["--coco_dir", str(pictures), "--checkpoint", str(begun / "last.pt")]) == 2
    assert "not those that were saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "last", "option"), [("distill", "last.pt", "--resume"), ("finetune", "ft_last.pt", "--resume_ft")]
)
def test_the_recipes_own_checkpoint_goes_on(
    pictures: Path, tmp_path: Path, teacher, capsys, stage: str, last: str, option: str
) -> None:
    from codecswap.swaps.apply import swap

    student, _ = swap(teacher)
    optimizer = torch.optim.Adam(student.g_s.parameters(), 1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    recipes = {"epoch": 1, "student_state": student.state_dict(), "best_msssim": 0.5}
    recipes |= {"opt_state": optimizer.state_dict(), "sched_state": schedule.state_dict()}
    torch.save(recipes, tmp_path / last)
    options = ["--coco_dir", str(pictures), "--save_dir", str(tmp_path), "--teacher", "tiny", *FAST]
    options = [word for word in options if stage == "distill" or word not in ("--init", "weights")]
    assert run(stage, [*options, option, str(tmp_path / last), "--epochs", "3"]) == 0
    said = capsys.readouterr().out
    assert f"{last} of the original recipe, after 2 epochs" in said and "its optimizer, schedule" in said
    assert said.count("epoch 3/3: loss") == 1 and "epoch 1/3" not in said and "epoch 2/3" not in said
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "0"], ["2", "4"]], (
        "the start, and the epoch that was left"
    )
    assert run(stage, [option, str(tmp_path / last), "--epochs", "4"]) == 0, "from here on it is ours"
    assert f"Resuming {tmp_path / last}, after 3 epochs." in capsys.readouterr().out


def test_newer_formats_are_refused(begun: Path, capsys) -> None:
    content = torch.load(begun / "last.pt", weights_only=True)
    for version, sentence in ((99, "newer version of codecswap"), ("two", "is damaged")):
        torch.save(content | {"format": version}, begun / "other.pt")
        assert run("distill", ["--resume", str(begun / "other.pt"), "--epochs", "2"]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1


def test_an_incomplete_checkpoint_is_damaged(begun: Path, capsys) -> None:
    content = torch.load(begun / "last.pt", weights_only=True)
    for missing in ("directions", "batch"):
        torch.save({key: value for key, value in content.items() if key != missing}, begun / "other.pt")
        assert run("distill", ["--resume", str(begun / "other.pt"), "--epochs", "2"]) == 2
        assert f"is damaged (it has no {missing})" in (said := capsys.readouterr().err) and said.count("\n") == 1
