"""The one exception that users are meant to see."""


class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong, where, and what to do next.

    The command line prints the sentence and exits with code 2, without a stack trace.
    """
