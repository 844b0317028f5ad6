"""Stages as values, the checks of their options, and the place of a run."""

import subprocess
import sys

import pytest
import torch

from codecswap.config import DistillOptions, FinetuneOptions
from codecswap.errors import UserError
from codecswap.stages import STAGES
from codecswap.training.state import TrainingState


def test_stages_have_files_and_options_of_their_own_and_need_no_pytorch() -> None:
    names = [name for stage in STAGES.values() for name in (stage.last, stage.best)]
    assert len(set(names)) == len(names)
    assert len({stage.options for stage in STAGES.values()}) == len(STAGES)
    for stage in STAGES.values():
        options = stage.options()
        assert options.recon_subdir == stage.recon and hasattr(options, stage.resume)
        assert stage.student is None or hasattr(options, stage.student)
    code = "import sys, codecswap.stages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("options", [DistillOptions, FinetuneOptions])
def test_options_refuse_what_is_too_small(options: type) -> None:
    for name in ("epochs", "batch_size", "recon_every", "num_workers", "warmup_steps", "save_every_minutes"):
        with pytest.raises(UserError, match=f"--{name} is at least [01], not -1"):
            options(**{name: -1})
    with pytest.raises(UserError, match="--calibration_count is at least 1, not 0"):
        DistillOptions(calibration_count=0)


def test_the_state_goes_through_a_checkpoint_within_an_epoch() -> None:
    state = TrainingState(epoch=2, batch=3, seconds=1.5, skipped=1, best=0.75, wandb_id="x")
    state.add("loss", torch.tensor([1.0, 2.0]))
    state.add("loss", torch.tensor([6.0]))
    content = state.to_checkpoint()
    again = TrainingState()
    again.from_checkpoint(content)
    assert (again.epoch, again.batch, again.seconds, again.skipped, again.best) == (2, 3, 1.5, 1, 0.75)
    assert again.place == "3 epochs and 3 steps"
    assert again.take_means() == {}, "they wait for the validation"
    again.resume_means(torch.device("cpu"))
    again.add("loss", torch.tensor([7.0]))
    assert again.take_means() == {"loss": 4.0} and again.take_means() == {}
    again.batch = 0
    assert again.to_checkpoint()["progress"] is None, "a whole epoch has no progress"
