"""Probability maps + truth + field of view -> rows -> one of four protocols.

A protocol is a region and a pooling, and a score without them means nothing:

| region | the pixels that count |
|---|---|
| fov | those inside the field of view |
| frame | all; the black corners are free true negatives |

| pooling | the summary |
|---|---|
| pooled | one count over the pixels of all images |
| mean | each metric an image, then their mean |

A pixel is a vessel if its probability is above the threshold, not at it.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from saunet.data.datasets import NO_TEST_LABELS
from saunet.data.images import (
    image_stem,
    read_fov,
    read_gray,
    read_gray_map,
    read_label,
    sides,
)
from saunet.data.pairing import (
    list_results,
    pair_trees,
    pair_truth,
    shared_names,
)
from saunet.errors import InputError
from saunet.metrics import (
    METRICS,
    areas_of_levels,
    cldice,
    count,
    count_levels,
    count_skeletons,
    pr_auc,
    roc_auc,
)

REGIONS = ("fov", "frame")
POOLINGS = ("pooled", "mean")
SCORES = (*METRICS, "auc", "pr_auc", "cldice")
# Sorting pixels takes some 57 bytes for each: about 4 GB for these.
EXACT_PIXELS = 64_000_000


def evaluate(probabilities, samples, *, region, pooling, threshold=0.5):
    """Scores probability maps against the labels of a dataset.

    Args:
        probabilities: iterable of `(H, W)` floats in [0, 1], one a sample; a
            generator keeps one map at a time in memory besides the pooled pixels.
        samples: sequence of `Sample`, in the same order.
        region: "fov" or "frame".
        pooling: "pooled" or "mean".
        threshold: float in [0, 1]; vessel if the probability is greater.

    Returns:
        As `summarise`.

    Raises:
        InputError: a sample has no labels (DRIVE's test part as downloaded today),
            or as `summarise`.
    """
    check_labelled(samples)
    return summarise(
        (
            (sample.name, probability, sample.vessels, sample.fov)
            for probability, sample in zip(probabilities, samples, strict=True)
        ),
        region=region,
        pooling=pooling,
        threshold=threshold,
    )


def score_folders(predictions, truth, fov=None, *, region, pooling, threshold=0.5):
    """Scores a folder of probability maps against a folder of labels.

    Args:
        predictions: folder of 8- or 16-bit pictures, full scale meaning 1. Where
            some are named `<name>_prob`, as `saunet predict` writes them, the others
            are left out, and those in sub-folders are scored, too.
        truth: folder of label pictures, paired with them by
            `saunet.data.pairing.pair_files`, in sub-folders of the same names.
        fov: folder of field-of-view pictures, likewise; needed for the region "fov".
            It may hold more images than are scored.
        region: "fov" or "frame".
        pooling: "pooled" or "mean".
        threshold: float in [0, 1]; vessel if the probability is greater.

    Returns:
        As `summarise`; the names are the numbers or names both sides share.

    Raises:
        InputError: a folder is missing or empty, files cannot be paired or read, a
            truth is no label, the region is "fov" without `fov`, or as `summarise`.
    """
    check_protocol(region, pooling, threshold)
    if region == "fov" and fov is None:
        raise InputError(
            "region fov needs the field-of-view masks: pass their folder with --fov, "
            "or score the whole frame with --region frame"
        )
    if fov is not None and not Path(fov).is_dir():
        raise InputError(f"{fov}: no such folder of field-of-view masks")
    guesses = list_results(predictions, "prob")
    labels = pair_truth(guesses, predictions, truth)
    masks = pair_trees(guesses, predictions, fov) if region == "fov" else {}
    shared = shared_names(guesses, predictions)
    return summarise(
        (
            (
                shared[path],
                read_map(path),
                read_label(labels[path]),
                read_fov(masks[path]) if masks else None,
            )
            for path in guesses
        ),
        region=region,
        pooling=pooling,
        threshold=threshold,
    )


def summarise(items, *, region, pooling, threshold=0.5):
    """Scores maps one by one and summarises them by one of the four protocols.

    Args:
        items: iterable of `(name, probability, truth, fov)`: str, `(H, W)` floats in
            [0, 1], `(H, W)` in {0, 1}, and the same or None for the region "frame".
        region: "fov" or "frame".
        pooling: "pooled" (one count over all images' pixels; clDice over all
            skeleton pixels; beyond `EXACT_PIXELS` the areas under the curves are of
            probabilities rounded to 16 bits, as maps in files are) or "mean" (of each
            metric over images; one image where it is undefined makes it undefined).
        threshold: float in [0, 1]; vessel if the probability is greater.

    Returns:
        Dict with the keys region, pooling, threshold, images (how many), those of
        `SCORES` (floats, NaN where undefined) and per_image: a list of dicts with
        name, pixels, tp, fp, fn, tn and `SCORES`, the same for both poolings.

    Raises:
        InputError: the region, pooling or threshold is not one of the above, there
            is nothing to score, sizes differ, or a map is not in [0, 1].
    """
    check_protocol(region, pooling, threshold)
    rows, counts, skeletons, kept, levels = [], [], [], [], None
    for name, probability, truth, fov in items:
        probability = np.asarray(probability)
        inside = _choose_pixels(name, probability, truth, fov, region)
        truth = np.asarray(truth).astype(bool)
        guess = probability > threshold
        # Cut the maps, not the skeletons: what lies outside must not steer them.
        skeleton = count_skeletons(guess & inside, truth & inside)
        values, labels = probability[inside], truth[inside]
        counted = count(guess[inside], labels)
        areas = roc_auc(values, labels), pr_auc(values, labels)
        scores = _scores(counted, skeleton, *areas)
        rows.append({"name": name, "pixels": labels.size, **asdict(counted), **scores})
        if pooling == "pooled":
            counts.append(counted)
            skeletons.append(skeleton)
            kept.append((values, labels))
            if sum(values.size for values, _ in kept) > EXACT_PIXELS:
                levels = count_levels(kept) + (0 if levels is None else levels)
                kept = []
    if not rows:
        raise InputError("nothing to score: expected at least one image")
    if pooling == "pooled":
        if levels is None:
            values, labels = map(np.concatenate, zip(*kept, strict=True))
            areas = roc_auc(values, labels), pr_auc(values, labels)
        else:
            areas = areas_of_levels(levels + count_levels(kept))
        total = sum(counts[1:], counts[0]), sum(skeletons[1:], skeletons[0])
        scores = _scores(*total, *areas)
    else:
        scores = _mean_scores(rows)
    return {
        "region": region,
        "pooling": pooling,
        "threshold": threshold,
        "images": len(rows),
        **scores,
        "per_image": rows,
    }


def summarise_all(items, *, regions=REGIONS, threshold=0.5):
    """Scores maps by all protocols, at hardly the price of the pooled ones.

    Args:
        items: function that returns those of `summarise`, called for each region.
        regions: which of them.
        threshold: as in `summarise`.

    Returns:
        `{(region, pooling): result}`, each result as of `summarise`.

    Raises:
        InputError: as `summarise`.
    """
    results = {}
    for region in regions:
        pooled = summarise(
            items(), region=region, pooling="pooled", threshold=threshold
        )
        mean = {"pooling": "mean", **_mean_scores(pooled["per_image"])}
        results |= {(region, "pooled"): pooled, (region, "mean"): {**pooled, **mean}}
    return results


def _mean_scores(rows):
    """Returns the mean of each score over the rows of images, NaN if one is."""
    return {key: math.fsum(row[key] for row in rows) / len(rows) for key in SCORES}


def to_json(result):
    """Returns the result of `summarise` as JSON; NaN, which JSON lacks, is null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(plain(result), indent=2, allow_nan=False)


def read_probability(path):
    """Reads an 8- or 16-bit picture as probabilities: full scale is 1.

    Returns:
        `(H, W)` float32 in [0, 1].

    Raises:
        InputError: as `read_gray`, or a mask of zeros and ones, which as probabilities
            would be next to none.
    """
    return _shares(read_gray(path), path)


def read_map(path):
    """As `read_probability`, of a method's result: no photograph in its place.

    Raises:
        InputError: as `read_probability`, or a colour picture.
    """
    return _shares(read_gray_map(path), path)


def _shares(gray, path):
    """Returns a picture's brightness as shares of full scale."""
    full = np.iinfo(gray.dtype).max
    # Of 65535 it may be the largest probability that a network gave.
    ours = full == 65535 and image_stem(path).endswith("_prob")
    if gray.max() == 1 and not ours:
        raise InputError(
            f"{path}: holds only 0 and 1, of {full}: expected probabilities at full "
            f"scale; multiply by {full}"
        )
    return gray.astype(np.float32) / np.float32(full)


def check_labelled(samples):
    """Raises InputError unless each of the samples has its vessels."""
    unlabelled = [sample.name for sample in samples if sample.vessels is None]
    if unlabelled:
        raise InputError(f"no labels for {', '.join(unlabelled)}: {NO_TEST_LABELS}")


def check_protocol(region, pooling, threshold):
    """Raises InputError unless there is such a region, pooling and threshold."""
    if region not in REGIONS:
        raise InputError(f"region {region!r} is unknown: use fov or frame")
    if pooling not in POOLINGS:
        raise InputError(f"pooling {pooling!r} is unknown: use pooled or mean")
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not a probability: use 0 to 1")


def _choose_pixels(name, probability, truth, fov, region):
    """Returns the pixels that count as `(H, W)` bool."""
    parts = {"truth": truth} if region == "frame" else {"truth": truth, "FOV": fov}
    for what, array in parts.items():
        if array is None:
            raise InputError(f"{name}: no {what}, which region {region} needs")
        if array.shape != probability.shape:
            raise InputError(
                f"{name}: the prediction is {sides(probability)} and the {what} "
                f"{sides(array)} pixels: both must be of the photograph's size"
            )
    low, high = probability.min(), probability.max()
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise InputError(
            f"{name}: probabilities from {low} to {high}, expected 0 to 1 without NaN"
        )
    return np.ones_like(truth, bool) if region == "frame" else fov.astype(bool)


def _scores(counts, skeletons, auc, average_precision):
    return {
        **{name: metric(counts) for name, metric in METRICS.items()},
        "auc": auc,
        "pr_auc": average_precision,
        "cldice": cldice(skeletons),
    }
