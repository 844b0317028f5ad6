"""The toolchains there are. Another one is another file here and a line in the table."""

from codecswap.compile.qnn import QNN
from codecswap.compile.rknn import RKNN
from codecswap.compile.toolchain import Toolchain

TOOLCHAINS: dict[str, Toolchain] = {
    "qnn": QNN,
    "rknn": RKNN,
}
"""By the name that a target's file (export/targets/*.toml) calls it."""
