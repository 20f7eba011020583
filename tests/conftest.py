"""Shared fixtures: seeds, a clean Keras state, and where the real data lies."""

import os
import sys
from pathlib import Path

import pytest

import saunet  # noqa: F401  (before Keras: it chooses TensorFlow's kernels)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SHARED = Path(
    os.environ.get("SAUNET_SHARED", Path(__file__).resolve().parents[2] / "shared")
)


def pytest_addoption(parser):
    parser.addoption(
        "--accept-golden",
        action="store_true",
        help="rewrite tests/golden/*.json from what the networks give now",
    )


@pytest.fixture
def accept_golden(request):
    return request.config.getoption("--accept-golden")


@pytest.fixture(scope="session")
def shared():
    """Returns a function: sub-folder of SAUNET_SHARED, or skip saying why."""

    def find(name):
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}: SAUNET_SHARED names a folder not published")
        return folder

    return find


@pytest.fixture
def seed():
    """Seeds Python, NumPy and the backend, and clears Keras's global state."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def same_numbers_each_time():
    """Seeds each test, at no cost where it does not use Keras."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
