"""One real epoch of every network on DRIVE crops: does each one train, at what cost?

    python benchmarks/one_epoch.py --data-dir DRIVE [--models sa_unet rsan ...]
    python benchmarks/one_epoch.py --table > docs/networks.md

Each network runs in a process of its own: 20 steps of 4 random views of 128x128 from
the 20 training images, Adam 1e-3, binary cross-entropy, float32. Appends a row to
`benchmarks/results/one_epoch.csv`: median seconds a step (the first, which compiles,
left out), the process's peak memory, and the loss of the first batch in training mode
before and after the epoch. `--table` measures nothing: it renders that file, and the
facts of the registry, as a page.
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

from saunet.facts import FACTS  # before Keras: TensorFlow's kernels are chosen

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
RESULTS = Path(__file__).parent / "results" / "one_epoch.csv"
CROP, BATCH, STEPS = 128, 4, 20


def measure(name, data_dir):
    """Trains one network for one epoch and returns its row."""
    import keras
    from record import process_memory

    from saunet.data.datasets import load_dataset
    from saunet.data.pipeline import random_batches
    from saunet.losses import bce
    from saunet.models import build_model
    from saunet.training import environment

    keras.utils.set_random_seed(0)
    model = build_model(name)
    model.compile(keras.optimizers.Adam(1e-3), bce)
    samples = load_dataset("drive", data_dir, "train")
    batches = random_batches(samples, crop=CROP, batch_size=BATCH, seed=0)
    first = next(batches)
    before = float(bce(first[1], model(first[0], training=True)))
    seconds = []
    for x, y in [first, *(next(batches) for _ in range(STEPS - 1))]:
        start = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - start)
    after = float(bce(first[1], model(first[0], training=True)))
    about = environment()
    return {
        "model": name,
        "seconds_per_step": round(statistics.median(seconds[1:]), 3),
        "peak_mib": process_memory("VmHWM") // 2**20,
        "loss_before": round(before, 4),
        "loss_after": round(after, 4),
        "steps": STEPS,
        "batch": f"{BATCH}x{CROP}x{CROP}",
        "device": about["device"],
        "keras": about["versions"]["keras"],
        "backend": f"{about['backend']} {about['versions'][about['backend']]}",
        "commit": about["commit"],
        "date": about["date"],
    }


PAGE = """\
# The networks, and one epoch of each

Each network's parameters, its GFLOPs for one image of 592x592 (a multiply-add is 2, as
keras-flops counts), and what one real epoch on DRIVE's training images costs and does:
{steps} steps on {batch} random views, Adam 1e-3, binary cross-entropy, float32,
the same seed and so the same views for all. Time is the median step, the first left
out; memory is the peak of the whole process, Python and TensorFlow included; loss is
the first batch's in training mode, dropout on, before and after. One epoch shows that a
network trains, not how good it becomes: no column here ranks them by quality.

The head of each file in `saunet/models` ([API](api/models.md)) links the paper and says
what departs from it.

Measured once, {date}, on {device}: keras {keras}, {backend}, commit {commit}.

| key | from | parameters | GFLOPs | s/step | peak MiB | loss before | loss after |
|---|---|---:|---:|---:|---:|---:|---:|
{rows}

Rendered by `python benchmarks/one_epoch.py --table` from
`benchmarks/results/one_epoch.csv` and `saunet/facts.py`: edit those, not this.
"""


def page():
    """Returns `docs/networks.md`: the last row measured of each network, and facts."""
    with RESULTS.open(newline="") as file:
        measured = {row["model"]: row for row in csv.DictReader(file)}
    for row in measured.values():  # "dirty" by that file, which grew
        row["commit"] = row["commit"].removesuffix("-dirty")
    rows = [
        f"| `{name}` | {facts.paper} "
        f"| {facts.total:,} | {facts.gflops:,.3f} "
        f"| {float(row['seconds_per_step']):.3f} | {int(row['peak_mib']):,} "
        f"| {float(row['loss_before']):.4f} | {float(row['loss_after']):.4f} |"
        for name, facts in FACTS.items()
        for row in [measured[name]]
    ]
    common = {
        key: "; ".join(sorted({row[key] for row in measured.values()}))
        for key in "steps batch date device keras backend commit".split()
    }
    return PAGE.format(**common, rows="\n".join(rows))


def main():
    """Measures each network in its own process, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data-dir", help="folder of DRIVE")
    what.add_argument(
        "--table", action="store_true", help="print docs/networks.md, measure nothing"
    )
    parser.add_argument("--models", nargs="*", help="default: all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        print(page(), end="")
        return
    if args.one:
        print(json.dumps(measure(args.one, args.data_dir)))
        return
    from record import append

    from saunet.models import MODELS

    for name in args.models or MODELS:
        command = [sys.executable, __file__, "--data-dir", args.data_dir, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}:\n{done.stderr}")
        row = json.loads(done.stdout.splitlines()[-1])
        append(RESULTS.name, row)


if __name__ == "__main__":
    main()
