"""Requests to a runner and its answers: .npz files of arrays, with a JSON text."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

FACTS = "facts"
"""Name of the JSON text among the arrays, as bytes."""


def pack(facts: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    """A request or an answer as bytes."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **arrays, **{FACTS: np.frombuffer(json.dumps(facts).encode(), np.uint8)})
    return file.getvalue()


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and arrays of `pack`."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return json.loads(arrays.pop(FACTS).tobytes()), arrays


def answer(content: bytes, ended: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and results of what a process answered.

    Args:
        content: the answer.
        ended: how the process ended, if there is none.

    Raises:
        NoAnswer: it failed.
    """
    if content.startswith(b"PK"):
        try:
            return unpack(content)
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
            raise NoAnswer("its answer is cut off") from None
    try:
        reason = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        reason = ended
    raise NoAnswer(str(reason)[:300].rstrip("."))


class NoAnswer(Exception):
    """The runner failed; the message says why, as a clause."""
