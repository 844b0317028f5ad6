"""``codecswap distill`` and ``codecswap finetune``."""

from codecswap.config import TrainingOptions
from codecswap.training.run import train


def main(options: TrainingOptions) -> int:
    """Train the stage of these options."""
    train(options)
    return 0
