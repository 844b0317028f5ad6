"""Distillation: train a new student to reproduce its teacher's reconstructions."""

from typing import Any

from codecswap.config import DistillOptions
from codecswap.stages.stage import Stage


def _trained(options: DistillOptions) -> dict[str, Any]:
    return {"whole_decoder": options.train_igdn, "unfreeze_all": options.unfreeze_all, "part": options.part}


DISTILL = Stage(
    name="distill",
    label="distilled",
    options=DistillOptions,
    target="teacher",
    trains_exact=False,
    trained=_trained,
    last="last.pt",
    best="best_msssim.pt",
    recon="recon",
    resume="resume",
)
