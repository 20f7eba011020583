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
    wanted = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if wanted not in ("tensorflow", "jax"):
        raise InputError(
            f"backend {wanted!r}: saunet computes on tensorflow or jax: set "
            "KERAS_BACKEND to one, or leave it out"
        )
    try:
        with quiet_stderr():
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            import keras  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != wanted:
            raise
        extra = "'saunet[jax]'" if wanted == "jax" else wanted
        raise MissingPackageError(
            f"backend {wanted!r} of KERAS_BACKEND is not installed: pip install {extra}"
        ) from error


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
