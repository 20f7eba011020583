"""DropBlock as Ghiasi et al. 2018 write it: four nested loops and no tricks."""

import numpy as np


def gamma(rate, block_size, height, width):
    """Equation 1: probability that a block starts at a place where it fits."""
    b = block_size
    return rate / b**2 * (height * width) / ((height - b + 1) * (width - b + 1))


def kept(seeds, block_size):
    """Algorithm 1, lines 5 and 6: 0 in the block below and right of each seed.

    Args:
        seeds: `(N, H-b+1, W-b+1, C)`, true where a block has its top left corner.
        block_size: Side b.

    Returns:
        `(N, H, W, C)` float64 of 0 and 1.
    """
    n, rows, columns, channels = seeds.shape
    b = block_size
    mask = np.ones((n, rows + b - 1, columns + b - 1, channels))
    for image in range(n):
        for row in range(rows):
            for column in range(columns):
                for channel in range(channels):
                    if seeds[image, row, column, channel]:
                        mask[image, row : row + b, column : column + b, channel] = 0
    return mask


def drop_block(x, seeds, block_size):
    """Algorithm 1, lines 5 to 8: drops and rescales over the whole batch."""
    mask = kept(seeds, block_size)
    return x * mask * (mask.size / mask.sum())


def expected_drop_rate(rate, block_size, height, width):
    """Mean share of dropped pixels: less than `rate`, since blocks overlap.

    A pixel is kept if no block starts at any of the places that cover it.
    """
    b, g = block_size, gamma(rate, block_size, height, width)

    def places(length):
        starts = np.arange(length - b + 1)
        covers = (starts[:, None] <= np.arange(length)) & (
            np.arange(length) < starts[:, None] + b
        )
        return covers.sum(axis=0)

    covering = places(height)[:, None] * places(width)[None, :]
    return 1 - (1 - g) ** covering
