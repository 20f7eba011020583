"""Photographs by workers of Ray: each once, whatever dies, and the same files."""

import csv
import functools
import os
import signal
import sys

import numpy as np
import pytest

from saunet import cluster
from saunet.cli import main
from saunet.cluster import predict_on_cluster
from saunet.data.images import write_png
from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError
from saunet.inference import Segmenter, predict_files

ray = pytest.importorskip("ray", reason="needs saunet[cluster]")
pytest.importorskip("pyarrow", reason="needs saunet[cluster]")
pytestmark = [
    # Of Ray itself, when it copies its own settings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray[.]data[.]context"),
]


@pytest.fixture(scope="module")
def two_workers():
    """Ray on this machine, with two cores to give away."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    # Workers do not find the modules of tests.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


@pytest.fixture
def photographs(tmp_path):
    """Eight drawn photographs, small, in two folders."""
    folder = tmp_path / "photographs"
    for i in range(8):
        path = folder / ("left" if i % 2 else "right") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, synthetic_fundus(i, height=64, width=80).image)
    return folder


def green(die=None, threads=None):
    """Returns a segmenter whose probability is green.

    Args:
        die: function of the pictures that the engine gets; where it is true, the
            process is killed.
        threads: not used.
    """

    def run(batch):
        if die is not None and die(batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return batch[..., 1:2]

    return Segmenter(None, name="green", engine=run, digest="1")


def once(marker, batch):
    """Returns whether this process is the first to ask, and has asked before."""
    once.calls = getattr(once, "calls", 0) + 1
    if once.calls < 2:
        return False
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def white(batch):
    return bool((batch[0, ..., 1] == 1).mean() > 0.5)


def rows(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.png")
    }


def test_the_command_gives_the_same_bytes(
    two_workers, photographs, tmp_path, monkeypatch, capsys
):
    """Of a list and a bucket, by a real network, named relative to this folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("photographs/left/1.png\n")
    inputs = ["list.txt", (photographs / "right").as_uri()]
    words = ["predict", *inputs, "--weights", "sa_unet_v2_drive", "--quiet"]
    assert main([*words, "--out", "plain", "--threads", "1"]) == 0
    assert main([*words, "--out", "out", "--cluster", "auto"]) == 0
    assert capsys.readouterr() == ("", "")
    assert len(files(tmp_path / "out")) == 15
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    assert sorted(row["photograph"] for row in rows(tmp_path / "out")) == sorted(
        ["photographs/left/1.png", *(f"{inputs[1]}/{i}.png" for i in (0, 2, 4, 6))]
    )


def test_a_killed_worker_loses_nothing(two_workers, photographs, tmp_path):
    """And what is no photograph stops nothing, and a second run does nothing."""
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out, marker = tmp_path / "out", tmp_path / "killed"
    load = functools.partial(green, functools.partial(once, str(marker)))
    result = predict_on_cluster(load, [photographs], out)
    assert marker.exists()
    plain = predict_files(green(), [photographs], tmp_path / "plain")
    assert sorted(result["written"]) == sorted(plain["written"])
    assert len(result["written"]) == 8
    assert (result["unchanged"], result["ignored"]) == (0, 0)
    assert result["skipped"].keys() == plain["skipped"].keys()
    assert files(out) == files(tmp_path / "plain")

    def facts(folder):
        keys = ("result", "photograph", "bytes", "modified", "settings", "status")
        return sorted([row[key] for key in keys] for row in rows(folder))

    assert facts(out) == facts(tmp_path / "plain")  # so each has one row
    (failed,) = (row for row in rows(out) if row["status"] == "failed")
    assert "broken.png: not a picture" in failed["reason"]
    assert f"(on {cluster.socket.gethostname()})" in failed["reason"]
    (photographs / "broken.png").unlink()
    again = predict_on_cluster(load, [photographs], out)
    assert (again["written"], again["unchanged"]) == ([], 8)


def test_what_kills_every_worker_is_noted_and_kills_nothing_else(
    two_workers, photographs, tmp_path, monkeypatch
):
    # Each death costs seconds, and so does waiting for a dead worker's core.
    monkeypatch.setattr(cluster, "RETRIES", 0)
    monkeypatch.setattr(cluster, "_share", lambda _: cluster._Share(1, cores=1, gpus=0))
    write_png(photographs / "deadly.png", np.full((64, 64, 3), 255, np.uint8))
    load = functools.partial(green, white)
    result = predict_on_cluster(load, [photographs], tmp_path / "out")
    assert len(result["written"]) == 8
    assert list(result["skipped"]) == [photographs / "deadly.png"]
    (failed,) = (row for row in rows(tmp_path / "out") if row["status"] == "failed")
    assert "its worker died" in failed["reason"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nothing_answers_is_one_line(tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=f"--cluster {address}: nothing answers"):
        predict_on_cluster(green, [tmp_path], tmp_path / "out", address=address)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_that_helps_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'saunet\[cluster\]'"):
        predict_on_cluster(green, [tmp_path], tmp_path / "out")
