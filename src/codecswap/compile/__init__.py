"""The toolchains there are. Another one is another file here and a line in the table."""

from codecswap.compile.ethos_u import VELA
from codecswap.compile.rknn import RKNN
from codecswap.compile.toolchain import Toolchain

TOOLCHAINS: dict[str, Toolchain] = {
    "rknn": RKNN,
    "vela": VELA,
}
"""By the name that a target's file (export/targets/*.toml) calls it."""
