"""The original recipe's command for its data: `python -m scripts.coco_prepare --coco_dir DIR --out_dir DIR`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from codecswap.cli import launch

if __name__ == "__main__":
    launch("prepare")
