"""Batch normalisation that trains in fewer passes."""

import keras
from keras import layers, ops

from saunet import fused
from saunet.layers import group_norm


@keras.saving.register_keras_serializable("saunet")
class BatchNormalization(layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with a gradient by hand.

    The same function, weights and weight order, and at inference Keras's own code.
    In training Keras leaves the gradient of its moments to the backend, which
    spreads each of them over the map; here sums are taken per channel, and applied
    as one multiply-add (`GroupNormalization` has the same arithmetic).

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015,
    https://arxiv.org/abs/1502.03167.

    The variance is `E[x**2] - E[x]**2` in float32. Its rounding error, about
    `1e-7 * E[x]**2`, is far below `epsilon` for the activations of a network.

    Args:
        momentum: Float in [0, 1), share of the old moving statistics that a step
            keeps.
        epsilon: Float added to the variance.
        trainable: As of any layer; so are `dtype` and `name`.

    Input and output shape: `(N, H, W, C)`, channels last. A mask is not heeded.
    """

    # Keras's other options, such as `scale` and `axis`, are not heeded: none is taken.
    def __init__(
        self, momentum=0.99, *, epsilon=1e-3, trainable=True, dtype=None, name=None
    ):
        super().__init__(
            momentum=momentum,
            epsilon=epsilon,
            trainable=trainable,
            dtype=dtype,
            name=name,
        )

    def call(self, inputs, training=False):
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        gamma, beta = (ops.cast(v, "float32")[None] for v in (self.gamma, self.beta))
        by = fused if fused.can_fuse(inputs) else group_norm
        mean, variance = by.moments(inputs, _mean_of_images)
        for moving, now in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            now = ops.reshape(now, (-1,))
            kept = ops.cast(moving, "float32") * self.momentum
            moving.assign(kept + now * (1.0 - self.momentum))
        rstd = ops.rsqrt(variance + self.epsilon)
        return by.normalise(inputs, gamma, beta, mean, rstd, _mean_of_images)

    def get_config(self):
        return {
            **layers.Layer.get_config(self),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


def _mean_of_images(per_channel):
    return ops.mean(per_channel, axis=0, keepdims=True)
