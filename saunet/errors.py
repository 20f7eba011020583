"""The errors that end in one line instead of a traceback."""

from importlib.util import find_spec


class InputError(ValueError):
    """Bad input: one line that says what came, what was expected, what to do.

    The command line prints the message and exits with status 2; every other
    exception is a defect of this package and keeps its traceback.
    """


class MissingPackageError(InputError):
    """What was asked for needs an optional package that is not installed."""


class RunError(RuntimeError):
    """A run that had to end early: one line that says why and what is kept."""


def need(package, extra, what="this"):
    """Raises `MissingPackageError` where an optional package is not installed.

    Args:
        package: its name in Python.
        extra: the one of saunet that brings it.
        what: what needs it, for the message.
    """
    try:
        found = find_spec(package)
    except ModuleNotFoundError:  # not even the package that it is a part of
        found = None
    if found is None:
        raise MissingPackageError(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install 'saunet[{extra}]'"
        )


def first_of(reasons):
    """Returns the first of some reasons, and how many more there are."""
    first, *others = reasons
    return f"{first} (and {len(others)} more like it)" if others else first
