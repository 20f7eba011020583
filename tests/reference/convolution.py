"""A convolution as loops over its kernel."""

import numpy as np


def convolve(x, kernel, bias=0.0):
    """Correlates `(N, H, W, C)` with `(k, k, C, F)`, k odd, zeros outside."""
    rows, columns, _, filters = kernel.shape
    margin = [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)]
    padded = np.pad(x, margin)
    n, height, width, _ = x.shape
    out = np.zeros((n, height, width, filters))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i : i + height, j : j + width]
            out += window @ kernel[i, j]
    return out + bias


def relu(x):
    return np.maximum(x, 0)
