"""Vessel-map metrics in NumPy: count pixels first, divide later.

Which pixels count (the field of view or the whole frame) is the caller's choice.
What is undefined, such as the sensitivity of an image without a vessel, is NaN.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
from skimage.morphology import skeletonize
from sklearn.metrics import average_precision_score, roc_auc_score

LEVELS = 65536  # the steps of a 16-bit picture, at which curves count probabilities
BINS = 10  # of a calibration


@dataclass(frozen=True)
class Counts:
    """Pixels by what was found and what is true; adds up over images.

    Attributes:
        tp: int, vessel found as vessel.
        fp: int, background found as vessel.
        fn: int, vessel missed.
        tn: int, background left alone.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other):
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class SkeletonCounts:
    """Skeleton pixels for clDice; adds up over images.

    Attributes:
        guess_hits: int, pixels of the guess's skeleton inside the true vessels.
        guess_total: int, pixels of the guess's skeleton.
        truth_hits: int, pixels of the truth's skeleton inside the guessed vessels.
        truth_total: int, pixels of the truth's skeleton.
    """

    guess_hits: int
    guess_total: int
    truth_hits: int
    truth_total: int

    def __add__(self, other):
        return SkeletonCounts(
            *map(sum, zip(astuple(self), astuple(other), strict=True))
        )


def count(guess, truth):
    """Counts agreeing and disagreeing pixels.

    Args:
        guess: array of bool or {0, 1}, any shape: the pixels found as vessel.
        truth: array of bool or {0, 1} of the same shape.

    Returns:
        `Counts` of Python ints, which never overflow.
    """
    guess, truth = np.asarray(guess, bool), np.asarray(truth, bool)
    tp = int(np.count_nonzero(guess & truth))
    fp = int(np.count_nonzero(guess)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Counts(tp, fp, fn, truth.size - tp - fp - fn)


def _ratio(part, whole):
    return part / whole if whole else math.nan


def _mcc(c):
    # Products of Python ints are exact; in int64 they overflow at one DRIVE image.
    square = (c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn)
    return _ratio(c.tp * c.tn - c.fp * c.fn, math.sqrt(square))


METRICS = {
    "sensitivity": lambda c: _ratio(c.tp, c.tp + c.fn),
    "specificity": lambda c: _ratio(c.tn, c.tn + c.fp),
    "accuracy": lambda c: _ratio(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn),
    "precision": lambda c: _ratio(c.tp, c.tp + c.fp),
    "f1": lambda c: _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn),
    "jaccard": lambda c: _ratio(c.tp, c.tp + c.fp + c.fn),
    "mcc": _mcc,
}


def roc_auc(probability, truth):
    """Returns the area under the ROC curve; NaN unless both classes occur.

    Args:
        probability: array of floats, any shape.
        truth: array of bool or {0, 1} of the same shape.
    """
    probability, truth = np.ravel(probability), np.ravel(truth).astype(bool)
    if truth.all() or not truth.any():
        return math.nan
    return float(roc_auc_score(truth, probability))


def pr_auc(probability, truth):
    """Returns the average precision; NaN unless both classes occur.

    The sum of precision times gain in recall over all thresholds, not the area
    under straight lines, which is too good between far points (Davis and Goadrich,
    2006).

    Args:
        probability: array of floats, any shape.
        truth: array of bool or {0, 1} of the same shape.
    """
    probability, truth = np.ravel(probability), np.ravel(truth).astype(bool)
    if truth.all() or not truth.any():
        return math.nan
    return float(average_precision_score(truth, probability))


def count_skeletons(guess, truth):
    """Counts where each map's skeleton lies in the other map.

    Args:
        guess: `(H, W)` array of bool or {0, 1}.
        truth: `(H, W)` array of bool or {0, 1}.

    Returns:
        `SkeletonCounts`.
    """
    guess, truth = np.asarray(guess, bool), np.asarray(truth, bool)
    guess_line, truth_line = skeletonize(guess), skeletonize(truth)
    return SkeletonCounts(
        guess_hits=int(np.count_nonzero(guess_line & truth)),
        guess_total=int(np.count_nonzero(guess_line)),
        truth_hits=int(np.count_nonzero(truth_line & guess)),
        truth_total=int(np.count_nonzero(truth_line)),
    )


