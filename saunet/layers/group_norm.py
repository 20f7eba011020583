"""Group normalisation with sums per channel and a gradient by hand."""

import keras
from keras import layers, ops

from saunet import fused


@keras.saving.register_keras_serializable("saunet")
class GroupNormalization(layers.Layer):
    """Normalises groups of channels of each image over all pixels.

    The same function, weights and weight order as
    `keras.layers.GroupNormalization(groups, epsilon=epsilon)`, without its
    five-dimensional reshapes: sums are taken per channel, combined to groups on
    `(N, C)` numbers, and applied as one multiply-add.

    Source: Wu and He, "Group normalization", ECCV 2018,
    https://arxiv.org/abs/1803.08494.

    The variance is `E[x**2] - E[x]**2` in float32. Its rounding error, about
    `1e-7 * E[x]**2`, is far below `epsilon` for the activations of a network.

    Args:
        groups: Integer, number of groups; must divide the number of channels.
        epsilon: Float added to the variance.

    Input and output shape: `(N, H, W, C)`, channels last.

    Raises:
        ValueError: `groups` is no integer >= 1, or does not divide the channels.
    """

    def __init__(self, groups=8, *, epsilon=1e-3, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"`groups` must be an integer >= 1, not {groups}.")
        self.groups = groups
        self.epsilon = epsilon
        self.supports_masking = True
        self.input_spec = layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"`groups` must divide the number of channels. Received: "
                f"groups={self.groups}, input_shape={tuple(input_shape)}."
            )
        # Not rounded under mixed precision, as Keras keeps them.
        self.gamma = self.add_weight(
            name="gamma", shape=(channels,), initializer="ones", autocast=False
        )
        self.beta = self.add_weight(
            name="beta", shape=(channels,), initializer="zeros", autocast=False
        )
        self.built = True

    def call(self, inputs, training=False):
        # Read here: the hand-written gradient may not see a variable inside.
        gamma, beta = (ops.cast(v, "float32")[None] for v in (self.gamma, self.beta))
        fuse = training and fused.can_fuse(inputs)
        find, apply = (fused.moments, fused.normalise) if fuse else (moments, normalise)
        mean, variance = find(inputs, self._mean_of_groups)
        rstd = ops.rsqrt(variance + self.epsilon)
        return apply(inputs, gamma, beta, mean, rstd, self._mean_of_groups)

    def _mean_of_groups(self, per_channel):
        """`(N, C)` -> `(N, C)`: each channel gets the mean of its group."""
        channels = per_channel.shape[-1]
        shape = (-1, self.groups, channels // self.groups)
        grouped = ops.reshape(per_channel, shape)
        mean = ops.mean(grouped, axis=-1, keepdims=True)
        return ops.reshape(ops.broadcast_to(mean, ops.shape(grouped)), (-1, channels))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "epsilon": self.epsilon,
        }


def moments(x, pool):
    """Returns mean and variance in float32, without a gradient.

    Args:
        x: `(N, H, W, C)`.
        pool: What shares statistics: takes the mean over pixels `(N, C)` and returns
            the mean over what belongs together, `(N, C)` or `(1, C)`.

    Returns:
        Two tensors of the shape that `pool` returns.
    """
    x = ops.stop_gradient(x)
    first, second = map(pool, _means(x, x))
    return first, ops.maximum(second - ops.square(first), 0.0)


def normalise(x, gamma, beta, mean, rstd, pool):
    """Returns `(x - mean) * rstd * gamma + beta`, with a gradient by hand.

    Args:
        x: `(N, H, W, C)`.
        gamma: `(1, C)` float32.
        beta: `(1, C)` float32.
        mean: Mean of x as `moments` returns it; its share of the gradient of x is
            part of this function's.
        rstd: One over the standard deviation, of the same shape.
        pool: As in `moments`.

    Returns:
        `(N, H, W, C)` of the dtype of `x`.
    """

    @ops.custom_gradient
    def apply(x, gamma, beta, mean, rstd):
        scale = gamma * rstd
        y = _multiply_add(x, scale, beta - mean * scale)

        def gradient(*args, upstream=None):
            dy = args[0] if upstream is None else upstream
            pixels = ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")
            # mean of dy * normalised x, from two sums instead of a third map
            dy_mean, product = _means(dy, x)
            dy_xhat = (product - dy_mean * mean) * rstd
            b = pool(gamma * dy_mean)
            g = pool(gamma * dy_xhat)
            # dx = rstd * (gamma * dy - b - xhat * g), as one multiply-add of maps
            slope = -rstd * rstd * g
            dx = _multiply_add_both(dy, x, scale, slope, -rstd * b - mean * slope)
            dgamma = ops.sum(dy_xhat, axis=0, keepdims=True) * pixels
            dbeta = ops.sum(dy_mean, axis=0, keepdims=True) * pixels
            return dx, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(rstd)

        return y, gradient

    return apply(x, gamma, beta, mean, rstd)


def _means(x, other):
    x = _wide(x)
    return _mean_of_pixels(x), _mean_of_pixels(x * _wide(other))


def _mean_of_pixels(values):
    # Columns, then rows: in one go TensorFlow adds one number after the other,
    # which costs 1.5 times the time and, over 592x592 pixels, two digits.
    return ops.mean(ops.mean(values, axis=2), axis=1)


def _multiply_add(x, scale, offset):
    # In float32 and rounded once, as Keras does: in bfloat16 a gamma of 1.003 is 1.
    y = ops.multiply(x, _on_pixels(scale))
    return ops.cast(ops.add(y, _on_pixels(offset)), x.dtype)


def _multiply_add_both(x, other, scale, slope, offset):
    y = ops.multiply(x, _on_pixels(scale))
    y = ops.add(y, ops.multiply(other, _on_pixels(slope)))
    return ops.cast(ops.add(y, _on_pixels(offset)), x.dtype)


def _on_pixels(per_channel):
    return per_channel[:, None, None, :]


def _wide(values):
    # Before any product: float16 ends at 65,504, the square of 255.
    return ops.cast(values, "float32")
