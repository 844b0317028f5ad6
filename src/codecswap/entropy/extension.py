"""The C library as an extension module (c/python.c), if there was a compiler when the package was installed."""

from importlib import import_module
from typing import Any

coder: Any
"""``codecswap._coder``, or None."""
try:
    coder = import_module("codecswap._coder")
except ImportError:
    coder = None
