"""Convolutional offsets: the deformable step of DU-Net."""

import keras
from keras import layers, ops

LAYOUTS = ("paired", "reference")


@keras.saving.register_keras_serializable("saunet")
class ConvOffset2D(layers.Layer):
    """Resamples each channel at places that a convolution of the map chooses.

        offsets = conv(inputs)                          # 3x3, 2C filters, no bias
        output[p] = inputs at p + offset[p]             # bilinear, each channel

    Places are clipped to the map. A place that is a whole number takes its slope
    towards the next pixel, so that offsets of 0 can still be learnt.

    Source: Jin et al., "DUNet: A deformable network for retinal vessel
    segmentation", 2019, https://arxiv.org/abs/1811.01206; after the ConvOffset2D of
    https://github.com/kastnerkyle/deform-conv.

    That code gathers four neighbours with coordinates of its own for each and
    leaves the gradient to the backend. Here one index serves the four, and the
    gradient is written by hand from the slopes that the forward pass knows.
    Coordinates and weights are float32 under every dtype policy.

    Args:
        layout: String, which filters shift which channel. `"paired"`: filters 2i and
            2i + 1 are the row and the column shift of channel i. `"reference"`, for
            weights trained by that code: `(2C, H, W)` numbers are read as
            `(C, H, W, 2)`, which mixes filters and positions.

    Input and output shape: `(N, H, W, C)`, channels last, any H and W; they may be
    unknown until run time. N * H * W * C must stay below 2**31, H * W below 2**24.
    """

    def __init__(self, layout="paired", **kwargs):
        super().__init__(**kwargs)
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {LAYOUTS}, not {layout!r}.")
        self.layout = layout
        self.input_spec = layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError("ConvOffset2D needs to know the number of channels.")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(3, 3, channels, 2 * channels),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        self.built = True

    def call(self, inputs):
        return sample(inputs, *self.shifts(inputs))

    def shifts(self, inputs):
        """Returns the row and the column shifts, `(N, H, W, C)` each, in pixels."""
        channels = inputs.shape[-1]
        kernel = self.kernel
        if self.layout == "paired":
            # All row shifts before all column shifts: cheaper to take apart, and to
            # put together in the gradient, than a map where they alternate.
            kernel = ops.reshape(kernel, (3, 3, channels, channels, 2))
            kernel = ops.transpose(kernel, (0, 1, 2, 4, 3))
            kernel = ops.reshape(kernel, (3, 3, channels, 2 * channels))
        offsets = ops.conv(inputs, kernel, padding="same", data_format="channels_last")
        if self.layout == "paired":
            return ops.split(offsets, 2, axis=-1)
        n, height, width, _ = ops.shape(offsets)
        offsets = ops.transpose(offsets, (0, 3, 1, 2))
        offsets = ops.reshape(offsets, (n, channels, height, width, 2))
        return ops.unstack(ops.transpose(offsets, (4, 0, 2, 3, 1)), 2)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "layout": self.layout}


def sample(x, rows, columns):
    """Returns each pixel of each channel from its own shifted place.

    Args:
        x: `(N, H, W, C)`.
        rows: Shifts down in pixels, of the same shape.
        columns: Shifts to the right.

    Returns:
        `(N, H, W, C)` of the dtype of `x`.
    """
    n, height, width, _ = ops.shape(x)
    channels = x.shape[-1]
    size = n * height * width * channels
    # From a pixel to the one below and the one to the right in the flat map; a map
    # of one row or column has none.
    below = ops.minimum(height - 1, 1) * width * channels
    right = ops.minimum(width - 1, 1) * channels

    @ops.custom_gradient
    def shifted(x, rows, columns):
        row, down, row_free = _place(rows, height, axis=1)
        column, along, column_free = _place(columns, width, axis=2)
        # float32 counts the pixels of a map exactly, and one conversion is enough.
        pixel = ops.cast(row * ops.cast(width, "float32") + column, "int32")
        image = ops.arange(n)[:, None, None, None] * (height * width * channels)
        index = pixel * channels + (image + ops.arange(channels))
        corners = (index, index + right, index + below, index + below + right)

        flat = ops.reshape(x, (-1,))
        a, b, c, d = (ops.cast(ops.take(flat, i), "float32") for i in corners)
        across = b - a
        upper = a + across * along
        lower = c + (d - c) * along
        row_slope = lower - upper
        column_slope = across + (d - c - across) * down
        y = ops.cast(upper + row_slope * down, x.dtype)
        # A place that was clipped does not move with its offset.
        row_slope = row_slope * row_free
        column_slope = column_slope * column_free

        def gradient(*args, upstream=None):
            dy = ops.cast(args[0] if upstream is None else upstream, "float32")
            lower, right_of = dy * down, dy * along
            both = lower * along
            upper = dy - lower
            shares = (upper - (right_of - both), right_of - both, lower - both, both)
            dx = 0.0
            for share, corner in zip(shares, corners, strict=True):
                dx = dx + ops.segment_sum(
                    ops.reshape(share, (-1,)),
                    ops.reshape(corner, (-1,)),
                    num_segments=size,
                )
            return (
                ops.cast(ops.reshape(dx, ops.shape(x)), x.dtype),
                ops.cast(dy * row_slope, rows.dtype),
                ops.cast(dy * column_slope, columns.dtype),
            )

        return y, gradient

    return shifted(x, rows, columns)


def _place(shift, side, axis):
    """Where along one axis each pixel is taken from, all float32.

    Returns:
        The pixel before the place (the last but one at the far border, where there
        is none after), the distance from it in [0, 1], and 1 where the place needed
        no clipping, else 0.
    """
    grid = ops.cast(ops.arange(side), "float32")
    grid = ops.reshape(grid, [-1 if i == axis else 1 for i in range(4)])
    free = ops.cast(shift, "float32") + grid
    place = ops.clip(free, 0.0, ops.cast(side - 1, "float32"))
    last = ops.cast(ops.maximum(side - 2, 0), "float32")
    before = ops.minimum(ops.floor(place), last)
    return before, place - before, ops.cast(free == place, "float32")
