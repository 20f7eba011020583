"""Which differences between two methods are more than the choice of test images."""

import math
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """Mean difference of two methods over images, and how sure one can be of it.

    Attributes:
        mean: Mean over images of ours minus theirs.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        p: Two-sided p-value of the sign-flip test of a mean of zero.
        images: How many.
    """

    mean: float
    low: float
    high: float
    p: float
    images: int


def paired_bootstrap(ours, theirs, *, draws=10_000, seed=0):
    """Compares two methods on the same images.

    The interval is the percentile bootstrap over images; the p-value comes from
    flipping the sign of each image's difference at random (all `2**n` flips up to 12
    images), since under the hypothesis of no difference either is as likely.
    Both say what other test images of the same kind would give; neither knows what
    another seed of the training would.

    Args:
        ours: Sequence of floats, one an image.
        theirs: The same images, in the same order.
        draws: How many resamples and sign flips.
        seed: Of both.

    Returns:
        A `Difference`.

    Raises:
        ValueError: the lengths differ, or there is no image.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(
            f"{len(ours)} and {len(theirs)} scores: expected one an image from both"
        )
    gap = np.asarray(ours, float) - np.asarray(theirs, float)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, gap.size, (draws, gap.size))
    low, high = np.percentile(gap[chosen].mean(axis=1), [2.5, 97.5])
    if gap.size <= 12:
        bits = np.arange(2**gap.size)[:, None] >> np.arange(gap.size) & 1
        extreme, total = 0, 2**gap.size
    else:
        bits = rng.integers(0, 2, (draws, gap.size))
        # Nothing flipped is one of the possible flips: p is never 0.
        extreme, total = 1, draws + 1
    flipped = np.abs(((2 * bits - 1) * gap).sum(axis=1))
    # Sums of the same numbers in another order differ in their last digits.
    slack = 1e-12 * np.abs(gap).sum()
    extreme += int((flipped >= abs(gap.sum()) - slack).sum())
    mean = math.fsum(gap) / gap.size
    return Difference(mean, float(low), float(high), extreme / total, gap.size)


def holm(p_values):
    """Returns Holm's adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
