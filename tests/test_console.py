"""Progress: a bar with the time left on a terminal, one line per step elsewhere, silence in all processes but the first."""

import numpy as np
import pytest

from codecswap import console
from codecswap.cli import run
from codecswap.data import samples


def test_one_line_per_step_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    assert list(console.track("Measure", [3, 1, 2], unit="pictures")) == [3, 1, 2]
    said = capsys.readouterr()
    assert said.out.startswith("Measure: 3 of 3 pictures, ") and said.out.count("\n") == 1 and not said.err


def test_a_long_step_says_how_much_time_is_left(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    with console.bar("Measure", 4, unit="pictures") as advance:
        advance(1)
    assert "1 of 4 pictures, " in (line := capsys.readouterr().out.splitlines()[0]) and line.endswith(" s left")


def test_a_terminal_gets_a_bar(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    list(console.track("Measure", [1, 2], unit="pictures"))
    said = capsys.readouterr()
    assert "━" in said.err and "2 of 2 pictures" in said.err and "Measure" not in said.out


def test_only_the_first_process_speaks(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert list(console.track("Measure", [1], unit="pictures")) == [1]
    assert capsys.readouterr() == ("", "")


def steps(said: str) -> dict[str, tuple[str, str]]:
    """Lines of finished steps: title -> done and total."""
    words = [
        line.replace(":", " of ", 1).split(" of ") for line in said.splitlines() if " of " in line and "/s" in line
    ]
    return {title: (done.strip(), rest.split(" ")[0]) for title, done, rest in words}


@pytest.mark.slow
def test_advise_and_export_show_their_progress(tmp_path, capsys) -> None:
    assert run("advise", ["--teacher", "tiny"]) == 0
    found = steps(capsys.readouterr().out)
    assert found["Compare"][0] == found["Compare"][1]
    assert run("export", ["--teacher", "tiny", "--replacement", "subpixel", "--output", str(tmp_path / "codec")]) == 0
    assert steps(capsys.readouterr().out)["Check"] == ("3", "3")


@pytest.mark.parametrize("part", ["both", "encoder", "decoder"])
def test_quantize_counts_its_steps(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys, part: str) -> None:
    pictures = [np.random.default_rng(seed).random((3, 64, 64), dtype=np.float32) for seed in range(2)]
    monkeypatch.setattr(samples, "sample_pictures", lambda *arguments: iter(pictures))
    assert run("quantize", ["--teacher", "tiny", "--part", part, "--output", str(tmp_path)]) == 0
    found = steps(capsys.readouterr().out)
    assert found["Quantize"][0] == found["Quantize"][1] and found["Measure w8a8"] == ("2", "2")
