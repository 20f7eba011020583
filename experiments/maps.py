"""Vessel maps of the shipped weights on their test images, and pictures of them.

    python experiments/maps.py --data-dir DATA --out runs/maps

Writes for each shipped weight (or those of `--weights`) into `<out>/<name>/` the
16-bit probability map of every test image, `<image>_prob.png`, and `best_worst.png`:
photograph, truth, probability, and true and false vessels of the images with the
highest and the lowest F1 in the field of view. `<out>/<name>.zip` holds the maps
alone, to be attached to a release:

    gh release upload vX.Y.Z runs/maps/*.zip

The photographs belong to their data sets: keep the pictures to yourself.
`saunet score` gives the maps the scores of `experiments/results`, to 16 bits.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from saunet.quiet import load_framework

load_framework()  # before the rooms below do it, aloud

from saunet.data.datasets import DATASETS, load_dataset
from saunet.data.images import writable_folder, write_bytes, write_png
from saunet.errors import InputError
from saunet.evaluation import check_labelled, evaluate
from saunet.inference import load_pretrained
from saunet.viz import error_map, panel
from saunet.weights import find_pretrained, list_pretrained, read_card


def main(argv=None):
    """Writes maps and pictures; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of the datasets")
    parser.add_argument("--out", default="runs/maps")
    parser.add_argument("--weights", nargs="+", help="default: all that are shipped")
    args = parser.parse_args(argv)
    try:
        names = args.weights or list_pretrained()
        samples = {name: unseen_samples(name, args.data_dir) for name in names}
        for name in names:
            write_maps(load_pretrained(name), samples[name], Path(args.out))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def unseen_samples(name, data_dir):
    """Returns the samples that the weights were tested on, by their card."""
    card = read_card(find_pretrained(name))
    titles = {dataset.title: key for key, dataset in DATASETS.items()}
    title = card["data"]["dataset"]
    if title not in titles:
        raise InputError(
            f"{name} was trained on {title}: expected one of {', '.join(titles)}; name "
            "others by --weights"
        )
    samples = load_dataset(titles[title], data_dir, "all")
    tested = card["data"].get("never_seen") or DATASETS[titles[title]].test
    if seen := sorted(set(card["data"]["images"]) & set(tested)):
        raise InputError(
            f"{name} was trained on {', '.join(seen)}, which its card calls unseen: "
            "restore the card from its origin"
        )
    tests = [sample for sample in samples if sample.name in tested]
    check_labelled(tests)
    return tests


def write_maps(segmenter, samples, out):
    """Writes the maps, their archive, and the best and the worst as a picture."""
    folder = out / segmenter.name
    writable_folder(folder)
    archive = io.BytesIO()
    maps = []
    with zipfile.ZipFile(archive, "w") as file:
        for sample in samples:
            maps.append(segmenter.predict(sample.image))
            path = folder / f"{sample.name}_prob.png"
            write_png(path, np.rint(maps[-1] * 65535).astype(np.uint16))
            # The same maps give the same archive: no time of today in it.
            file.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    write_bytes(out / f"{segmenter.name}.zip", archive.getvalue())
    result = evaluate(
        maps,
        samples,
        region="fov",
        pooling="mean",
        threshold=segmenter.threshold,
    )
    f1 = [image["f1"] for image in result["per_image"]]
    rows = []
    for index in (int(np.argmax(f1)), int(np.argmin(f1))):
        sample = samples[index]
        found = maps[index] > segmenter.threshold
        errors = error_map(found, sample.vessels, sample.fov)
        rows.append([sample.image, sample.vessels, maps[index], errors])
        print(f"{segmenter.name}: {sample.name} F1 {f1[index]:.4f}")
    titles = ["photograph", "first observer", "probability", "found, false, missed"]
    panel(rows, titles, folder / "best_worst.png")
    size = len(archive.getvalue()) / 1e6
    print(f"{len(maps)} maps in {folder}; {segmenter.name}.zip {size:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
