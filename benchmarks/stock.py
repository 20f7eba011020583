"""SA-UNet and SA-UNetv2 of stock layers: what the benchmarks compare ours with.

Nothing but Keras's own layers and operations, and DropBlock by keras-cv's formula.
Names, order and shapes of the weights are those of `saunet`'s networks, so that
`set_weights` carries them over; both then compute the same map.
"""

from functools import partial

import keras
from keras import layers, ops


class StockDropBlock2D(layers.Layer):
    """DropBlock by the formula of keras-cv 0.9.0 (its code, written anew).

    A uniform number for each value of the map chooses the blocks' middles, among
    the places where a block fits; a max-pooling of stride 1 grows them. Channels are
    independent. keras-cv bounds rows by the width, which only square maps bear:
    here by the height.

    Args:
        rate: Float in (0, 1), the share to drop.
        block_size: Integer, side of a block, at most that of a map.

    Input and output shape: `(N, H, W, C)`, channels last.
    """

    def __init__(self, rate, block_size, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.block_size = block_size
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        if not training:
            return inputs
        b = self.block_size
        shape = ops.shape(inputs)
        _, height, width, _ = shape
        area = ops.cast(height * width, "float32")
        places = ops.cast((height - b + 1) * (width - b + 1), "float32")
        gamma = self.rate * area / b**2 / places
        column, row = ops.meshgrid(ops.arange(width), ops.arange(height))
        fits = ops.logical_and(
            ops.logical_and(column >= b // 2, column < width - (b - 1) // 2),
            ops.logical_and(row >= b // 2, row < height - (b - 1) // 2),
        )
        fits = ops.cast(ops.reshape(fits, (1, height, width, 1)), "float32")
        noise = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        kept = ops.cast((1 - fits + (1 - gamma) + noise) >= 1, "float32")
        kept = -ops.max_pool(-kept, b, strides=1, padding="same")
        share = ops.sum(kept) / ops.cast(ops.size(kept), "float32")
        return inputs / ops.cast(share, inputs.dtype) * ops.cast(kept, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


def stock_sa_unet(input_shape=(None, None, 3), *, rate=0.18, block_size=7):
    """SA-UNet: batch normalisation and ReLU, attention in the bottleneck."""

    def unit(x, filters, *, name):
        x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
        x = StockDropBlock2D(rate, block_size, name=f"{name}_drop")(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    return _u_net(input_shape, unit, filters=(16, 32, 64, 128), gate=_plain)


def stock_sa_unet_v2(input_shape=(None, None, 3), *, rate=0.15, block_size=7):
    """SA-UNetv2: group normalisation and SiLU, skips gated across scales."""

    def unit(x, filters, *, name):
        x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
        x = StockDropBlock2D(rate, block_size, name=f"{name}_drop")(x)
        x = layers.GroupNormalization(8, epsilon=1e-3, name=f"{name}_gn")(x)
        return layers.Activation("silu", name=f"{name}_silu")(x)

    return _u_net(input_shape, unit, filters=(16, 32, 48, 64), gate=_cross_scale)


STOCK = {"sa_unet": stock_sa_unet, "sa_unet_v2": stock_sa_unet_v2}


def _u_net(input_shape, unit, *, filters, gate):
    *levels, bottleneck = filters
    inputs = keras.Input(input_shape, name="image")
    x, skips = inputs, []
    for level, width in enumerate(levels):
        x = unit(x, width, name=f"down{level}_a")
        x = unit(x, width, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, bottleneck, name="bottleneck_a")
    peak = ops.max(x, axis=-1, keepdims=True)
    x = _attend(x, [_mean(x), peak], name="bottleneck_attention")
    x = unit(x, bottleneck, name="bottleneck_b")

    for level, width in reversed(list(enumerate(levels))):
        transposed = partial(layers.Conv2DTranspose, strides=2, padding="same")
        x = transposed(width, 3, name=f"up{level}_conv")(x)
        skip = gate(skips[level], x, name=f"up{level}_gate")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skip])
        x = unit(x, width, name=f"up{level}_a")
        x = unit(x, width, name=f"up{level}_b")

    x = layers.Conv2D(1, 1, name="vessels_conv")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="vessels")(x)
    return keras.Model(inputs, outputs)


def _plain(skip, up, *, name):
    return skip


def _cross_scale(skip, up, *, name):
    return _attend(skip, [_mean(skip), _mean(up)], name=name)


def _mean(x):
    return ops.mean(x, axis=-1, keepdims=True)


def _attend(x, summaries, *, name):
    summary = layers.Concatenate(name=f"{name}_summary")(summaries)
    conv = layers.Conv2D(
        1, 7, padding="same", use_bias=False, activation="sigmoid", name=f"{name}_conv"
    )
    return layers.Multiply(name=f"{name}_product")([x, conv(summary)])
