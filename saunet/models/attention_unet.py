"""Attention U-Net, as a row of SA-UNetv2's table.

Paper: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", 2018,
https://arxiv.org/abs/1804.03999. The row is in Guo et al., "SA-UNetv2", 2025,
https://arxiv.org/abs/2509.11774: 8.65 M parameters, 425.05 GFLOPs.

From the paper: an additive gate on every skip connection but the finest; the skip
is brought to the grid of the coarser decoder map g, the attention back by bilinear
enlarging.
Inferred: the U-Net around the gates is `unet_32`, the row beside it, with its unit;
a gate has f // 16 channels on a skip of f, which gives 8,652,572 parameters.

The published 425.05 GFLOPs could not be reproduced from any public code. By the
convention that reproduces the table's other rows, this network counts to 137.206
GFLOPs at 592x592: the gates add 0.111 to the 137.095 of `unet_32`.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import conv_drop_gn_silu, image_input, up_conv, vessel_map
from saunet.layers import ReLU

LEVELS = 4


def attention_unet(
    input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="attention_unet"
):
    """Attention U-Net: a U-Net whose skip connections are gated from below.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        rate: Share dropped by DropBlock.
        block_size: Side of a dropped block.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    unit = partial(conv_drop_gn_silu, rate=rate, block_size=block_size)
    inputs = image_input(input_shape, poolings=LEVELS)
    x, skips = inputs, []
    for level in range(LEVELS):
        x = unit(x, 32 * 2**level, name=f"down{level}_a")
        x = unit(x, 32 * 2**level, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, 32 * 2**LEVELS, name="bottleneck_a")
    x = unit(x, 32 * 2**LEVELS, name="bottleneck_b")

    for level in reversed(range(LEVELS)):
        skip = skips[level]
        if level > 0:
            skip = _attention_gate(skip, x, name=f"up{level}_gate")
        x = up_conv(x, 32 * 2**level, name=f"up{level}")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skip])
        x = unit(x, 32 * 2**level, name=f"up{level}_a")
        x = unit(x, 32 * 2**level, name=f"up{level}_b")

    outputs = vessel_map(x, kernel_initializer="he_normal")
    return keras.Model(inputs, outputs, name=name)


def _attention_gate(skip, g, *, name):
    """Weights a skip by sigmoid(psi(relu(theta(skip) + phi(g)))), section 2.1."""
    conv = partial(layers.Conv2D, kernel_initializer="he_normal")
    channels = skip.shape[-1] // 16
    theta = conv(channels, 1, strides=2, use_bias=False, name=f"{name}_theta")(skip)
    phi = conv(channels, 1, name=f"{name}_phi")(g)
    x = layers.Add(name=f"{name}_add")([theta, phi])
    x = ReLU(name=f"{name}_relu")(x)
    x = conv(1, 1, activation="sigmoid", name=f"{name}_psi")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(x)
    return layers.Multiply(name=name)([skip, x])
