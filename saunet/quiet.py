"""Keeps what C++ libraries say to themselves off stderr."""

import os
import sys
from contextlib import contextmanager


def load_framework():
    """Imports Keras without the start-up chatter of its backend's C++ parts.

    TensorFlow writes lines about CPU features and absent GPUs to stderr before it
    reads its own log level. Whoever sets TF_CPP_MIN_LOG_LEVEL sees them all.
    """
    with quiet_stderr():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras  # noqa: F401


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
