"""Spatial attention with its convolution as loops over the kernel."""

import numpy as np


def convolve(maps, kernel):
    """Correlates `(N, H, W, 2)` with `(k, k, 2, 1)`, zeros outside, no bias."""
    k = kernel.shape[0]
    half = k // 2
    padded = np.pad(maps, [(0, 0), (half, half), (half, half), (0, 0)])
    n, h, w, _ = maps.shape
    out = np.zeros((n, h, w, 1))
    for row in range(k):
        for column in range(k):
            window = padded[:, row : row + h, column : column + w]
            out += (window * kernel[row, column, :, 0]).sum(axis=-1, keepdims=True)
    return out


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2  # does not overflow


def spatial_attention(x, kernel):
    """x * sigmoid(conv([mean over C, max over C]))."""
    summary = np.stack([x.mean(axis=-1), x.max(axis=-1)], axis=-1)
    return x * sigmoid(convolve(summary, kernel))


def cross_scale_attention(skip, up, kernel):
    """skip * sigmoid(conv([mean over C of skip, mean over C of up]))."""
    summary = np.stack([skip.mean(axis=-1), up.mean(axis=-1)], axis=-1)
    return skip * sigmoid(convolve(summary, kernel))
