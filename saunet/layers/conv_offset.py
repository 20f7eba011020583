"""Convolutional offsets: the deformable step of DU-Net."""

import keras
from keras import layers, ops

from saunet.errors import InputError

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
    leaves the gradient to the backend. Here one index serves the four, the gradient
    is written by hand from the slopes that the forward pass knows, and one channel is
    worked on at a time: it fits the processor's cache, and nothing of the size of all
    channels is held but what the gradient needs. Shifts are of the compute dtype;
    places and interpolation weights are float32.

    Args:
        layout: String, which filters shift which channel. `"paired"`: filters 2i and
            2i + 1 are the row and the column shift of channel i. `"reference"`, for
            weights trained by that code: `(2C, H, W)` numbers are read as
            `(C, H, W, 2)`, which mixes filters and positions.

    Input and output shape: `(N, H, W, C)`, channels last, any H and W; they may be
    unknown until run time. H * W must stay below 2**24.

    Raises:
        ValueError: `layout` is none of these, or the number of channels is unknown.
        InputError: A map (where its size is known) of 2**24 pixels or more.
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
        height, width = inputs.shape[1:3]
        # Places are counted in float32: beyond, a neighbour would be taken.
        if height and width and height * width >= 2**24:
            raise InputError(
                f"a {height}x{width} map (layer '{self.name}'): expected under 2**24 "
                "pixels: cut the photograph into tiles"
            )
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
    # From a pixel to those right of it, below, and both; a map of one column or row
    # has none.
    right, below = ops.minimum(width - 1, 1), ops.minimum(height - 1, 1) * width
    steps = (0, right, below, below + right)

    def each_map(function):
        """Stacks `function(i)` for each channel i of each image."""
        # Over numbers: TensorFlow would copy maps that it loops over.
        return ops.map(function, ops.arange(n * channels))

    def maps_first(values):
        """`(N, H, W, C)` -> `(N * C, H, W)`."""
        values = ops.transpose(values, (0, 3, 1, 2))
        return ops.reshape(values, (-1, height, width))

    def maps_last(values):
        values = ops.reshape(values, (n, channels, height, width))
        return ops.transpose(values, (0, 2, 3, 1))

    def places(rows, columns):
        row, down, row_free = _place(rows, height, axis=0)
        column, along, column_free = _place(columns, width, axis=1)
        # float32 counts the pixels of a map exactly, and one conversion is enough.
        index = ops.cast(row * ops.cast(width, "float32") + column, "int32")
        return index, down, along, row_free, column_free

    def interpolate(x, rows, columns):
        index, down, along, row_free, column_free = places(rows, columns)
        flat = ops.cast(ops.reshape(x, (-1,)), "float32")
        a, b, c, d = (ops.take(flat, index + step) for step in steps)
        across = b - a
        upper = a + across * along
        lower = c + (d - c) * along
        row_slope = lower - upper
        column_slope = across + (d - c - across) * down
        # A place that was clipped does not move with its offset.
        results = (
            upper + row_slope * down,
            row_slope * row_free,
            column_slope * column_free,
        )
        return tuple(ops.cast(result, x.dtype) for result in results)

    def distribute(dy, rows, columns):
        index, down, along, _, _ = places(rows, columns)
        dy = ops.cast(dy, "float32")
        lower, right_of = dy * down, dy * along
        both = lower * along
        upper = dy - lower
        shares = (upper - (right_of - both), right_of - both, lower - both, both)
        dx = 0.0
        for share, step in zip(shares, steps, strict=True):
            dx = dx + ops.segment_sum(
                ops.reshape(share, (-1,)),
                ops.reshape(index + step, (-1,)),
                num_segments=height * width,
            )
        return ops.cast(ops.reshape(dx, (height, width)), x.dtype)

    @ops.custom_gradient
    def shifted(x, rows, columns):
        x, rows, columns = (maps_first(values) for values in (x, rows, columns))
        y, *slopes = each_map(lambda i: interpolate(x[i], rows[i], columns[i]))

        def gradient(*args, upstream=None):
            dy = maps_first(args[0] if upstream is None else upstream)
            dx = each_map(lambda i: distribute(dy[i], rows[i], columns[i]))
            return tuple(maps_last(d) for d in (dx, *(dy * s for s in slopes)))

        return maps_last(y), gradient

    return shifted(x, rows, columns)


def _place(shift, side, axis):
    """Where along one axis of `(..., H, W)` each pixel is taken from, all float32.

    Returns:
        The pixel before the place (the last but one at the far border, where there
        is none after), the distance from it in [0, 1], and 1 where the place needed
        no clipping, else 0.
    """
    grid = ops.cast(ops.arange(side), "float32")
    grid = ops.reshape(grid, [-1 if i == axis else 1 for i in range(2)])
    free = ops.cast(shift, "float32") + grid
    place = ops.clip(free, 0.0, ops.cast(side - 1, "float32"))
    last = ops.cast(ops.maximum(side - 2, 0), "float32")
    before = ops.minimum(ops.floor(place), last)
    return before, place - before, ops.cast(free == place, "float32")
