"""The original recipe's command for fine-tuning: `python finetune_after_distill.py --coco_dir ... --resume_student ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from codecswap.cli import launch

if __name__ == "__main__":
    launch("finetune")
