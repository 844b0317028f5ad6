"""Which student belongs to which teacher, and how far its run has come."""

from pathlib import Path
from typing import Any

import pytest
import torch

from codecswap.codecs.source import load_codec
from codecswap.config import EvalOptions
from codecswap.errors import UserError
from codecswap.evaluation.evaluation_set import progress
from codecswap.students.checkpoint import StudentCheckpoint


def checkpoint(path: Path, stage: str = "distill", **content: Any) -> StudentCheckpoint:
    content = {"stage": stage, "config": {"epochs": 15}} | content
    torch.save(content, path)
    return StudentCheckpoint(path, load_codec("tiny"), "upsample", None, None, content)


def test_a_finished_run_is_silent(tmp_path: Path) -> None:
    assert progress(checkpoint(tmp_path / "last.pt", epoch=14)) is None
    assert progress(checkpoint(tmp_path / "best_msssim.pt", epoch=3)) is None, (
        "the best of a finished run may be an early one"
    )
    assert progress(checkpoint(tmp_path / "start.pt", epoch=-1, config={"epochs": 0})) is None
    recipe = StudentCheckpoint(
        tmp_path / "recipe.pt", load_codec("tiny"), "upsample", None, None, {"student_state": {}}
    )
    assert progress(recipe) is None, "the original recipe's files do not know"


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    last = checkpoint(tmp_path / "last.pt", epoch=5, batch=120)
    best = checkpoint(tmp_path / "best_msssim.pt", epoch=3)
    assert progress(best) == (
        f"{best.path} is from after 4 of 15 epochs, and its run is unfinished: it has come to 6 of 15 epochs and 120 steps "
        "of the next."
    )
    assert "from after 6 of 15 epochs" in str(progress(last)) and "120 steps" in str(progress(last))
    start = checkpoint(tmp_path / "best_msssim.pt", epoch=-1)
    assert "from before any training, and its run is unfinished: it has come to 6 of 15" in str(progress(start))


def test_a_best_checkpoint_alone_does_not_know_whether_its_run_finished(tmp_path: Path) -> None:
    alone = str(progress(checkpoint(tmp_path / "ft_best.pt", "finetune", epoch=3)))
    assert "after 4 of 15 epochs" in alone and "not known, ft_last.pt is not beside it" in alone
    (tmp_path / "ft_last.pt").write_bytes(b"damaged")
    assert progress(checkpoint(tmp_path / "ft_best.pt", "finetune", epoch=3)) == alone


def test_a_run_that_was_resumed_for_longer_counts_as_it_is_now(tmp_path: Path) -> None:
    checkpoint(tmp_path / "last.pt", epoch=14, config={"epochs": 30})
    best = checkpoint(tmp_path / "best_msssim.pt", epoch=9)
    assert "it has come to 15 of 30 epochs" in str(progress(best))


def test_numbers() -> None:
    assert EvalOptions(quality=8).qualities == [8]
    assert EvalOptions(quality="3, 1,3").qualities == [3, 1]
    assert EvalOptions().anchor_qualities == [] == EvalOptions(images="a", anchors="none").anchor_qualities
    assert EvalOptions(images="a").anchor_qualities == [10, 30, 50, 70, 90]
    for wrong in ("0", "9", "1,9", "1,,2", "x", "1-8", "1,2,...,8", "", "1.5"):
        with pytest.raises(UserError, match="--quality takes numbers from 1 to 8"):
            EvalOptions(quality=wrong)
