"""Tensor in, tensor out: the units that the papers repeat."""

import keras
from keras import layers

from saunet.errors import InputError
from saunet.layers import (
    BatchNormalization,
    DropBlock2D,
    GroupNormalization,
    ReLU,
    SiLU,
)


def image_input(input_shape, *, poolings):
    """Returns the input of a network that halves its map `poolings` times.

    Args:
        input_shape: `(H, W, channels)`; H and W may be `None`.
        poolings: Integer; H and W must be multiples of `2**poolings`.

    Raises:
        InputError: H or W is known and no such multiple, or Keras is set to put
            channels first.
    """
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "image_data_format is channels_first, expected channels_last: run "
            "keras.config.set_image_data_format('channels_last')"
        )
    multiple = 2**poolings
    if any(side is not None and side % multiple for side in input_shape[:2]):
        raise InputError(
            f"input_shape {tuple(input_shape)}: height and width must be multiples "
            f"of {multiple}; pad the image or pass (None, None, 3)"
        )
    return keras.Input(input_shape, name="image")


def conv_relu(x, filters, *, name):
    """U-Net's unit: convolution 3x3, ReLU."""
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    return ReLU(name=f"{name}_relu")(x)


def conv_drop_relu(x, filters, *, rate, block_size, name):
    """SD-Unet's unit: convolution 3x3, DropBlock, ReLU."""
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    x = DropBlock2D(rate, block_size, name=f"{name}_drop")(x)
    return ReLU(name=f"{name}_relu")(x)


def conv_drop_bn_relu(x, filters, *, rate, block_size, name):
    """SA-UNet's structured dropout convolution: with batch normalisation."""
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    x = DropBlock2D(rate, block_size, name=f"{name}_drop")(x)
    x = BatchNormalization(name=f"{name}_bn")(x)
    return ReLU(name=f"{name}_relu")(x)


def conv_drop_gn_silu(x, filters, *, rate, block_size, name):
    """SA-UNetv2's unit: group normalisation of 8 groups and SiLU."""
    x = layers.Conv2D(
        filters,
        3,
        padding="same",
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = DropBlock2D(rate, block_size, name=f"{name}_drop")(x)
    x = GroupNormalization(8, epsilon=1e-3, name=f"{name}_gn")(x)
    return SiLU(name=f"{name}_silu")(x)


def conv_bn_relu(x, filters, kernel_size=3, *, name, use_bias=True, dilation_rate=1):
    """Convolution, batch normalisation with Keras's defaults, ReLU."""
    x = layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=use_bias,
        dilation_rate=dilation_rate,
        name=f"{name}_conv",
    )(x)
    x = BatchNormalization(name=f"{name}_bn")(x)
    return ReLU(name=f"{name}_relu")(x)


def coarse_fine(x, filters, *, conv, wide_conv, name):
    """Coarse and fine feature aggregation (CFFA) of CMP-UNet.

    A thin branch of 3x1 and 1x3 beside a wide one of 7x7 and 1x1, fused by 1x1.

    Args:
        x: `(N, H, W, C)`.
        filters: Channels of the output and of both branches.
        conv: Unit `(x, filters, kernel_size, name=...)`.
        wide_conv: Unit of the 7x7 convolution, `(x, filters, name=...)`.
        name: First part of the layers' names.
    """
    fine = conv(x, filters, (3, 1), name=f"{name}_fine_a")
    fine = conv(fine, filters, (1, 3), name=f"{name}_fine_b")
    coarse = wide_conv(x, filters, name=f"{name}_coarse_a")
    coarse = conv(coarse, filters, 1, name=f"{name}_coarse_b")
    x = layers.Concatenate(name=f"{name}_concat")([fine, coarse])
    return conv(x, filters, 1, name=f"{name}_fuse")


def up_conv(x, filters, *, kernel_initializer="glorot_uniform", name):
    """Doubles the map by a 3x3 transposed convolution with bias, no activation.

    The papers' "2x2 up-convolution" is its stride.
    """
    return layers.Conv2DTranspose(
        filters,
        3,
        strides=2,
        padding="same",
        kernel_initializer=kernel_initializer,
        name=f"{name}_conv",
    )(x)


def vessel_map(x, *, kernel_initializer="glorot_uniform"):
    """Convolution 1x1 and sigmoid: `(N, H, W, 1)` vessel probability.

    The sigmoid stays in float32 under mixed precision: probabilities near 1 have
    no neighbours in bfloat16.
    """
    x = layers.Conv2D(1, 1, kernel_initializer=kernel_initializer, name="vessels_conv")(
        x
    )
    return layers.Activation("sigmoid", dtype="float32", name="vessels")(x)
