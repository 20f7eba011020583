"""Time and memory of inference against the image's side and the batch, plotted.

    python benchmarks/scaling.py [--models sa_unet_v2 sa_unet]

Each point is a process of its own: one warm-up, the median of `--runs` calls, and how
much the process's peak memory rose above the peak before the first call. Writes
`benchmarks/results/scaling.csv` and `docs/scaling.png`.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scaling.csv"
PLOT = HERE.parent / "docs" / "scaling.png"
SIDES = (256, 512, 768, 1024, 1536, 2048)
BATCHES = (1, 2, 4, 8, 16)
BATCH_SIDE = 256
ENGINES = ("keras", "openvino")


def measure(name, engine, side, batch, runs):
    """Times one network, engine, side and batch, and returns the row."""
    import numpy as np
    from record import process_memory

    from saunet.engines import make_engine
    from saunet.models import build_model
    from saunet.training import environment

    run = make_engine(build_model(name), engine)
    images = np.random.default_rng(0).random((batch, side, side, 3), np.float32)
    before = process_memory("VmHWM")
    run(images)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    peak = process_memory("VmHWM") - before
    about = environment()
    return {
        "model": name,
        "engine": engine,
        "side": side,
        "batch": batch,
        "milliseconds": round(1e3 * statistics.median(seconds), 1),
        "peak_mib": peak // 2**20,
        "device": about["device"],
        "keras": about["versions"]["keras"],
        "commit": about["commit"],
        "date": about["date"],
    }


def plot(rows):
    """Draws time and memory, against the side and against the batch."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    series = {(row["model"], row["engine"]) for row in rows}
    for model, engine in sorted(series):
        style = {"marker": "o", "ms": 3, "ls": "-" if engine == "openvino" else "--"}
        style["color"] = "#0072b2" if model == "sa_unet_v2" else "#d55e00"
        own = [r for r in rows if (r["model"], r["engine"]) == (model, engine)]
        by_side = [r for r in own if int(r["batch"]) == 1]
        by_batch = [r for r in own if int(r["side"]) == BATCH_SIDE]
        for column, (points, key) in enumerate(
            [(by_side, "side"), (by_batch, "batch")]
        ):
            x = [int(r[key]) for r in points]
            per_call = [float(r["milliseconds"]) / 1e3 for r in points]
            memory = [int(r["peak_mib"]) / 1024 for r in points]
            label = f"{model}, {engine}"
            axes[0, column].plot(x, per_call, label=label, **style)
            axes[1, column].plot(x, memory, label=label, **style)
    for column, name in enumerate(
        ["side of one square image, pixels", f"images of {BATCH_SIDE}x{BATCH_SIDE}"]
    ):
        axes[0, column].set_ylabel("seconds a call")
        axes[1, column].set_ylabel("peak memory, GiB")
        for row in (0, 1):
            axes[row, column].set_xlabel(name)
            axes[row, column].set_ylim(bottom=0)
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=110)


def main():
    """Measures every point in a process of its own, then plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=["sa_unet_v2", "sa_unet"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        name, engine, side, batch = args.point
        print(json.dumps(measure(name, engine, int(side), int(batch), args.runs)))
        return
    points = [(side, 1) for side in SIDES]
    points += [(BATCH_SIDE, batch) for batch in BATCHES if batch > 1]
    rows = []
    for name in args.models:
        for engine in ENGINES:
            for side, batch in points:
                command = [sys.executable, __file__, "--runs", str(args.runs)]
                command += ["--point", name, engine, str(side), str(batch)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(*list(rows[-1].values())[:6], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows)


if __name__ == "__main__":
    main()
