"""Exceptions for users."""

import signal
import sys


class UserError(Exception):
    """An error that the user can fix: one sentence that says what is wrong, where, and what to do next.

    The command line prints the sentence and exits with code 2, without a stack trace.
    """

    exit_code = 2


class RunFailure(UserError):
    """A run that fails with valid input: a full disk, divergence. Exit code 1."""

    exit_code = 1


class Interrupted(UserError):
    """A run that was stopped by a signal, and saved its progress. Exit code: 128 plus the signal number, as in shells."""

    def __init__(self, sentence: str, signum: int = signal.SIGINT) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signum


def how_to_install(extra: str | None) -> str:
    """The end of a sentence about a missing package: what to type for an extra, or for none."""
    command = f"pip install '.[{extra}]' in the repository's folder" if extra else "install codecswap again"
    if extra not in (None, "rewrite", "archive", "ray") and sys.version_info >= (3, 13):  # those need no CompressAI
        return (
            f"{command}, with Python 3.11 or 3.12 (for 3.13 CompressAI, which asks for numpy<2, is not to be had that way: "
            "there, also pip install --no-deps compressai==1.2.8)"
        )
    return command
