"""Two runs never write to one folder, and a dead one holds nothing."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import fundus_like

from saunet.data import lock
from saunet.data.images import write_png
from saunet.data.lock import lock_folder
from saunet.errors import InputError
from saunet.folders import predict_files
from saunet.inference import Segmenter
from saunet.training import RECIPES, recipe_with, train

REFUSED = "another run writes to it: wait for its end"


def test_the_second_is_refused_until_the_first_ends(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(InputError, match=f"{tmp_path}: {REFUSED}"):
            lock_folder(tmp_path).__enter__()
        (tmp_path / "other").mkdir()
        with lock_folder(tmp_path / "other"):
            pass
    with lock_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_killed_process_leaves_nothing_locked(tmp_path):
    code = (
        "import sys, time\n"
        "from saunet.data.lock import lock_folder\n"
        "with lock_folder(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=REFUSED):
            lock_folder(tmp_path).__enter__()
        process.kill()
    with lock_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_windows_locks_a_file_in_the_folder(tmp_path, monkeypatch):
    taken = set()

    def locking(handle, mode, count):
        if taken:
            raise PermissionError(13, "Permission denied")
        taken.add(handle)

    windows = SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", windows, raising=False)
    with (
        lock_folder(tmp_path),
        pytest.raises(InputError, match=REFUSED),
        lock_folder(tmp_path),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_windows_says_after_its_wait_that_another_run_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(errno, "EDEADLOCK", 36, raising=False)

    def locking(handle, mode, number):
        raise OSError(36, "Resource deadlock avoided")

    windows = SimpleNamespace(locking=locking, LK_LOCK=1, LK_NBLCK=2)
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", windows, raising=False)
    with (
        pytest.raises(InputError, match="another run still writes"),
        lock_folder(tmp_path, wait=True),
    ):
        pass


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def flock(handle, mode):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock_folder(tmp_path):
        pass


def test_two_predictions_into_one_folder(tmp_path):
    write_png(tmp_path / "eye.png", np.zeros((40, 50, 3), np.uint8))
    segmenter = Segmenter(None, name="green", engine=lambda x: x[..., 1:2], digest="1")
    out = tmp_path / "out"
    out.mkdir()
    with lock_folder(out), pytest.raises(InputError, match=REFUSED):
        predict_files(segmenter, [tmp_path / "eye.png"], out)
    assert list(out.iterdir()) == []
    predict_files(segmenter, [tmp_path / "eye.png"], out)
    with lock_folder(out), pytest.raises(InputError, match=REFUSED):
        predict_files(segmenter, [tmp_path / "eye.png"], out)
    assert predict_files(segmenter, [tmp_path / "eye.png"], out)["unchanged"] == 1


def test_two_trainings_into_one_folder(tmp_path):
    recipe = recipe_with(RECIPES["smoke"], crop=64, batch_size=1)
    with lock_folder(tmp_path), pytest.raises(InputError, match=REFUSED):
        train(recipe, [fundus_like(32, 32)], tmp_path)
    assert list(tmp_path.iterdir()) == []
