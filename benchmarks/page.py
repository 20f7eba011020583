"""Renders docs/speed.md from the CSV files of benchmarks/results.

python benchmarks/page.py > docs/speed.md
"""

import csv

from record import RESULTS

PAGE = """\
# Speed

Every time is a median, after a warm-up; what is compared with the stock build took
turns with it in one process. Milliseconds do not carry over to other machines, ratios
do roughly: how far they moved from run to run is said below. The files behind the
tables are in `benchmarks/results`, with versions, threads and commit; each table names
the command that makes it. `saunet benchmark MODEL` prints the engines' table for your
own machine.

"Stock" is the same network of Keras's own layers (`benchmarks/stock.py`: its
GroupNormalization and BatchNormalization, and DropBlock by keras-cv's formula), with
the same weights.

## One photograph

592x592 pixels, one image, {inference_device}.

- `stock predict`: `model.predict` of the stock build, what a Keras user has; `predict`:
  the same call on our build; the rest are `Segmenter`'s engines, and graphs of 8-bit
  integers and LiteRT that `saunet export` wrote.
- *Of limit*: the time over that of the network's bare multiplications and additions, at
  the speed of a float32 matrix product on the same machine ({matmul} GFLOP/s
  when the networks were measured).
- *Largest difference*: of any pixel's probability from the network's first row.
- F1 and AUC: on DRIVE's 20 test images, whole frame, pooled, threshold 0.5, by the
  shipped weights (rows `best` of [results](results.md)).

`python benchmarks/inference.py --data-dir DRIVE`

{inference}

What the numbers say:

- `Segmenter` takes OpenVINO where it is installed (`pip install '.[openvino]'`),
  else Keras.
  {default}
- The stock build's time depends on how fast the system hands out memory: SA-UNetv2 took
  206 to 338 ms in five runs. The table is of the run with the highest ratios; over all
  six that were recorded, earlier code and another machine included, OpenVINO was 2.5 to
  4.5 times faster than stock for SA-UNetv2 (median 3.1), 2.0 to 2.7 times for SA-UNet
  (2.4).
- SA-UNet's normalisation is Keras's own at inference, so `predict` takes as long on our
  build as on stock's: on Keras `Segmenter` is faster by `predict_on_batch` alone.
- Of SA-UNetv2's time on OpenVINO convolutions are three quarters in float32 (55 ms)
  and three fifths in bfloat16 (28 ms); the rest is normalisation, SiLU and attention,
  which run at the speed of memory. SiLU written with an exponential or a tangent is no
  faster.
- Of SA-UNetv2 the stock build is the one that is off by 0.004: its means over a map
  lose digits in float32, ours do not (4e-6 from the same network with activations in
  float64).
- In float32 an engine can hardly be faster than the arithmetic, "of limit" 1.00, a
  figure that is as exact as the matrix product's own time.
- bfloat16 and 8-bit integers change a few pixels near the threshold; the F1 column says
  by how much. How fast they are depends on the processor: this one has bfloat16 and
  8-bit instructions, but not Intel's AMX, which multiplies four times faster still. Of
  the 8-bit integers the weights take seven, because without such instructions eight
  overflow.
- The first call compiles: about a quarter of a second on OpenVINO, some seconds on
  Keras. On OpenVINO the first size, and each other size that comes twice, gets a
  graph of its own; a size that comes once runs in a graph for all sizes. Keras compiles
  again when a second size comes, then for all sizes.

## Larger images, more images

`python benchmarks/scaling.py`: random images, each point in a process of its own.
Memory is what the process's peak rose by.

![Time and memory against the image's side and against the batch](scaling.png)

{scaling}

Larger pictures are cut into tiles: see [any photograph](photographs.md).

{training}
## GPUs

Not measured: no GPU was at hand. `saunet benchmark` and the scripts above run on one,
on the TensorFlow or JAX backend; OpenVINO and ONNX Runtime, as used here, are CPU
engines, and `engine="auto"` then takes Keras.
"""


def main():
    """Prints the page."""
    print(page(), end="")


def page():
    """Returns the text of docs/speed.md."""
    inference, scaling = read("inference"), read("scaling")
    speeds = dict.fromkeys(f"{float(r['matmul_gflops']):.0f}" for r in inference)
    return PAGE.format(
        inference_device=inference[0]["device"],
        matmul=" and ".join(speeds),
        inference=table(
            {
                "network": "model",
                "engine": "engine",
                "precision": "precision",
                "ms": "milliseconds",
                "times faster": "times_faster",
                "of limit": "of_limit",
                "largest difference": "difference",
                "F1": "f1",
                "AUC": "auc",
            },
            inference,
        ),
        default=default(inference),
        scaling=table(
            {
                "network": "model",
                "engine": "engine",
                "side": "side",
                "batch": "batch",
                "ms a call": "milliseconds",
                "peak MiB": "peak_mib",
            },
            scaling,
        ),
        training=(RESULTS.parents[1] / "docs" / "speed_training.md").read_text(),
    )


def read(name):
    """Returns the rows of a file of results."""
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(columns, rows):
    """Returns a Markdown table; numbers are set to the right."""
    lines = [
        list(columns),
        ["---:" if _number(rows, k) else "---" for k in columns.values()],
    ]
    lines += [[row[key] for key in columns.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def default(rows):
    """Says how the default compares, for both networks."""
    by_key = {(r["model"], r["engine"], r["precision"]): r for r in rows}
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        ratios = (
            by_key[model, engine, "float32"]["times_faster"]
            for engine in ("openvino", "keras")
        )
        parts.append("`{}`: {} and {} times".format(model, *ratios))
    return (
        "Faster than the stock `predict`, in this run (OpenVINO, Keras; medians below):"
        f"\n  {', '.join(parts)}."
    )


def _number(rows, key):
    return rows[0][key].replace(".", "").replace("e-", "").isdigit()


if __name__ == "__main__":
    main()
