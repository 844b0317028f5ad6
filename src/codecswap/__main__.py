"""``python -m codecswap``."""

import sys

from codecswap.cli import main

sys.exit(main())
