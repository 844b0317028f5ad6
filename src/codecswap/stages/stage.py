"""Definition of a training stage."""

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
    """Name of its students in tables."""
    options: type[TrainingOptions]
    """Class of its options; each stage has its own."""
    target: Literal["teacher", "picture"]
    """Target of the loss, and of the MS-SSIM that selects the best checkpoint."""
    trains_exact: bool
    """Whether exact students are trained, too; with the teacher as the target they have nothing to learn."""
    trained: Callable[[Any], dict[str, Any]]
    """Converts its options to the arguments of `codecswap.training.student.choose_trained`."""
    last: str
    """File name of the last checkpoint."""
    best: str
    """File name of the best checkpoint."""
    recon: str
    """Default sub-folder of the reconstructions, and their name in W&B."""
    resume: str
    """Name of the option that resumes a run."""
    student: str | None = None
    """Name of the option that holds the student to start from. None: the stage builds a new student from its teacher."""
