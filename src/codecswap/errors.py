"""The exceptions that users are meant to see."""

import signal
import sys


class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong, where, and what to do next.

    The command line prints the sentence and exits with code 2, without a stack trace.
    """

    exit_code = 2


class RunFailure(UserError):
    """A run that cannot go on although nothing was wrong with its input: a full disk, divergence. Exit code 1."""

    exit_code = 1


class Interrupted(UserError):
    """A run that was asked to stop, and saved what it had. Exit code 128 and the signal's number, as shells have it."""

    def __init__(self, sentence: str, signum: int = signal.SIGINT) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + signum


def how_to_install(extra: str | None) -> str:
    """The end of a sentence about a missing package: what to type to get the extra ``train``, ``deploy`` or none."""
    command = f"pip install 'codecswap[{extra}]'" if extra else "pip install codecswap"
    if extra in ("train", "deploy") and sys.version_info >= (3, 13):
        return (
            "take Python 3.11 or 3.12, since CompressAI asks for numpy<2, which Python 3.13 does not have (or "
            f"{command}, then pip install --no-deps compressai==1.2.8, which works with numpy 2 too)"
        )
    return command
