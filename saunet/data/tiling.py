"""Tiles that cover an image too large for the memory, and how their results join.

A tile's result is wrong near the borders that it has inside the image: the network saw
zeros there instead of pixels. So neighbours overlap. Along such a border

    | halo: weight 0 | ramp: 0 -> 1 | weight 1 ...

and the neighbour's ramp falls where this one's rises. All tiles are of one size, which
an engine compiles once.
"""

import numpy as np

from saunet.data.padding import offsets

# Pixels. SA-UNet and the U-Nets, without means over all pixels (GroupNorm, CBAM), see
# no further than the halo: tiles give the whole image's result. RSAN's differs by 2e-6
# (see benchmarks/tiling.py).
HALO = 128
RAMP = 32

# A padded image of more pixels is cut into tiles of TILE x TILE: chosen by F1 in
# benchmarks/tiling.py, where SA-UNetv2's GroupNorm does best on tiles of the size of
# its training images.
WHOLE_PIXELS = 1024**2
TILE = 592


def tile_starts(length, tile, overlap, step=1):
    """Returns where the tiles of one axis start.

    Args:
        length: int, pixels of the axis.
        tile: int, pixels of a tile.
        overlap: int, the least that two neighbours share; less than `tile`, unless one
            tile is all.
        step: int; a start is a multiple of it if `length` and `tile` are.

    Returns:
        List of ints; the last tile ends where the axis ends.
    """
    if tile >= length:
        return [0]
    stride = (tile - overlap) // step * step
    starts = list(range(0, length - tile, stride))
    return [*starts, length - tile]


def tile_window(tile, starts_image, ends_image, *, halo, ramp):
    """Returns what the pixels of one tile weigh along one axis.

    Args:
        tile: int, pixels.
        starts_image: bool, whether the image itself starts where the tile does; there
            is no halo then.
        ends_image: bool, likewise at the end.
        halo: int, pixels of weight 0.
        ramp: int, pixels that rise linearly.

    Returns:
        (tile,) float32 in [0, 1].
    """
    rising = np.concatenate(
        [np.zeros(halo), np.arange(1, ramp + 1) / (ramp + 1)], dtype=np.float32
    )
    window = np.ones(tile, np.float32)
    edge = min(tile, rising.size)
    if not starts_image:
        window[:edge] = rising[:edge]
    if not ends_image:
        window[tile - edge :] = np.minimum(window[tile - edge :], rising[:edge][::-1])
    return window


def predict_tiles(run, image, size, tile, *, placement, step, halo=HALO, ramp=RAMP):
    """Joins what a network says of the tiles of a padded image.

    The padded image is never made; tiles that see nothing of the image are left out.

    Args:
        run: function, (h, w, 3) pixels, zeros where there is padding -> (h, w)
            float32.
        image: (H, W, 3) array of any type.
        size: (height, width) of the padded image.
        tile: (height, width) of a tile; at most the padded image.
        placement: where the padding is, as in `saunet.data.padding.pad`.
        step: int, tiles start at its multiples: where the network pools.
        halo: int, pixels that a tile only looks at.
        ramp: int, pixels over which one tile's result becomes the next one's.

    Returns:
        (H, W) float32.
    """
    top_left = offsets(image.shape[:2], size, placement)
    axes = zip(image.shape[:2], size, tile, top_left, strict=True)
    rows, columns = (_tiles_of_axis(*axis, step, halo, ramp) for axis in axes)
    result = np.zeros(image.shape[:2], np.float32)
    for ours_y, theirs_y, weight_y in rows:
        for ours_x, theirs_x, weight_x in columns:
            pixels = np.zeros((*tile, image.shape[2]), image.dtype)
            pixels[ours_y, ours_x] = image[theirs_y, theirs_x]
            vessels = run(pixels)[ours_y, ours_x]
            result[theirs_y, theirs_x] += weight_y[:, None] * weight_x * vessels
    return result


def _tiles_of_axis(pixels, full, tile, offset, step, halo, ramp):
    """Lists (slice of the tile, slice of the image, weights) along one axis."""
    starts = tile_starts(full, tile, 2 * halo + ramp, step)
    windows = [
        tile_window(tile, start == 0, start == full - tile, halo=halo, ramp=ramp)
        for start in starts
    ]
    total = np.zeros(full, np.float32)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + tile] += window
    found = []
    for start, window in zip(starts, windows, strict=True):
        first, last = max(start, offset), min(start + tile, offset + pixels)
        ours = slice(first - start, last - start)
        if first < last and window[ours].any():
            theirs = slice(first - offset, last - offset)
            found.append((ours, theirs, window[ours] / total[first:last]))
    return found
