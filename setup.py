"""The entropy coder in C. Without a compiler it is left out, and the same coder in Python takes its place, with a warning."""

from setuptools import Extension, setup

coder = Extension(
    "codecswap._coder",
    ["c/python.c", "c/codecswap.c", "c/hyperprior.c", "c/network.c", "c/rates.c"],
    depends=["c/codecswap.h", "c/internal.h"],
    py_limited_api=True,
    optional=True,
)
setup(ext_modules=[coder], options={"bdist_wheel": {"py_limited_api": "cp311"}})
