"""The original recipe's command for distillation: `python src/train_distill.py --coco_dir ...`."""

from codecswap.cli import launch

if __name__ == "__main__":
    launch("distill")
