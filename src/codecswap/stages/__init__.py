"""Table of training stages, in order. None of them imports PyTorch."""

from codecswap.stages.distill import DISTILL
from codecswap.stages.finetune import FINETUNE
from codecswap.stages.stage import Stage

STAGES: dict[str, Stage] = {stage.name: stage for stage in (DISTILL, FINETUNE)}
