"""The toolchains there are. Another one is another file here and a line in the table."""

from codecswap.compile.toolchain import Toolchain

TOOLCHAINS: dict[str, Toolchain] = {}
"""By the name that a target's file (export/targets/*.toml) calls it."""
