"""Fine-tuning: train a student with the pictures as the target."""

from typing import Any

from codecswap.config import FinetuneOptions
from codecswap.stages.stage import Stage


def _trained(options: FinetuneOptions) -> dict[str, Any]:
    return {
        "whole_decoder": True,
        "unfreeze_all": options.unfreeze_all,
        "freeze_gdn": options.freeze_igdn,
        "part": options.part,
    }


FINETUNE = Stage(
    name="finetune",
    label="fine-tuned",
    options=FinetuneOptions,
    target="picture",
    trains_exact=True,
    trained=_trained,
    last="ft_last.pt",
    best="ft_best.pt",
    recon="recon_ft",
    resume="resume_ft",
    student="resume_student",
)
