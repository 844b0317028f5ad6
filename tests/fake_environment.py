"""A Python of a foreign package's own environment, in which a stand-in has that package's interface."""

import stat
import sys
from collections.abc import Mapping
from pathlib import Path


def fake_environment(root: Path, make: str, package: str, version: str, files: Mapping[str, str]) -> Path:
    """Make the interpreter where ``make MAKE`` in ``root`` would put it.

    Args:
        root: an empty folder.
        make: target of the Makefile.
        package: name of the distribution.
        version: its version.
        files: content of its modules, by path.
    """
    site = root / "site"
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    (info := site / f"{package.replace('-', '_')}-{version}.dist-info").mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    path = root / f".venv-{make}" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
