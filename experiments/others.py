"""The second human observer and other people's maps, by the same scorer.

    python experiments/others.py --data-dir DATA
    python experiments/others.py --data-dir DATA --dataset drive --maps lwnet=FOLDER

Scores the second observer's labels against the first's on the test part of each data
set (all folds of STARE), and folders of probability maps, and writes
`experiments/results/others_<dataset>.json`. A human draws no probabilities: the AUC
of such a row is that of one point, and no table shows it.
"""

import argparse
import sys

import numpy as np
from records import RESULTS, THRESHOLD, add_results, score_maps

from saunet.quiet import load_framework

load_framework()  # before the rooms below do it, aloud

from saunet.data.datasets import DATASETS, load_dataset
from saunet.data.images import writable_folder
from saunet.data.pairing import list_images, pair_files
from saunet.errors import InputError
from saunet.evaluation import read_map
from saunet.training import environment

PAPER = "others"


def main(argv=None):
    """Scores what the command line names; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of the datasets")
    parser.add_argument(
        "--dataset", nargs="+", choices=list(DATASETS), default=list(DATASETS)
    )
    parser.add_argument(
        "--maps",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="8- or 16-bit probability maps of the test part, named as its images",
    )
    parser.add_argument("--results", default=RESULTS, help="where JSON is written")
    args = parser.parse_args(argv)
    try:
        if args.maps and len(args.dataset) != 1:
            raise InputError("--maps needs one --dataset: that of the maps")
        writable_folder(args.results, "--results")  # before the scoring
        for dataset in args.dataset:
            part = "all" if DATASETS[dataset].folds else "test"
            samples = load_dataset(dataset, args.data_dir, part)
            records = [] if args.maps else [observer(samples)]
            for given in args.maps:
                name, equals, folder = given.partition("=")
                if not equals:
                    raise InputError(f"--maps {given}: expected NAME=FOLDER")
                records.append(maps(samples, name, folder))
            add_results(
                f"{args.results}/{PAPER}_{dataset}.json", PAPER, dataset, records
            )
            for record in records:
                print(
                    f"{dataset}: {record['title']}: F1 {record['scores'][0]['f1']:.4f}"
                )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def observer(samples):
    """Returns the results row of the second observer.

    Raises:
        InputError: the dataset's folder has no labels by one.
    """
    lacking = [sample.name for sample in samples if sample.second_observer is None]
    if lacking:
        raise InputError(
            f"no labels of the second observer for {', '.join(lacking)}: add them to "
            "the dataset's folder, or score maps by --maps"
        )
    drawn = [sample.second_observer.astype(np.float32) for sample in samples]
    return _record("second_observer", "second human observer", drawn, samples, True)


def maps(samples, name, folder):
    """Returns the results row of a folder of probability maps."""
    # The scorer's own pairing, against the names of the dataset's files.
    paths = list_images(folder)
    stems = [paths[0].parent / f"{sample.name}.png" for sample in samples]
    found = pair_files(stems, paths)
    values = [read_map(found[stem]) for stem in stems]
    return _record(name, f"{name}'s public maps", values, samples, False)


def _record(row, title, values, samples, binary):
    # Binary maps are scored as they are: 1 is above any threshold.
    scores, per_image = score_maps(values, samples)
    return {
        "row": row,
        "title": title,
        "fold": None,
        "recipe_name": None,
        "seed": None,
        "views": 1,
        "binary": binary,
        "threshold": THRESHOLD,
        **environment(),
        "scores": scores,
        "per_image": per_image,
    }


if __name__ == "__main__":
    sys.exit(main())
