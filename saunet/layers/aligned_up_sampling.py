"""Bilinear up-sampling that keeps the corners where they are."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class AlignedUpSampling2D(layers.Layer):
    """Enlarges a map bilinearly so that first and last pixels keep their values.

    Output pixel i of a side of `size * n` reads the input at
    `i * (n - 1) / (size * n - 1)`: PyTorch's `align_corners=True`, which
    `keras.layers.UpSampling2D` does not have. A side of one pixel is repeated.

    Args:
        size: Integer, how many times larger both sides become.

    Input shape: `(N, H, W, C)`; H and W may be unknown until run time.
    Output shape: `(N, size * H, size * W, C)`.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.input_spec = layers.InputSpec(ndim=4)

    def call(self, inputs):
        height, width = ops.shape(inputs)[1:3]
        rows = interpolation(height, self.size, inputs.dtype)
        columns = interpolation(width, self.size, inputs.dtype)
        # Columns last: the larger product then runs over the fewest rows.
        inputs = ops.einsum("ow,nhwc->nhoc", columns, inputs)
        return ops.einsum("oh,nhwc->nowc", rows, inputs)

    def compute_output_shape(self, input_shape):
        n, *sides, channels = input_shape
        sides = (side if side is None else side * self.size for side in sides)
        return (n, *sides, channels)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def interpolation(side, size, dtype):
    """Returns the `(size * side, side)` matrix whose rows weigh the input pixels.

    A row holds at most two numbers that are not 0, and sums to 1 before `dtype`
    rounds it.
    """
    last = ops.cast(ops.maximum(size * side - 1, 1), "float32")
    place = ops.cast(ops.arange(size * side), "float32")
    place = place * ops.cast(side - 1, "float32") / last
    pixel = ops.cast(ops.arange(side), "float32")
    weights = ops.maximum(0.0, 1.0 - ops.abs(place[:, None] - pixel[None, :]))
    return ops.cast(weights, dtype)
