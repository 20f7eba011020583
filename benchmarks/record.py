"""What the benchmarks share: rows of results, peak memory, and one score."""

import csv
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def append(name, row):
    """Adds a row to a file of results, or begins it; its columns are those of all."""
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    path = RESULTS / name
    header = list(row)
    if path.exists():
        with path.open(newline="") as file:
            header = next(csv.reader(file), header)
        if set(row) != set(header):
            raise SystemExit(f"{path}: its columns are {header}, not {list(row)}")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def process_memory(field):
    """Returns bytes that this process holds: "VmRSS" now, "VmHWM" at most so far.

    Not by `getrusage`, whose peak a process takes over from the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"no {field} in /proc/self/status: this needs Linux")


def fov_scores(maps, samples, names):
    """Returns some scores inside the field of view, pooled, at the threshold 0.5."""
    from saunet.evaluation import evaluate

    result = evaluate(maps, samples, region="fov", pooling="pooled", threshold=0.5)
    return {name: f"{result[name]:.4f}" for name in names}
