"""Photographs a second: one process, and workers of Ray on the same machine.

    python benchmarks/cluster.py [--photographs 200] [--workers 1 2] [--turns 3]

Drawn photographs of DRIVE's size go through `saunet predict` and, on a Ray that is
started for each run, through `saunet predict --cluster auto --workers N`, in turns;
the medians are appended to benchmarks/results/cluster.csv. `per_second` counts from
the first tenth of the photographs on, when all is warm; `start` is the seconds before
the first one is done: weights, compiling, and of a cluster Ray and its workers.
`hours_per_million` is 1e6 / per_second / 3600 on this one machine, so these are
node-hours, too: N such machines take 1/N of the hours, and the cost is the node-hours
times the price of one.
"""

import argparse
import functools
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from record import append

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from saunet.cluster import predict_on_cluster
from saunet.data.images import write_png
from saunet.data.manifest import Manifest
from saunet.data.synthetic import synthetic_fundus
from saunet.folders import predict_files
from saunet.inference import load_segmenter
from saunet.training import environment

WEIGHTS = "sa_unet_v2_drive"
DRAWN = 20  # the others are copies


def draw(folder, count):
    """Writes photographs."""
    images = [synthetic_fundus(seed).image for seed in range(min(DRAWN, count))]
    for i in range(count):
        write_png(folder / f"{i:05d}.png", images[i % len(images)])


def run(photographs, workers):
    """Returns the seconds until each photograph is done; `None` workers: no Ray."""
    done, original = [], Manifest.append

    def noted(*words, **options):
        original(*words, **options)
        done.append(time.perf_counter() - started)

    load = functools.partial(load_segmenter, WEIGHTS)
    Manifest.append = noted
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as out:
            if workers is None:
                predict_files(load(), [photographs], out)
            else:
                predict_on_cluster(load, [photographs], out, workers=workers)
    finally:
        Manifest.append = original
    return done


def main():
    """Measures in turns, prints and appends the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    ways = [None, *args.workers]
    seconds = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), args.photographs)
        for _ in range(args.turns):
            for way in ways:
                seconds[way].append(run(folder, way))
    warm, about = args.photographs // 10, environment()
    for way, runs in seconds.items():
        rate = median((len(t) - 1 - warm) / (t[-1] - t[warm]) for t in runs)
        row = {
            "way": "one process" if way is None else "cluster",
            "workers": way or 1,
            "photographs": args.photographs,
            "turns": args.turns,
            "per_second": f"{rate:.2f}",
            "start": f"{median(t[0] for t in runs):.1f}",
            "seconds": f"{median(t[-1] for t in runs):.1f}",
            "hours_per_million": f"{1e6 / rate / 3600:.1f}",
            "engine": load_segmenter(WEIGHTS).engine.name,
            "device": about["device"],
            "keras": about["versions"]["keras"],
            "ray": version("ray"),
            "commit": about["commit"],
            "date": about["date"],
        }
        append("cluster.csv", row)


if __name__ == "__main__":
    main()
