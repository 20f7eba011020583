"""Zero-padding to the sizes that the papers feed, and its exact inverse."""

import numpy as np

from saunet.errors import InputError

PLACEMENTS = ("centered", "bottom_right")


def checked_padding(padding):
    """Returns a padding as a dictionary: `{"placement", "multiple", "square"}`.

    Raises:
        InputError: it has other keys, an unknown placement, a multiple that is no
            integer of at least 1, or a square that is no bool.
    """
    keys = {"placement", "multiple", "square"}
    if not (
        isinstance(padding, dict)
        and set(padding) == keys
        and padding["placement"] in PLACEMENTS
        and type(padding["multiple"]) is int
        and padding["multiple"] >= 1
        and type(padding["square"]) is bool
    ):
        raise InputError(
            f"padding {padding!r} makes no sense: expected placement "
            f"({' or '.join(PLACEMENTS)}), multiple (an integer of at least 1) and "
            f"square (true or false)"
        )
    return dict(padding)


def padded_size(height, width, *, multiple=16, square=True):
    """Returns the size an image is padded to before a network sees it.

    584x565 gives 592x592, 960x999 gives 1008x1008, 605x700 gives 704x704: the
    sizes of SA-UNet, RSAN and SA-UNetv2.

    Args:
        height: int, pixels.
        width: int, pixels.
        multiple: int, both sides become multiples of it.
        square: bool, whether the longer side decides both.

    Returns:
        `(H, W)`, two ints.
    """
    sides = (max(height, width),) * 2 if square else (height, width)
    return tuple(-(-side // multiple) * multiple for side in sides)


def pad(array, size, placement="centered"):
    """Surrounds an image with zeros.

    Args:
        array: `(H, W)` or `(H, W, C)` array of any type.
        size: `(H, W)` of the result, each at least the array's own.
        placement: "centered" (the odd pixel goes below and right; SA-UNet, RSAN)
            or "bottom_right" (all padding there; SA-UNetv2).

    Returns:
        Array of the same type, `size` large.

    Raises:
        InputError: `size` is smaller than the array, or `placement` is unknown.
    """
    array = np.asarray(array)
    top, left = offsets(array.shape[:2], size, placement)
    height, width = array.shape[:2]
    rest = [(0, 0)] * (array.ndim - 2)
    return np.pad(
        array,
        [(top, size[0] - height - top), (left, size[1] - width - left), *rest],
    )


def unpad(array, size, placement="centered"):
    """Cuts the image of `size` back out: `unpad(pad(x, s, p), x.shape[:2], p) == x`.

    Args:
        array: `(H, W)` or `(H, W, C)` padded array.
        size: `(H, W)` before padding.
        placement: as it was given to `pad`.

    Returns:
        A view of `array`, `size` large.

    Raises:
        InputError: `size` is larger than the array, or `placement` is unknown.
    """
    top, left = offsets(size, array.shape[:2], placement)
    return array[top : top + size[0], left : left + size[1]]


def offsets(inner, outer, placement):
    """Returns the top and left padding of an `inner` size in an `outer` one.

    Raises:
        InputError: as `pad`.
    """
    if placement not in PLACEMENTS:
        raise InputError(
            f"padding placement {placement!r} is unknown: use one of "
            f"{', '.join(PLACEMENTS)}"
        )
    if inner[0] > outer[0] or inner[1] > outer[1]:
        raise InputError(
            f"an image of {inner[0]}x{inner[1]} (height x width) does not fit into "
            f"{outer[0]}x{outer[1]}: pad to a larger size"
        )
    if placement == "bottom_right":
        return 0, 0
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
