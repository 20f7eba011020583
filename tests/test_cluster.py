"""Photographs by workers of Ray: each once, whatever dies, and the same files."""

import csv
import functools
import os
import pickle
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from saunet import cluster
from saunet.cli import main
from saunet.cluster import predict_on_cluster
from saunet.data.images import write_png
from saunet.data.manifest import Manifest, state_of
from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError
from saunet.folders import predict_files, run_settings
from saunet.inference import Segmenter

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
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
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
        [
            str(photographs / "left" / "1.png"),
            *(f"{inputs[1]}/{i}.png" for i in (0, 2, 4, 6)),
        ]
    )


def test_a_killed_worker_loses_nothing(two_workers, photographs, tmp_path, monkeypatch):
    """And what is no photograph stops nothing, and a second run does nothing."""
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out, marker = tmp_path / "out", tmp_path / "killed"
    load = functools.partial(green, functools.partial(once, str(marker)))
    rounds, stream = [], cluster._stream
    monkeypatch.setattr(cluster, "_stream", lambda *w: rounds.append(w) or stream(*w))
    result = predict_on_cluster(load, [photographs], out)
    assert marker.exists()
    assert len(rounds) == 1  # Ray itself has done it again
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
    assert f"(on {socket.gethostname()})" in failed["reason"]
    (photographs / "broken.png").unlink()
    again = predict_on_cluster(load, [photographs], out)
    assert (again["written"], again["unchanged"]) == ([], 8)


STATE = ("1024", "5")  # bytes and time of change


def outcomes(monkeypatch, stream):
    """Returns what becomes of ten photographs, in rounds that `stream` plays."""
    monkeypatch.setattr(cluster, "_stream", stream)
    todo = [(f"{place}.png", place) for place in "abcdefghij"]
    return cluster._outcomes(todo, {}, cluster._Share(2, 1, 0))


def test_what_kills_every_worker_is_noted_and_takes_nothing_along(monkeypatch):
    """Ray itself was seen to give up a task so; here each death would cost seconds."""
    rounds = []

    def stream(rows, worker, share, block, ahead):
        rounds.append((block, ahead))
        places = [pickle.loads(row)[1] for row in rows]
        tasks = [places[i : i + block] for i in range(0, len(places), block)]
        for task in tasks:
            for place in task:
                if place == "d":
                    break  # and what is left of the task is lost
                yield pickle.dumps((place, STATE, 0.5, ""))
            if "a" in task:  # a task that was done again
                yield pickle.dumps(("a", STATE, 0.5, ""))

    monkeypatch.setattr(cluster, "BLOCK", 3)
    found = list(outcomes(monkeypatch, stream))
    assert [place for _, place, *_ in found] == list("abcghijefd")  # each once
    assert found[0] == ("a.png", "a", STATE, 0.5, "")
    path, _, state, seconds, reason = found[-1]
    assert (path, state, seconds) == ("d.png", ("", ""), None)
    assert reason == "d.png: its worker died, each time it was tried"
    assert rounds == [(3, 2), (1, 1)]


def test_an_error_of_a_worker_ends_the_run(monkeypatch):
    error = cluster._portable(InputError("a_mask.png: cannot be written"), "there")

    def stream(*_):
        yield pickle.dumps(("a", STATE, 0.5, ""))
        yield pickle.dumps(error)

    found = outcomes(monkeypatch, stream)
    assert next(found)[1] == "a"
    with pytest.raises(InputError, match="worker on there: a_mask"):
        next(found)


def worker(tmp_path, **changes):
    settings = run_settings(green(), threshold=0.5, views=1)
    facts = {
        "load": green,
        "folder": tmp_path,
        "out_dir": tmp_path,
        "settings": settings,
        "threshold": 0.5,
        "options": {"views": 1},
        "threads": None,
        "cores": 1,
    }
    return cluster._Worker(**facts | changes)


def ask(worker, path):
    batch = {"photograph": [pickle.dumps((path, "a"))]}
    (row,) = worker(batch)
    return pickle.loads(row["outcome"][0])


def no_weights(threads):
    raise InputError("v2.h5: no such file")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"settings": "saunet=0.0.9"}, "install the same saunet"),
        ({"load": no_weights}, "v2.h5: no such file"),
        ({"out_dir": Path("/not/shared")}, "expected a folder that all machines share"),
    ],
)
def test_a_worker_of_other_circumstances_says_so(
    tmp_path, monkeypatch, changes, reason
):
    monkeypatch.chdir(tmp_path)  # where the worker goes, too
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    Manifest(tmp_path).rewrite()
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    outcome = ask(worker(tmp_path, **changes), Path("a.png"))
    if reason is None:
        assert (outcome[0], outcome[-1]) == ("a", "")
        assert outcome[1] == state_of(tmp_path / "a.png")
        assert (tmp_path / "a_mask.png").is_file()
    else:
        assert reason in str(outcome)
        assert str(outcome).startswith(f"worker on {socket.gethostname()}: ")


def has(monkeypatch, nodes, gpus):
    """Makes it a cluster of live machines with so many cores, and a dead one."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus})
    alive = [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes]
    dead = [{"Alive": False, "Resources": {"CPU": 64.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: alive + dead)


@pytest.mark.parametrize(
    ("nodes", "gpus", "workers", "share"),
    [
        ([2], 0, None, (1, 2, 0)),
        ([2], 0, 2, (2, 1, 0)),
        ([2], 0, 5, (2, 1, 0)),
        ([8, 8, 1], 0, None, (8, 2, 0)),
        ([8, 4], 0, 3, (3, 4, 0)),
        ([8, 4], 0, 1, (1, 8, 0)),
        ([1, 1], 0, None, (2, 1, 0)),
        ([8, 8], 2, None, (2, 1, 1)),
        ([8, 8], 2, 1, (1, 1, 1)),
        ([8, 8], 2, 3, (2, 1, 1)),
    ],
)
def test_the_cluster_is_shared_out(monkeypatch, nodes, gpus, workers, share):
    has(monkeypatch, nodes, gpus)
    assert cluster._share(workers) == share


@pytest.mark.parametrize("nodes", [[], [0], [0.5]])
@pytest.mark.parametrize("workers", [None, 2])
def test_a_cluster_without_a_processor_is_one_line(monkeypatch, nodes, workers):
    has(monkeypatch, nodes, 0)
    with pytest.raises(InputError, match="the cluster has no CPU and no GPU: add a"):
        cluster._share(workers)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nothing_answers_is_one_line(tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=f"--cluster {address}: nothing answers"):
        predict_on_cluster(green, [tmp_path], tmp_path / "out", address=address)
    assert not (tmp_path / "out").exists()


def test_a_ray_that_crashed_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.tempfile, "tempdir", str(tmp_path))
    assert cluster._reachable("auto") is None
    known = tmp_path / "ray" / "ray_current_cluster"
    known.parent.mkdir()
    known.write_text("127.0.0.1:1")
    assert cluster._reachable("auto") == "local"
    with socket.create_server(("127.0.0.1", 0)) as server:
        known.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        assert cluster._reachable("auto") is None


@pytest.mark.parametrize("package", ["ray", "pandas"])
def test_without_ray_the_command_that_helps_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'saunet\[cluster\]'"):
        predict_on_cluster(green, [tmp_path], tmp_path / "out")
