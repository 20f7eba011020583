"""DU-Net: a U-Net whose convolutions may look beside their pixel.

Paper: Jin et al., "DUNet: A deformable network for retinal vessel segmentation",
Knowledge-Based Systems 2019, https://arxiv.org/abs/1811.01206; as the slides "Image
Segmentation: Exploring U-Nets" use it.

                     deformable levels                  parameters    trainable
    dunet_encoder    128 and 256, down                  32,898,497    32,886,721
    dunet            128 and 256 down, 128 and 64 up    34,741,697    34,729,921

From the slides: both counts, which the levels above give exactly.
Inferred: which levels those are, and batch normalisation everywhere (the slides'
baseline, `unet`, has none in its bottleneck).
Departure: offsets are read as pairs of one channel. The slides' layer mixes channels
and places; `layout="reference"` does so, for weights that it trained.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import conv_bn_relu, image_input, vessel_map
from saunet.layers import ConvOffset2D

LEVELS = 4


def dunet_encoder(
    input_shape=(None, None, 3), *, layout="paired", name="dunet_encoder"
):
    """The slides' "Deformable Encoder"."""
    return _u_net(input_shape, down=(1, 2), up=(), layout=layout, name=name)


def dunet(input_shape=(None, None, 3), *, layout="paired", name="dunet"):
    """The slides' "Full DU-Net".

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        layout: How `ConvOffset2D` reads its offsets.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    return _u_net(input_shape, down=(1, 2), up=(1, 0), layout=layout, name=name)


def _u_net(input_shape, *, down, up, layout, name):
    """The skeleton of both; `down` and `up` are the deformable levels."""
    deformable = partial(_deformable_unit, layout=layout)
    inputs = image_input(input_shape, poolings=LEVELS)
    x, skips = inputs, []
    for level in range(LEVELS):
        unit = deformable if level in down else conv_bn_relu
        x = unit(x, 64 * 2**level, name=f"down{level}_a")
        x = unit(x, 64 * 2**level, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = conv_bn_relu(x, 64 * 2**LEVELS, name="bottleneck_a")
    x = conv_bn_relu(x, 64 * 2**LEVELS, name="bottleneck_b")

    for level in reversed(range(LEVELS)):
        unit = deformable if level in up else conv_bn_relu
        width = 64 * 2**level
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"up{level}_conv")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = unit(x, width, name=f"up{level}_a")
        x = unit(x, width, name=f"up{level}_b")

    return keras.Model(inputs, vessel_map(x), name=name)


def _deformable_unit(x, filters, *, layout, name):
    """The paper's deformable convolution: resample, convolution, BN, ReLU."""
    x = ConvOffset2D(layout, name=f"{name}_offset")(x)
    return conv_bn_relu(x, filters, name=name)
