"""Tiles beside the whole image: how far a network sees, memory, and F1.

    python benchmarks/tiling.py reach NETWORK...
    python benchmarks/tiling.py memory
    python benchmarks/tiling.py f1 --data-dir DIR

reach: one pixel of a random image is changed, and the farthest pixel of the result
that changes by more than 1e-6 and by more than 1e-4; then the largest difference
between the tiles' result and the whole image's. memory: the peak of a process that
predicts one photograph, everything counted. f1: CHASE_DB1's training images (the left
eyes) by sa_unet_v2_drive, field of view, pooled, at the threshold 0.5. Each appends to
its file in benchmarks/results. Linux.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from record import append, fov_scores, process_memory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WEIGHTS = "sa_unet_v2_drive"
# (tile, halo, ramp); a tile of None is the whole image
CHOICES = (
    (None, 0, 0),
    (592, 128, 32),
    (592, 32, 32),
    (592, 128, 128),
    (800, 128, 32),
    (432, 128, 32),
    (432, 32, 32),
)
# where a photograph is 592x592 at the scale of the training images
SCALED = ((None, 0, 0), (432, 128, 32), (320, 128, 32))
MEMORY = (
    ("1008x1008", "whole"),
    ("1008x1008", "592"),
    ("3504x2336", "whole"),
    ("3504x2336", "1024"),
    ("3504x2336", "592"),
)


def reach(args):
    """Measures how far networks with random weights see."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers import fill_weights

    from saunet.inference import Segmenter
    from saunet.models import build_model

    for name in args.networks:
        model = build_model(name)
        fill_weights(model)
        rng = np.random.default_rng(0)
        image = rng.random((448, 448, 3), np.float32)
        changed = image.copy()
        at = 229  # not where poolings start
        changed[at, at] = 1 - changed[at, at]
        before, after = (
            model.predict_on_batch(x[np.newaxis])[0, ..., 0] for x in (image, changed)
        )
        row = {"network": name, "normalisation": _normalisation(model)}
        for least in (1e-6, 1e-4):
            where = np.argwhere(np.abs(after - before) > least)
            row[f"above_{least:g}"] = int(np.abs(where - at).max())
        segmenter = Segmenter(model, engine="keras")
        wide = rng.random((448, 640, 3), np.float32)
        whole, tiled = (segmenter.predict(wide, tile=t) for t in ("whole", 448))
        row["tiles_differ"] = f"{np.abs(whole - tiled).max():.1e}"
        append("tiling_reach.csv", row)


def memory(args):
    """Measures the peak of a process for each size, tile and engine."""
    from saunet.training import environment

    about = environment()
    for engine in args.engines:
        for size, tile in MEMORY:
            call = [sys.executable, __file__, "one", engine, size, tile]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            peak = done.stdout.strip().rpartition("\n")[2] or "failed"
            append(
                "tiling_memory.csv",
                {
                    "engine": engine,
                    "photograph": size,
                    "tile": tile,
                    "peak_mib": peak,
                    "device": about["device"],
                    "keras": about["versions"]["keras"],
                },
            )


def one(args):
    """Predicts one photograph and prints the peak of this process in MiB."""
    from saunet import inference

    inference.MAX_PIXELS = 10**9
    width, height = map(int, args.size.split("x"))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    segmenter = inference.load_pretrained(WEIGHTS, engine=args.engine)
    segmenter.predict(image, tile="whole" if args.tile == "whole" else int(args.tile))
    print(process_memory("VmHWM") // 2**20)


def f1(args):
    """Scores each choice of tile, halo and ramp."""
    from functools import partial

    from saunet import inference
    from saunet.data import tiling
    from saunet.data.datasets import load_dataset
    from saunet.weights import find_pretrained, read_card

    card = read_card(find_pretrained(WEIGHTS))
    samples = load_dataset("chase_db1", args.data_dir, "train")[:: args.every]
    segmenter = inference.load_pretrained(WEIGHTS)
    scale = args.scale if args.scale == "auto" else float(args.scale)
    for tile, halo, ramp in CHOICES if scale == 1 else SCALED:
        inference.predict_tiles = partial(tiling.predict_tiles, halo=halo, ramp=ramp)
        maps = (
            segmenter.predict(s.image, tile=tile or "whole", scale=scale)
            for s in samples
        )
        row = {"scale": args.scale, "tile": tile or "whole", "halo": halo}
        row["ramp"] = ramp
        row["images"] = len(samples)
        row["weights"] = card["sha256"][:12]
        names = ("f1", "auc", "sensitivity", "specificity")
        append("tiling_f1.csv", row | fov_scores(maps, samples, names))


def _normalisation(model):
    kinds = {type(layer).__name__ for layer in model._flatten_layers()}
    names = ("GroupNormalization", "BatchNormalization")
    return " and ".join(name for name in names if name in kinds) or "none"


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(required=True)
    sub = verbs.add_parser("reach")
    sub.add_argument("networks", nargs="+")
    sub.set_defaults(verb=reach)
    sub = verbs.add_parser("memory")
    sub.add_argument("--engines", nargs="+", default=["openvino", "keras"])
    sub.set_defaults(verb=memory)
    sub = verbs.add_parser("one")
    for name in ("engine", "size", "tile"):
        sub.add_argument(name)
    sub.set_defaults(verb=one)
    sub = verbs.add_parser("f1")
    sub.add_argument("--data-dir", required=True)
    sub.add_argument("--every", type=int, default=2, help="2: left eyes only")
    sub.add_argument("--scale", default="1", help="auto, or a factor; default: 1")
    sub.set_defaults(verb=f1)
    args = parser.parse_args()
    args.verb(args)


if __name__ == "__main__":
    main()
