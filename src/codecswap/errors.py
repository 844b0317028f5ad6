"""The exceptions that users are meant to see."""

import signal


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
