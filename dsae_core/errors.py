"""The exception that means that the user can put this right, and the warning that a result repeats."""


class UserError(Exception):
    """A wrong input, a missing file, a model that cannot be used.

    The message is one sentence that says what is wrong and what to do; the command line prints it and
    exits with code 2, the dashboard shows it in place of a result.
    """


class ResultWarning(UserWarning):
    """What a result's own `warnings` say, too; the command line and the page show those, and not this."""
