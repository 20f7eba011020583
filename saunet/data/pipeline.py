"""Batches for training.

Endless generators in which batch number k is a pure function of the seed and k, so
that a resumed run sees what it would have seen.
"""

from itertools import count

import numpy as np

from saunet.data.augmentation import random_view
from saunet.data.padding import pad, padded_size


def random_batches(samples, *, crop, batch_size, seed, upright=0.0, start=0):
    """Yields batches of random views.

    Each batch takes the next samples of a list that is reshuffled whenever it is
    used up. Eight views of 256x256 take about 17 ms of one core.

    Args:
        samples: List of `Sample` with vessels.
        crop: Side of a view in pixels, or `None` for whole padded photographs.
        batch_size: Integer.
        seed: Integer.
        upright: Share of views that are not interpolated; see `random_view`.
        start: Number of the first batch.

    Yields:
        `(N, H, W, 3)` float32 in [0, 1] and `(N, H, W, 1)` float32 in {0, 1}.
    """
    size = (crop, crop) if crop else common_size(samples)
    for batch in count(start):
        views = []
        for place in range(batch * batch_size, (batch + 1) * batch_size):
            sample = samples[_shuffled(place, len(samples), seed)]
            rng = np.random.default_rng([seed, 1, place])
            pair = sample.image, sample.vessels
            view = random_view(*pair, size, rng, whole=not crop, upright=upright)
            views.append(view)
        yield to_arrays(views)


def fixed_batches(
    samples, *, batch_size, seed, placement="centered", multiple=1, start=0
):
    """Yields batches of whole padded photographs, reshuffled each time round.

    The last batch of a round is smaller when `batch_size` does not divide the
    number of samples, as in Keras's own `fit`. It is filled up to a `multiple` with
    the first samples of its round.

    Args and yields: as `random_batches`, with the `placement` of `padding.pad`.
    """
    size = common_size(samples)
    per_round = -(-len(samples) // batch_size)
    for batch in count(start):
        begin = batch // per_round * len(samples)
        first = begin + batch % per_round * batch_size
        last = min(first + batch_size, begin + len(samples))
        lacking = -(last - first) % multiple
        places = [*range(first, last), *(begin + i for i in range(lacking))]
        chosen = [samples[_shuffled(p, len(samples), seed)] for p in places]
        yield to_arrays([padded(s, size, placement) for s in chosen])


def padded(sample, size, placement):
    """Returns the `(image, vessels)` of a sample, padded as by `padding.pad`."""
    return pad(sample.image, size, placement), pad(sample.vessels, size, placement)


def to_arrays(views):
    """Stacks uint8 `(image, vessels)` pairs to what a network and a loss take."""
    images, vessels = zip(*views, strict=True)
    x = np.stack(images).astype(np.float32) / np.float32(255)
    return x, np.stack(vessels).astype(np.float32)[..., None]


def common_size(samples):
    """Returns the (height, width) that all photographs are padded to."""
    heights, widths = zip(*(s.image.shape[:2] for s in samples), strict=True)
    return padded_size(max(heights), max(widths))


def _shuffled(place, length, seed):
    """Returns the sample at a place of the endless list of shuffled rounds."""
    order = np.random.default_rng([seed, 0, place // length]).permutation(length)
    return order[place % length]
