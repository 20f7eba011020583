"""Augmentation: the papers' thirteen fixed copies, and endless random views.

Both are pure functions of a sample and a random generator. Images stay uint8 RGB
and labels stay in {0, 1} throughout. OpenCV does the geometry: one call of
`warpAffine` rotates, flips, scales and crops at once, in well under a
millisecond; Keras's preprocessing layers do it in several passes.
"""

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image, ImageEnhance

# Pillow's enhancers, in the order applied; the lowest and highest factor, in tenths.
COLOUR_JITTER = (
    (ImageEnhance.Color, 0, 30),
    (ImageEnhance.Brightness, 10, 20),
    (ImageEnhance.Contrast, 10, 20),
    (ImageEnhance.Sharpness, 0, 30),
)


def thirteen_copies(sample, seed):
    """Returns the 13 versions of one sample that SA-UNet's authors train on.

    The original, 3 flips (horizontal, vertical, both), 3 rotations by 1 to 359
    degrees (image bicubic, label nearest), 3 colour jitters (factors in tenths) and 3
    Gaussian noises: 20 images become 260. The paper writes 256. The noise has mean 0.2
    and sigma 0.3 in grey values of 255, and what it is added to is cut to whole ones:
    a quarter of the values fall by 1, four in a thousand rise.

    Source: keras_dataAug.py and flip.py of https://github.com/clguo/SA-UNet at 823c057.
    Departures: a value that noise takes past 255 stays there (it would wrap to 0); the
    numbers drawn are others.

    Split before augmenting: copies of one photograph belong to one side.

    Args:
        sample: A `Sample` with vessels.
        seed: Integer; the same seed and sample name give the same copies.

    Returns:
        List of 13 samples, named like "21", "21_flip0", "21_rotation2", ...
    """
    rng = np.random.default_rng([seed, *sample.name.encode(errors="surrogateescape")])
    flips = [
        _geometry(sample, f"flip{i}", lambda a, _, axes=axes: np.flip(a, axes))
        for i, axes in enumerate([(1,), (0,), (0, 1)])
    ]
    rotations = []
    for i in range(3):
        degrees = int(rng.integers(1, 360))
        rotations.append(
            _geometry(
                sample, f"rotation{i}", lambda a, mode, d=degrees: _rotate(a, d, mode)
            )
        )
    colours = [
        replace(
            sample, name=f"{sample.name}_colour{i}", image=_jitter(sample.image, rng)
        )
        for i in range(3)
    ]
    noises = []
    for i in range(3):
        noisy = sample.image + rng.normal(0.2, 0.3, sample.image.shape)
        # Cut, not rounded: the authors add into an array of uint8.
        noisy = np.clip(noisy, 0, 255).astype(np.uint8)
        noises.append(replace(sample, name=f"{sample.name}_noise{i}", image=noisy))
    return [sample, *flips, *rotations, *colours, *noises]


def random_view(image, vessels, size, rng, *, whole=False, upright=0.0):
    """Returns a random crop of a photograph, moved and coloured at random.

    Rotation by any angle, flips, scale 0.75 to 1.33, then gain and gamma per
    channel and, for half of the views, Gaussian noise.

    Such a view is interpolated, and its frame lies askew. What a network meets at the
    test is neither: the pixels of the camera, and a frame whose rows may differ from
    the padding. An upright view is of that kind.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        vessels: `(H, W)` uint8 in {0, 1}.
        size: `(h, w)` of the view in pixels.
        rng: `numpy.random.Generator`.
        whole: Bool; centre the view on the photograph, scale 0.9 to 1.1.
        upright: Share of views that are turned by quarter turns and flips alone, at
            their own scale, moved by whole pixels.

    Returns:
        `(h, w, 3)` uint8 and `(h, w)` uint8 in {0, 1}.
    """
    matrix = _random_affine(image.shape[:2], size, rng, whole, upright)
    view = cv2.warpAffine(
        image, matrix, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    # Interpolated, then cut at one half: smoother than the nearest neighbour.
    label = cv2.warpAffine(
        vessels * np.uint8(255),
        matrix,
        size[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return _random_colour(view, rng), (label > 127).astype(np.uint8)


def _random_affine(source, target, rng, whole, upright=0.0):
    """Returns the 2x3 matrix from view to photograph, in (x, y)."""
    angle = rng.uniform(0, 2 * np.pi)
    limit = np.log(1.1 if whole else 4 / 3)
    scale = np.exp(rng.uniform(-limit, limit))
    # No draw where none is wanted: a seed gives the views that it always gave.
    upright = upright > 0 and rng.random() < upright
    if upright:
        angle, scale = np.pi / 2 * rng.integers(4), 1.0
    flip = rng.choice([-1, 1])
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    centre, reach = (np.array(source[::-1]) - 1) / 2, np.zeros(2)
    if not whole:
        # As far from the middle as an upright crop of this size can lie.
        reach = np.maximum(np.array(source[::-1]) - target[::-1], 0) / 2
        centre = centre + rng.uniform(-1, 1, 2) * reach
    offset = centre - linear @ ((np.array(target[::-1]) - 1) / 2)
    if upright:
        # Pixels onto pixels, and a crop from the first row to the last; unturned and
        # whole, it is `pad(..., "centered")`.
        centred = np.ceil(np.round(offset, 6))
        linear, offset = np.rint(linear), np.where(reach > 0, np.rint(offset), centred)
    return np.column_stack([linear, offset])


def _random_colour(view, rng):
    """Gain and gamma per channel through a table; noise for half."""
    levels = np.arange(256) / 255
    gamma = np.exp(rng.uniform(-0.35, 0.35) + rng.uniform(-0.1, 0.1, 3))
    gain = rng.uniform(0.8, 1.25) * rng.uniform(0.9, 1.1, 3)
    table = 255 * np.clip(gain * levels[:, None] ** gamma, 0, 1)
    view = cv2.LUT(view, np.rint(table).astype(np.uint8)[:, None, :])
    if rng.random() < 0.5:
        sigma = rng.uniform(0, 6)
        noise = rng.standard_normal(view.shape, dtype=np.float32) * sigma
        view = np.clip(view + noise + 0.5, 0, 255).astype(np.uint8)
    return view


def _geometry(sample, suffix, move):
    """Applies `move(array, interpolation)` to image, labels and FOV alike."""
    nearest, bicubic = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
    return replace(
        sample,
        name=f"{sample.name}_{suffix}",
        image=np.ascontiguousarray(move(sample.image, bicubic)),
        vessels=np.ascontiguousarray(move(sample.vessels, nearest)),
        fov=np.ascontiguousarray(move(sample.fov, nearest)),
        second_observer=None,
    )


def _rotate(array, degrees, resampling):
    return np.asarray(Image.fromarray(array).rotate(degrees, resampling))


def _jitter(image, rng):
    picture = Image.fromarray(image)
    for enhancer, low, high in COLOUR_JITTER:
        picture = enhancer(picture).enhance(rng.integers(low, high + 1) / 10)
    return np.asarray(picture)
