"""Adaptive channel attention (ACA) of CMP-UNet."""

import math

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class AdaptiveChannelAttention(layers.Layer):
    """Weights each channel by what a coarse grid of its maxima and means tells.

        s = int(log2(C))
        grid = [max, mean] of each channel over s x s windows         # (C, 2 s**2)
        score = dense_1(dropout(relu(dense_s**2//2(grid))))           # (C,)
        weight = sigmoid(dense_C(dropout(relu(dense_C/4(score)))))    # (C,)
        output = weight * inputs + inputs

    Source: Gu et al., "CMP-UNet: A Retinal Vessel Segmentation Network Based on
    Multi-Scale Feature Fusion", Electronics 12(23), 2023,
    https://doi.org/10.3390/electronics12234743.

    Args:
        rate: Float in [0, 1), share dropped after each hidden layer in training.
        seed: Integer, or `None` for a random one.

    Input and output shape: `(N, H, W, C)`, channels last, C at least 4; any H and
    W, which may be unknown until run time.

    Raises:
        ValueError: The map has fewer than 4 channels, or an unknown number.
    """

    def __init__(self, rate=0.2, *, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.input_spec = layers.InputSpec(ndim=4)

    def build(self, input_shape):
        batch, *_, channels = input_shape
        if channels is None or channels < 4:
            raise ValueError(
                f"AdaptiveChannelAttention needs at least 4 channels, not {channels}."
            )
        self.bins = int(math.log2(channels))
        cells = 2 * self.bins**2
        self.grid_hidden = self._dense(self.bins**2 // 2, "grid_hidden", "relu")
        self.grid_score = self._dense(1, "grid_score", None)
        self.channel_hidden = self._dense(channels // 4, "channel_hidden", "relu")
        self.channel_weight = self._dense(channels, "channel_weight", "sigmoid")
        self.grid_drop = self._dropout("grid_drop", 0)
        self.channel_drop = self._dropout("channel_drop", 1)
        self.grid_hidden.build((batch, channels, cells))
        self.grid_score.build((batch, channels, self.bins**2 // 2))
        self.channel_hidden.build((batch, channels))
        self.channel_weight.build((batch, channels // 4))
        self.built = True

    # An inner layer does not inherit the outer one's dtype policy.
    def _dense(self, units, name, activation):
        return layers.Dense(
            units, activation=activation, dtype=self.dtype_policy, name=name
        )

    def _dropout(self, name, index):
        # Two draws of one seed would drop the same places.
        seed = None if self.seed is None else self.seed + index
        return layers.Dropout(self.rate, seed=seed, dtype=self.dtype_policy, name=name)

    def attention(self, inputs, training=False):
        """Returns the weight of each channel, `(N, C)` in (0, 1)."""
        grids = [adaptive_pool(inputs, self.bins, f) for f in (ops.max, ops.mean)]
        channels = inputs.shape[-1]
        grids = [
            ops.reshape(ops.transpose(grid, (0, 3, 1, 2)), (-1, channels, self.bins**2))
            for grid in grids
        ]
        hidden = self.grid_hidden(ops.concatenate(grids, axis=-1))
        score = self.grid_score(self.grid_drop(hidden, training=training))
        hidden = self.channel_hidden(ops.squeeze(score, axis=-1))
        return self.channel_weight(self.channel_drop(hidden, training=training))

    def call(self, inputs, training=False):
        return inputs * (1 + self.attention(inputs, training)[:, None, None, :])

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def adaptive_pool(x, bins, reduce):
    """Reduces a map to `bins` x `bins`, as PyTorch's adaptive poolings do.

    Window i of a side of n pixels is `[floor(i n / bins), ceil((i + 1) n / bins))`:
    windows overlap where `bins` does not divide n, and repeat pixels where n is
    smaller. They are rectangles, so rows are reduced first, then columns.

    Args:
        x: `(N, H, W, C)`; H and W may be unknown.
        bins: Integer, windows a side.
        reduce: `ops.max` or `ops.mean`.

    Returns:
        `(N, bins, bins, C)`.
    """
    height, width = ops.shape(x)[1:3]
    rows = [reduce(x[:, start:stop], axis=1) for start, stop in _windows(height, bins)]
    x = ops.stack(rows, axis=1)
    columns = [
        reduce(x[:, :, start:stop], axis=2) for start, stop in _windows(width, bins)
    ]
    return ops.stack(columns, axis=2)


def _windows(side, bins):
    return [(i * side // bins, -(-(i + 1) * side // bins)) for i in range(bins)]
