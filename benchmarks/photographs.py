"""Weights on photographs of other cameras, with and without scaling.

    python benchmarks/photographs.py scale --data-dir DIR
    python benchmarks/photographs.py across WEIGHTS... --data-dir DIR
    python benchmarks/photographs.py folder PHOTOGRAPHS...

scale: F1 and AUC inside the field of view, pooled, at the threshold 0.5. The network
sees a photograph as it is ("none"), as `saunet predict` scales it by default ("auto"),
or with its field of view so many times as wide as DRIVE's ("x0.8"). Chosen by "choose"
(CHASE_DB1's training images and STARE's first fold), reported on "report" (CHASE_DB1's
test images and STARE's other folds). across: the same score of weights on all images
of the datasets that they were not trained on, scaled by default. folder: photographs a
second of reading, segmenting and writing, one after the other and at once, in turns.
Each appends to its file in benchmarks/results.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import Future

from record import append, fov_scores

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
WEIGHTS = "sa_unet_v2_drive"
NAMES = ("f1", "auc", "sensitivity", "specificity", "cldice")
# what for -> (dataset, split, fold)
PARTS = {
    "choose": (("stare", "test", 0), ("chase_db1", "train", None)),
    "report": (("stare", "train", 0), ("chase_db1", "test", None)),
}
SCALES = {
    "choose": ("none", "auto", "x0.8", "x1", "x1.25", "x1.5"),
    "report": ("none", "auto", "x1"),
}


def scale(args):
    """Scores each way of scaling."""
    from saunet.data.datasets import load_dataset
    from saunet.data.field import field_of_view
    from saunet.inference import load_pretrained
    from saunet.weights import find_pretrained, read_card

    segmenter = load_pretrained(WEIGHTS)
    card = read_card(find_pretrained(WEIGHTS))

    def factor(image, way):
        if way in ("auto", "none"):
            return {"auto": "auto", "none": 1}[way]
        return float(way[1:]) * segmenter.fov_diameter / field_of_view(image)[1]

    for part in args.parts:
        for dataset, split, fold in PARTS[part]:
            samples = load_dataset(dataset, args.data_dir, split, fold=fold)
            for way in SCALES[part]:
                maps = (
                    segmenter.predict(s.image, scale=factor(s.image, way))
                    for s in samples
                )
                row = {"part": part, "dataset": dataset, "images": len(samples)}
                row["scale"] = way
                row["weights"] = card["sha256"][:12]
                append("photographs_scale.csv", row | fov_scores(maps, samples, NAMES))


def across(args):
    """Scores weights on all images of the datasets that they were not trained on."""
    from saunet.data.datasets import load_dataset
    from saunet.inference import load_pretrained
    from saunet.weights import find_pretrained, read_card, seen_images

    for name in args.weights:
        segmenter = load_pretrained(name)
        card = read_card(find_pretrained(name))
        seen = {*seen_images(name)}  # no name occurs in two of the datasets
        for dataset in ("drive", "chase_db1", "stare"):
            samples = [
                sample
                for split in ("train", "test")
                for sample in load_dataset(
                    dataset,
                    args.data_dir,
                    split,
                    fold=0 if dataset == "stare" else None,
                )
            ]
            if seen & {sample.name for sample in samples}:
                continue
            maps = (segmenter.predict(s.image, scale="auto") for s in samples)
            row = {"weights": f"{name} {card['sha256'][:12]}", "dataset": dataset}
            row |= {"images": len(samples), "scale": "auto"}
            append("photographs_across.csv", row | fov_scores(maps, samples, NAMES))


def folder(args):
    """Times a folder with and without threads that read and write."""
    from saunet import folders
    from saunet.errors import InputError
    from saunet.inference import load_pretrained
    from saunet.training import environment

    class Now:
        """An executor that is none."""

        def __init__(self, workers):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *words):
            done = Future()
            try:
                done.set_result(function(*words))
            except InputError as error:
                done.set_exception(error)
            return done

    segmenter = load_pretrained(WEIGHTS)
    threads = folders.ThreadPoolExecutor
    speeds = {"one after the other": [], "at once": []}
    for turn in range(args.turns + 1):
        for kind, executor in zip(speeds, (Now, threads), strict=True):
            folders.ThreadPoolExecutor = executor
            with tempfile.TemporaryDirectory() as out:
                started = time.perf_counter()
                result = folders.predict_files(segmenter, args.photographs, out)
                seconds = time.perf_counter() - started
            if turn:  # the first compiles
                speeds[kind].append(len(result["written"]) / seconds)
    for kind, values in speeds.items():
        row = {
            "reading and writing": kind,
            "engine": segmenter.engine.name,
            "photographs": len(result["written"]),
            "per second": f"{sorted(values)[len(values) // 2]:.2f}",
            "device": environment()["device"],
        }
        append("photographs_folder.csv", row)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(required=True)
    sub = verbs.add_parser("scale")
    sub.add_argument("--data-dir", required=True)
    sub.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    sub.set_defaults(verb=scale)
    sub = verbs.add_parser("across")
    sub.add_argument("weights", nargs="+", help="names of shipped weights")
    sub.add_argument("--data-dir", required=True)
    sub.set_defaults(verb=across)
    sub = verbs.add_parser("folder")
    sub.add_argument("photographs", nargs="+")
    sub.add_argument("--turns", type=int, default=5)
    sub.set_defaults(verb=folder)
    args = parser.parse_args()
    args.verb(args)


if __name__ == "__main__":
    main()
