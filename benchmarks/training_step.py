"""A training step of SA-UNet and SA-UNetv2 beside the same networks of stock layers.

    python benchmarks/training_step.py [--networks ...] [--cells 8x256 2x592]
        [--float32]

For each network and batch shape, ours and the stock build (`benchmarks/stock.py`)
take turns in one process, in float32 and in mixed bfloat16: `train_on_batch` on the
same batch with the paper's loss (SA-UNet: binary cross-entropy, SA-UNetv2: BCE and
MCC) and Adam, after two steps to warm up. The ratio is the median over rounds of
stock's time by ours. Peak memory is the process's, each in one of its own. Appends
rows to `benchmarks/results/training_step.csv`, or to another file of that folder
(`--results`). Needs Linux and TensorFlow.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import append, process_memory

import saunet  # noqa: F401  (before Keras: it chooses TensorFlow's kernels)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
LOSSES = {"sa_unet": "bce", "sa_unet_v2": "bce_mcc"}
KINDS = ("ours", "stock")
PRECISIONS = ("float32", "mixed_bfloat16")
WARM_UP = 2


def training_step(network, kind, precision, cell):
    """Returns a function that trains one batch of random images and truths."""
    import keras
    import numpy as np
    from stock import STOCK

    from saunet.losses import get_loss
    from saunet.models import build_model

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    model = build_model(network) if kind == "ours" else STOCK[network]()
    model.compile(keras.optimizers.Adam(1e-3), get_loss(LOSSES[network]))
    batch, side = (int(number) for number in cell.split("x"))
    rng = np.random.default_rng(0)
    images = rng.random((batch, side, side, 3), "float32")
    truths = (rng.random((batch, side, side, 1)) < 0.1).astype("float32")
    return lambda: model.train_on_batch(images, truths)


def measure_times(network, cell, rounds, precisions):
    """Returns `{(kind, precision): seconds of each round}`, in turns."""
    builds = [(kind, precision) for precision in precisions for kind in KINDS]
    steps = {build: training_step(network, *build, cell) for build in builds}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds = {build: [] for build in builds}
    for _ in range(rounds):
        for build, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[build].append(time.perf_counter() - start)
    return seconds


def peak_memory(network, kind, precision, cell):
    """Returns the MiB that a process of three steps holds at most."""
    step = training_step(network, kind, precision, cell)
    for _ in range(3):
        step()
    return process_memory("VmHWM") / 2**20


def in_own_process(call, *arguments):
    """Returns what a function of this file gives in a process of its own."""
    command = [sys.executable, __file__, "--call", call, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def times_as_json(network, cell, rounds, *precisions):
    """`measure_times` with keys that JSON has."""
    seconds = measure_times(network, cell, int(rounds), precisions)
    return {" ".join(build): values for build, values in seconds.items()}


def median_ratio(slow, fast):
    """Returns the median over rounds of `slow / fast`."""
    pairs = zip(slow, fast, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def rows_of(network, cell, rounds, precisions):
    """Measures one network at one batch shape; yields a row for each build."""
    import tensorflow as tf

    from saunet.training import environment

    about = environment()
    seconds = in_own_process("times_as_json", network, cell, rounds, *precisions)
    for precision in precisions:
        for kind in KINDS:
            times = seconds[f"{kind} {precision}"]
            peak = in_own_process("peak_memory", network, kind, precision, cell)
            yield {
                "network": network,
                "batch": cell,
                "build": kind,
                "precision": precision,
                "median_seconds": round(statistics.median(times), 4),
                "stock_float32_by_this": median_ratio(seconds["stock float32"], times),
                "stock_same_precision_by_this": median_ratio(
                    seconds[f"stock {precision}"], times
                ),
                "peak_mib": round(peak),
                "rounds": rounds,
                "device": f"{about['device']}, {_processor()}",
                "threads": (
                    f"intra {tf.config.threading.get_intra_op_parallelism_threads()}"
                    f" inter {tf.config.threading.get_inter_op_parallelism_threads()}"
                    " (0: as many as cores)"
                ),
                "python": platform.python_version(),
                "keras": about["versions"]["keras"],
                "tensorflow": tf.__version__,
                "commit": about["commit"],
                "date": about["date"],
            }


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main():
    """Measures every network at every batch shape and appends the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--cells", nargs="+", default=["8x256", "2x592"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--float32", action="store_true", help="without bfloat16")
    parser.add_argument("--results", default="training_step.csv", metavar="FILE")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.call:
        name, *arguments = args.call
        print(json.dumps(globals()[name](*arguments)))
        return
    precisions = PRECISIONS[:1] if args.float32 else PRECISIONS
    for network in args.networks:
        for cell in args.cells:
            for row in rows_of(network, cell, args.rounds, precisions):
                append(args.results, row)


if __name__ == "__main__":
    main()
