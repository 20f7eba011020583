"""The field of view of a photograph, and how far it is from the training images'.

A network knows vessels of the widths it was trained on. What a photograph of another
camera has is told by the diameter of its field of view, in pixels: exactly so for
cameras of one angle, roughly for others.
"""

import cv2
import numpy as np

from saunet.data.datasets import find_fov
from saunet.errors import InputError

FIND_SIDE = 1024  # larger pictures are scaled down to it, to find the border in
MAX_RESIZED = 179_000_000  # pixels, Pillow's own limit for a file

# Up to this ratio of diameters a picture is left as it is: scaling blurs, and
# networks are trained on vessels of many widths. Chosen by benchmarks/photographs.py.
TOLERATED = 1.25


def field_of_view(image):
    """Finds the field of view and its diameter.

    Args:
        image: `(H, W, 3)` uint8 RGB.

    Returns:
        `(H, W)` uint8 in {0, 1} (`saunet.data.datasets.find_fov`, of large pictures in
        a smaller copy), and the diameter in pixels of the smallest circle around it,
        which also a disc cut off above and below has; of a picture without a dark
        surround it is the diagonal.
    """
    height, width = image.shape[:2]
    factor = min(1, FIND_SIDE / max(height, width))
    mask = find_fov(resize(image, scaled_size(image.shape, factor)))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    _, radius = cv2.minEnclosingCircle(np.concatenate(contours))
    if factor < 1:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return mask, 2 * radius / factor


def trained_diameter(diameters):
    """Returns what to keep of the diameters of the training images' fields of view.

    Their median; of several cameras the smallest and the largest, as a list, without a
    twentieth at each end, and at least one of three or more, which may be found wrong.
    """
    ordered = sorted(diameters)
    cut = max(1, round(len(ordered) / 20)) if len(ordered) > 2 else 0
    median = round(float(np.median(ordered)))
    ends = [round(float(ordered[place])) for place in (cut, -1 - cut)]
    one = all(1 / TOLERATED <= end / median <= TOLERATED for end in ends)
    return median if one else ends


def is_diameter(value):
    """Returns whether a record's value may be one of `trained_diameter`."""
    values = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(map(_is_length, values)) and values == sorted(values)


def _is_length(value):
    return type(value) in (int, float) and 0 < value < np.inf


def scale_factor(diameter, trained):
    """Returns what to multiply a picture's sides by: 1 unless the field is far off.

    Args:
        diameter: of the picture's field of view, pixels.
        trained: of the training images', or the smallest and the largest of these.
    """
    smallest, largest = trained if isinstance(trained, list) else (trained, trained)
    factor = min(max(diameter, smallest), largest) / diameter
    return 1.0 if 1 / TOLERATED <= factor <= TOLERATED else factor


def scaled_size(shape, factor):
    """Returns the (height, width) of a picture scaled by a factor, at least 1 x 1.

    Raises:
        InputError: the scaled picture would be larger than any file that can be read.
    """
    height, width = (max(1, round(side * factor)) for side in shape[:2])
    if height * width > MAX_RESIZED:
        raise InputError(
            f"a picture of {shape[1]}x{shape[0]} pixels scaled by {factor:g}: expected "
            f"at most {MAX_RESIZED // 10**6} megapixels; give a smaller scale"
        )
    return height, width


def resize(array, size):
    """Returns a picture or map at another size.

    Down by area means. Up by cubic curves a picture, linearly a map: cubic curves
    overshoot, and clipped probabilities are equal around vessels, which cost 0.012 of
    AUC on CHASE_DB1's training images.

    Args:
        array: `(H, W, 3)` picture or `(H, W)` map, uint8 or floats in [0, 1].
        size: (height, width).

    Returns:
        Array of the same type, floats as float32; the array itself if it has the size.
    """
    if array.shape[:2] == tuple(size):
        return array
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    if size[0] * size[1] < array.shape[0] * array.shape[1]:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_CUBIC if array.ndim == 3 else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(array), size[::-1], interpolation=method)
    return resized if array.dtype == np.uint8 else np.clip(resized, 0, 1)
