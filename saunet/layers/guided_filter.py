"""The attention-guided filter of AG-Net."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class AttentionGuidedFilter(layers.Layer):
    """Enlarges a map to the size of a guide whose edges it takes over.

    In each window of the small maps the input y is fitted by A x + b, x being the
    small guide, with pixels weighed by the attention; A and b, smoothed and
    enlarged bilinearly, are then applied to the guide itself. With m(.) the mean
    over a window cut at the border, n its number of pixels, and a = |attention| +
    1e-12, t = a / sum(a):

        A = (m(a²xy) - n m(tax) m(ay)) / (|m(a²x²) - n m(tax) m(ax)| + epsilon)
        b = (m(ay) - A m(ax)) / m(a)
        output = up(m(A)) * guide + up(m(b))

    Source: Zhang et al., "Attention Guided Network for Retinal Image Segmentation",
    MICCAI 2019, https://arxiv.org/abs/1907.12930, and the authors' code
    https://github.com/HzFu/AGNet: its sum(a) runs over the whole batch tensor, so
    that an image's result depends, slightly, on the images beside it.

    The authors take windows from differences of cumulative sums; here the pixels of
    a window are added, rows first, then columns, which cancels nothing. A and b are
    computed in float64, and in float32 on JAX, which has no float64 by default.

    Args:
        radius: Integer, the window's side is `2 * radius + 1`.
        epsilon: Float, how much contrast the small guide needs to be followed.

    Call arguments:
        inputs: `[small_guide, y, attention, guide]`: `(N, H, W, C)` twice,
            `(N, H, W, 1)`, and `(N, H2, W2, C)` of any size.

    Output shape: that of `guide`.

    Raises:
        ValueError: The four maps have other channels than these.
    """

    def __init__(self, radius=2, *, epsilon=1e-2, **kwargs):
        super().__init__(**kwargs)
        self.radius = radius
        self.epsilon = epsilon

    def build(self, input_shape):
        small, y, attention, guide = (tuple(shape) for shape in input_shape)
        if small[-1] != y[-1] or y[-1] != guide[-1] or attention[-1] != 1:
            raise ValueError(
                "AttentionGuidedFilter takes [small_guide, y, attention, guide] with "
                f"C, C, 1 and C channels. Received: {small}, {y}, {attention}, {guide}."
            )
        self.built = True

    def call(self, inputs):
        *small, guide = inputs
        # `jax.numpy` warns on float64 and gives float32.
        wide = "float32" if keras.backend.backend() == "jax" else "float64"
        slope, intercept = self._fit(*(ops.cast(x, wide) for x in small))
        size = ops.shape(guide)[1:3]

        def enlarged(x):
            x = ops.cast(x, "float32")
            return ops.image.resize(x, size, data_format="channels_last")

        # In float32 under every policy: the two terms may nearly cancel.
        guide = ops.cast(guide, "float32")
        output = enlarged(slope) * guide + enlarged(intercept)
        return ops.cast(output, self.compute_dtype)

    def _fit(self, x, y, attention):
        """Returns the smoothed slope A and intercept b, both `(N, H, W, C)`."""
        a = ops.abs(attention) + 1e-12
        ax, ay = a * x, a * y
        n = window_sum(ops.ones_like(a[:1]), self.radius)

        def mean(values):
            return window_sum(values, self.radius) / n

        # n m(tax), where t is a over its sum
        n_tax = window_sum(a * ax, self.radius) / ops.sum(a)
        mean_ax, mean_ay = mean(ax), mean(ay)
        covariance = mean(ax * ay) - n_tax * mean_ay
        variance = mean(ax * ax) - n_tax * mean_ax
        slope = covariance / (ops.abs(variance) + self.epsilon)
        intercept = (mean_ay - slope * mean_ax) / mean(a)
        return mean(slope), mean(intercept)

    def compute_output_shape(self, input_shape):
        return input_shape[-1]

    def get_config(self):
        return {
            **super().get_config(),
            "radius": self.radius,
            "epsilon": self.epsilon,
        }


def window_sum(x, radius):
    """Sums over the windows around each pixel, cut at the border.

    Not a mean pooling that leaves out its padding: TensorFlow 2.21's gradient of
    that is wrong on maps smaller than the window.
    """
    _, height, width, _ = ops.shape(x)
    offsets = range(2 * radius + 1)
    x = ops.pad(x, [[0, 0], [radius, radius], [radius, radius], [0, 0]])
    x = sum(x[:, i : i + height] for i in offsets)
    return sum(x[:, :, i : i + width] for i in offsets)
