"""The original recipe's command for evaluation: `python -m src.eval --coco_dir ... --checkpoint ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from codecswap.cli import launch

if __name__ == "__main__":
    launch("eval")
