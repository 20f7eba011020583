"""CBAM-UNet with coarse and fine feature aggregation (CFFA).

Source: De Lange, Van de Sompele, Nijs, "Image Segmentation: Exploring U-Nets",
slides with the code of CFFA and of both attentions. SA-UNet's skeleton,
https://arxiv.org/abs/2004.03696, with

- plain dropout in the place of DropBlock;
- CFFA of Gu et al. 2023, https://doi.org/10.3390/electronics12234743, twice at each
  of the encoder's levels 2 and 3;
- the whole of CBAM, https://arxiv.org/abs/1807.06521, in the bottleneck.

Inferred: the wiring around the printed functions, from the number of parameters
(938,467, which the slides do not print), and the dropout rate, which is SA-UNet's on
DRIVE.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import (
    coarse_fine,
    conv_bn_relu,
    image_input,
    up_conv,
    vessel_map,
)
from saunet.layers import BatchNormalization, ChannelAttention, ReLU, SpatialAttention


def cbam_unet(input_shape=(None, None, 3), *, rate=0.18, name="cbam_unet"):
    """CBAM-UNet with CFFA.

    Args:
        input_shape: `(H, W, 3)`, multiples of 8 or `None`; RGB in [0, 1].
        rate: Share dropped after each convolution of SA-UNet's skeleton.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    unit = partial(_conv_dropout_bn_relu, rate=rate)
    cffa = partial(
        coarse_fine, conv=conv_bn_relu, wide_conv=partial(conv_bn_relu, kernel_size=7)
    )
    inputs = image_input(input_shape, poolings=3)
    x, skips = inputs, []
    for level, block in enumerate((unit, cffa, cffa)):
        x = block(x, 16 * 2**level, name=f"down{level}_a")
        x = block(x, 16 * 2**level, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, 128, name="bottleneck_a")
    x = ChannelAttention(8, name="bottleneck_channel_attention")(x)
    x = SpatialAttention(7, name="bottleneck_spatial_attention")(x)
    x = unit(x, 128, name="bottleneck_b")

    for level in reversed(range(3)):
        x = up_conv(x, 16 * 2**level, name=f"up{level}")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = unit(x, 16 * 2**level, name=f"up{level}_a")
        x = unit(x, 16 * 2**level, name=f"up{level}_b")

    return keras.Model(inputs, vessel_map(x), name=name)


def _conv_dropout_bn_relu(x, filters, *, rate, name):
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    x = layers.Dropout(rate, name=f"{name}_drop")(x)
    x = BatchNormalization(name=f"{name}_bn")(x)
    return ReLU(name=f"{name}_relu")(x)
