"""U-Net with batch normalisation, the baseline of the U-Net exploration.

Paper: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, https://arxiv.org/abs/1505.04597; as the slides "Image
Segmentation: Exploring U-Nets" use it.

    unet           64/128/256/512 + 1024    31,039,425 trainable
    unet_3level    64/128/256 + 512         "UNet (3 encoders/decoders)"

From the slides: the number of trainable parameters, 3x3 and 2x2 kernels.
Inferred: same padding; no batch normalisation in the bottleneck, the one simple
change that gives that number; `unet_3level` is the same with a level less.
"""

import keras
from keras import layers

from saunet.blocks import conv_bn_relu, conv_relu, image_input, vessel_map


def unet(input_shape=(None, None, 3), *, name="unet"):
    """The slides' baseline U-Net.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    return _u_net(input_shape, levels=4, name=name)


def unet_3level(input_shape=(None, None, 3), *, name="unet_3level"):
    """The slides' "UNet (3 encoders/decoders)"; H and W multiples of 8."""
    return _u_net(input_shape, levels=3, name=name)


def _u_net(input_shape, *, levels, name):
    """The skeleton that both networks share."""
    inputs = image_input(input_shape, poolings=levels)
    x, skips = inputs, []
    for level in range(levels):
        x = conv_bn_relu(x, 64 * 2**level, name=f"down{level}_a")
        x = conv_bn_relu(x, 64 * 2**level, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = conv_relu(x, 64 * 2**levels, name="bottleneck_a")
    x = conv_relu(x, 64 * 2**levels, name="bottleneck_b")

    for level in reversed(range(levels)):
        width = 64 * 2**level
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"up{level}_conv")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = conv_bn_relu(x, width, name=f"up{level}_a")
        x = conv_bn_relu(x, width, name=f"up{level}_b")

    return keras.Model(inputs, vessel_map(x), name=name)
