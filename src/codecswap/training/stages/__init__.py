"""The training stages there are, in the order in which a student goes through them. None of them imports PyTorch."""

from codecswap.training.stages.distill import DISTILL
from codecswap.training.stages.finetune import FINETUNE
from codecswap.training.stages.stage import Stage

STAGES: dict[str, Stage] = {stage.name: stage for stage in (DISTILL, FINETUNE)}
