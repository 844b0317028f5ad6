"""Reading runs: what is there, in order; what is none is refused in a sentence."""

import json
from pathlib import Path

import pytest

from codecswap.cli import run
from codecswap.errors import UserError
from codecswap.report.run import read_run, read_runs


def test_a_run_is_read_as_it_was_written(runs: tuple[Path, Path]) -> None:
    distilled, tuned = read_runs([str(runs[1]), str(runs[0]), str(runs[1])])
    assert (distilled.stage.name, tuned.stage.name) == ("distill", "finetune"), "distillation first, each once"
    assert [row["epoch"] for row in distilled.rows] == [-1, 0, 1] and distilled.complete and tuned.complete
    assert [(tag, epochs) for tag, epochs, _ in distilled.tags] == [("pre_e000", 0), ("e000", 1), ("e001", 2)]
    assert all(len(pictures) == 3 for _, _, pictures in distilled.tags)
    assert distilled.best == runs[0] / "best_msssim.pt" and tuned.best == runs[1] / "ft_best.pt"
    assert distilled.codec["replacement"] == "upsample" and distilled.starts and tuned.record["origin"]


def test_without_run_json_the_stage_and_options_are_still_known(copy: tuple[Path, Path]) -> None:
    for folder in copy:
        (folder / "run.json").unlink()
    distilled, tuned = read_runs([str(folder) for folder in copy])
    assert (distilled.stage.name, tuned.stage.name) == ("distill", "finetune")
    assert distilled.epochs == 2 and distilled.complete and not distilled.codec


def test_a_pause_before_an_epoch_stands_before_it(copy: tuple[Path, Path]) -> None:
    (copy[0] / "recon" / "pre_e001").mkdir()
    (copy[0] / "recon" / "pre_e001" / "00000.png").write_bytes((copy[0] / "recon/e000/00000.png").read_bytes())
    (copy[0] / "recon" / "notes").mkdir()
    assert [tag for tag, _, _ in read_run(copy[0]).tags] == ["pre_e000", "e000", "pre_e001", "e001"]


def test_what_is_done_is_told_from_what_was_asked_for(copy: tuple[Path, Path]) -> None:
    lines = (copy[0] / "metrics.csv").read_text().splitlines(keepends=True)
    (copy[0] / "metrics.csv").write_text("".join(lines[:3]))
    assert read_run(copy[0]).done == 1 and not read_run(copy[0]).complete
    (copy[0] / "metrics.csv").write_text("".join(lines[:2]))
    assert read_run(copy[0]).done == 0 and not read_run(copy[0]).complete


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{", "is damaged"),
        ("run.json", "[1]", "is not codecswap's record"),
        ("run.json", '{"format": "codecswap run", "starts": {"a": 1}}', "is damaged (starts)"),
        ("run.json", '{"format": "codecswap run", "shown": [{"path": "a"}]}', "is damaged (shown)"),
        ("config.yaml", "a: [", "is damaged"),
        ("config.yaml", "just words", "holds no options"),
        ("config.yaml", "a: &a [1, 1]\nb: [*a, *a]", "holds no options"),
        ("metrics.csv", "epoch,step\n0,many\n", "is damaged"),
        ("metrics.csv", "loss\n1\n", "epoch and step are missing"),
        ("ft_best.pt", "no checkpoint", "ft_best.pt"),
    ],
)
def test_damaged_files_are_named(
    copy: tuple[Path, Path], tmp_path: Path, capsys, name: str, content: str, said: str
) -> None:
    (copy[1] / name).write_text(content)
    output = tmp_path / "report.html"
    assert run("report", [str(copy[1]), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert said in error and str(copy[1] / name) in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*report.html*")), "nothing half-written"


def test_what_is_no_run_is_refused(tmp_path: Path, pictures: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    output = ["-o", str(tmp_path / "r.html")]
    for words, said in (
        ([], "No run given"),
        ([str(tmp_path / "empty")], "is not a run's folder"),
        ([str(pictures)], "is not a run's folder"),
        ([str(tmp_path / "file")], "file, not a folder"),
        ([str(tmp_path / "nowhere")], "There is no folder"),
    ):
        assert run("report", [*words, *output]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_runs_of_different_students_are_refused(copy: tuple[Path, Path]) -> None:
    record = json.loads((copy[1] / "run.json").read_text())
    for key, other, said in (
        ("teacher_sha256", "0" * 64, "another teacher"),
        ("replacement", "masked", "another replacement"),
    ):
        changed = record | {"codec": record["codec"] | {key: other}}
        (copy[1] / "run.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=said):
            read_runs([str(folder) for folder in copy])
