"""What stderr gets: bars for who looks on, and no talk of C++ libraries."""

import os
import sys
from contextlib import contextmanager

from saunet.errors import InputError, MissingPackageError


def load_framework():
    """Imports Keras without the start-up chatter of its backend's C++ parts.

    TensorFlow writes lines about CPU features and absent GPUs to stderr before it
    reads its own log level. Whoever sets TF_CPP_MIN_LOG_LEVEL sees them all.

    Raises:
        InputError: the backend is none that `saunet` computes on, or is not installed.
    """
    try:
        with quiet_stderr():
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            import keras
    except ModuleNotFoundError as error:
        cures = {
            "tensorflow": "pip install tensorflow",
            "jax": "pip install 'saunet[jax]'",
            "torch": "set KERAS_BACKEND to tensorflow or jax",
        }
        if error.name not in cures:
            raise
        raise MissingPackageError(
            f"keras would compute on {error.name}, which is not installed: "
            f"{cures[error.name]}"
        ) from error
    except ValueError as error:  # a backend that Keras does not know
        raise InputError(f"{error}: set KERAS_BACKEND to tensorflow or jax") from error
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise InputError(
            f"keras would compute on {keras.backend.backend()}, saunet does on "
            "tensorflow or jax: set KERAS_BACKEND to one of these"
        )


def track(items, what, shown, **options):
    """Yields the items while a bar on stderr shows how far it is, if it is `shown`.

    Args:
        items: iterable.
        what: str beside the bar.
        shown: bool.
        **options: of `rich.progress.track`.
    """
    from rich import console, progress

    stderr = console.Console(stderr=True)
    return progress.track(items, what, console=stderr, disable=not shown, **options)


@contextmanager
def quiet_stderr():
    """Drops what is written to stderr meanwhile, also past Python's own stream.

    Not where TF_CPP_MIN_LOG_LEVEL asks for it.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
