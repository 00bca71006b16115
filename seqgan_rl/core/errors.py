"""Errors that are the user's to mend."""


class InputError(ValueError):
    """A file or an option that a user gave cannot be used.

    The message is one line that names the argument or file, what was expected, what came and what to try;
    the command line prints it without a traceback and exits with status 2.
    """


class NotFiniteError(FloatingPointError, ValueError):
    """A number that must be finite is not: a wrong value to a caller, a reason to stop for a run."""
