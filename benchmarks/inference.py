"""Time of one photograph on every engine, beside the same network of stock layers.

    python benchmarks/inference.py --data-dir DRIVE [--models sa_unet_v2 sa_unet]

One process, all engines in turns, medians: 592x592, batch 1. The first row of a
network is `model.predict` of `benchmarks/stock.py`'s build with the same weights: what
a Keras user has. F1 and AUC are those of the shipped weights on the 20 test images of
DRIVE (full frame, pooled, threshold 0.5); they choose nothing here. The 8-bit graph
is scaled on eight training images. Appends to `benchmarks/results/inference.csv`, or
to another file of that folder (`--results inference_avx2.csv`).
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from record import append
from stock import STOCK

from saunet.data.datasets import load_dataset
from saunet.engines import PRECISIONS, OpenVINOEngine, make_engine, open_exported
from saunet.errors import InputError
from saunet.evaluation import evaluate
from saunet.export import export
from saunet.inference import Segmenter, load_pretrained
from saunet.machine import count_cores
from saunet.profiling import count_flops, matrix_products, time_in_turns
from saunet.training import environment

SHAPE = (592, 592, 3)


def engines_of(model, calibration, folder):
    """Returns `{(engine, precision): function}`, the stock build first."""
    stock = STOCK[model.name]()
    stock.set_weights(model.get_weights())
    engines = {("stock predict", "float32"): lambda x: stock.predict(x, verbose=0)}
    for engine, precisions in PRECISIONS.items():
        for precision in precisions:
            try:
                made = make_engine(model, engine, precision=precision)
            except InputError:
                continue  # bfloat16, which this processor has not
            engines[engine, precision] = made
    # Not beside the stock build's: a `predict` slows the one that comes right after it.
    engines["predict", "float32"] = lambda x: model.predict(x, verbose=0)
    path = Path(folder) / "int8.onnx"
    export(model, path, "onnx", calibration=calibration)
    engines["openvino", "int8"] = OpenVINOEngine(path)
    engines["onnxruntime", "int8"] = open_exported(path, "onnxruntime")
    path = Path(folder) / "float32.tflite"
    export(model, path, "litert")
    engines["litert", "float32"] = open_exported(path)
    return engines


def measure(name, data_dir, runs):
    """Yields a row for each engine."""
    segmenter = load_pretrained(f"{name}_drive", engine="keras")
    training = load_dataset("drive", data_dir, "train")[:8]
    calibration = [segmenter.prepare(sample.image) for sample in training]
    samples = load_dataset("drive", data_dir, "test")
    with tempfile.TemporaryDirectory() as folder:
        engines = engines_of(segmenter.model, calibration, folder)
        image = segmenter.prepare(samples[0].image)
        products, operations = matrix_products()
        timed = {key: lambda f=f: f(image) for key, f in engines.items()}
        seconds = time_in_turns(timed | products, runs)
        per_second = operations / min(seconds.pop(name) for name in products)
        limit = count_flops(segmenter.model, SHAPE) / per_second
        expected = engines["stock predict", "float32"](image)
        about = environment()
        backend = f"{about['backend']} {about['versions'][about['backend']]}"
        for key, engine in engines.items():
            row = {
                "model": name,
                "engine": key[0],
                "precision": key[1],
                "milliseconds": round(1e3 * seconds[key], 1),
                "times_faster": round(
                    seconds["stock predict", "float32"] / seconds[key], 2
                ),
                "of_limit": round(seconds[key] / limit, 2),
                "difference": float(f"{np.abs(engine(image) - expected).max():.1e}"),
            }
            padding = segmenter.padding
            run = Segmenter(None, name="timed", engine=engine, padding=padding)
            yield (
                row
                | score(run, samples)
                | {
                    "matmul_gflops": round(per_second / 1e9, 1),
                    "shape": "x".join(map(str, SHAPE)),
                    "device": about["device"],
                    "threads": count_cores(),
                    "keras": about["versions"]["keras"],
                    "backend": backend,
                    "commit": about["commit"],
                    "date": about["date"],
                }
            )


def score(segmenter, samples):
    """Returns F1 and AUC, full frame, pooled."""
    maps = (segmenter.predict(sample.image) for sample in samples)
    result = evaluate(maps, samples, region="frame", pooling="pooled")
    return {key: round(result[key], 5) for key in ("f1", "auc")}


def main():
    """Measures, prints and appends the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of DRIVE")
    parser.add_argument("--models", nargs="*", default=list(STOCK))
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--results", default="inference.csv", metavar="FILE")
    args = parser.parse_args()
    for name in args.models:
        for row in measure(name, args.data_dir, args.runs):
            append(args.results, row)


if __name__ == "__main__":
    main()
