"""What one training stage has that another has not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from codecswap.config import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command that trains a student: its target, its options, its files, and which parameters it trains."""

    name: str
    """The command, and ``stage`` in checkpoints and in run.json."""
    label: str
    """What a student is after it, in tables."""
    options: type[TrainingOptions]
    """The class of its options; no other stage has the same."""
    target: Literal["teacher", "picture"]
    """What the student is compared with: in the loss, and by MS-SSIM where the best checkpoint is chosen."""
    trains_exact: bool
    """Whether a student whose replacement is exact trains too; with the teacher as its target it has nothing to learn."""
    trained: Callable[[Any], dict[str, Any]]
    """From its options to the arguments of `codecswap.training.student.choose_trained`."""
    last: str
    """File name of the last checkpoint."""
    best: str
    """File name of the best checkpoint."""
    recon: str
    """Default sub-folder of the reconstructions, and their name in W&B."""
    resume: str
    """Name of the option that goes on with a run."""
    student: str | None = None
    """Name of the option that holds the student to start from. None: the stage makes a new student from its teacher."""