def cldice(counts):
    """Returns centreline Dice, the harmonic mean of the two shares of skeleton hits.

    NaN where one map has no vessel; 0 where neither skeleton touches the other map.

    Args:
        counts: `SkeletonCounts` of one image, or summed over images.

    Reference:
        [Shit et al., 2021](https://arxiv.org/abs/2003.07311), eq. 1 and 2.
    """
    precision = _ratio(counts.guess_hits, counts.guess_total)
    sensitivity = _ratio(counts.truth_hits, counts.truth_total)
    if precision == sensitivity == 0:
        return 0.0
    return 2 * precision * sensitivity / (precision + sensitivity)


def count_levels(pairs):
    """Counts probabilities by class at the 65536 steps of a 16-bit picture.

    Curves and calibration of any number of images follow from it.

    Args:
        pairs: iterable of (probability, truth), arrays of one shape each.

    Returns:
        `(2, 65536)` int64: the background's pixels and the vessels' at each step.
    """
    counts = np.zeros((2, LEVELS), np.int64)
    for probability, truth in pairs:
        level = np.rint(np.ravel(probability) * np.float64(LEVELS - 1)).astype(np.int64)
        vessel = np.ravel(truth).astype(bool)
        counts[0] += np.bincount(level[~vessel], minlength=LEVELS)
        counts[1] += np.bincount(level[vessel], minlength=LEVELS)
    return counts


def roc_curve(levels):
    """Returns `(N, 2)` floats: 1 - specificity, sensitivity, from (0, 0) to (1, 1).

    Args:
        levels: as `count_levels` returns them, with both classes.
    """
    negative, positive = _at_or_above(levels)
    points = np.stack([negative / negative[-1], positive / positive[-1]], axis=1)
    return np.concatenate([[[0.0, 0.0]], points])


def pr_curve(levels):
    """Returns `(N, 2)` floats: recall, precision, as the steps of average precision.

    Args:
        levels: as `count_levels` returns them, with both classes.
    """
    negative, positive = _at_or_above(levels)
    recall, precision = positive / positive[-1], positive / (positive + negative)
    before = np.concatenate([[0.0], recall[:-1]])
    # Up or down to the new precision, then along to the new recall.
    steps = [np.stack([x, precision], axis=1) for x in (before, recall)]
    return np.stack(steps, axis=1).reshape(-1, 2)


def areas_of_levels(levels):
    """Returns `roc_auc` and `pr_auc` of probabilities rounded to 16 bits.

    Args:
        levels: as `count_levels` returns them.

    Returns:
        Two floats, NaN unless both classes occur.
    """
    if not levels.any(axis=1).all():
        return math.nan, math.nan
    across, up = roc_curve(levels).T
    negative, positive = _at_or_above(levels)
    gained = np.diff(positive, prepend=0) / positive[-1]
    precision = positive / (positive + negative)
    area = np.diff(across) @ (up[1:] + up[:-1]) / 2
    return float(area), float(gained @ precision)


def _at_or_above(levels):
    """Returns the counts at or above each step that occurs, from the highest down."""
    occurring = levels[:, levels.any(axis=0)]
    return occurring[:, ::-1].cumsum(axis=1)


def calibration(levels):
    """Compares the probabilities with how often they were right.

    Args:
        levels: as `count_levels` returns them.

    Returns:
        (bins, ece). Bins: list of `BINS` dicts with low, high, pixels, mean
        probability and share of vessels (NaN in an empty bin); `low` belongs to the
        bin, `high` to the next. The expected calibration error is the mean distance
        of the two, weighted by pixels: 0 is perfect.

    Reference:
        [Guo et al., 2017](https://arxiv.org/abs/1706.04599), eq. 3, for the
        probability of one class.
    """
    steps = np.arange(LEVELS)
    which = np.minimum(steps * BINS // (LEVELS - 1), BINS - 1)
    bins, error, total = [], 0.0, int(levels.sum())
    for index in range(BINS):
        inside = which == index
        counts = levels[:, inside].sum(axis=0)
        pixels = int(counts.sum())
        mean = share = math.nan
        if pixels:
            mean = float(counts @ steps[inside]) / (LEVELS - 1) / pixels
            share = float(levels[1, inside].sum()) / pixels
            error += pixels / total * abs(mean - share)
        bins.append(
            {
                "low": index / BINS,
                "high": (index + 1) / BINS,
                "pixels": pixels,
                "probability": mean,
                "vessels": share,
            }
        )
    return bins, error if total else math.nan
