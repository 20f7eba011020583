"""CMP-UNet, by its authors and as a set of slides reads it.

Paper: Gu et al., "CMP-UNet: A Retinal Vessel Segmentation Network Based on
Multi-Scale Feature Fusion", Electronics 12(23), 2023,
https://doi.org/10.3390/electronics12234743. Slides: De Lange, Van de Sompele,
Nijs, "Image Segmentation: Exploring U-Nets", which print CFFA, MSCAF and PFF. Code
read: the slides', and the authors' own, https://github.com/hpucry/CMP-UNet, mynet.py
at 559139f; `cmp_unet` gives its outputs.

                 CFFA's 7x7    bias          MSCAF's attention    PFF's enlarging
    slides       full          CFFA, CBRD    CBAM's channels      bilinear
    authors      depthwise     none          adaptive (ACA)       corners aligned

Both: a stem and four levels of 32..512 channels. BN's epsilon is Keras's 1e-3 in
the slides and PyTorch's 1e-5 in the authors' network. The authors' 9,071,770 counts
trainable parameters; with BN's moving statistics there are 9,094,170.

Inferred: of the slides, where the printed functions are placed (from the number of
parameters, 34,568,769, which they do not print), and the dropout rate, which is the
authors'.
Departures: the authors return the logit, this network its sigmoid.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import coarse_fine, conv_bn_relu, image_input, vessel_map
from saunet.layers import (
    AdaptiveChannelAttention,
    AlignedUpSampling2D,
    BatchNormalization,
    ChannelAttention,
    ReLU,
)

FILTERS = 32
LEVELS = 4


def cmp_unet_slides(input_shape=(None, None, 3), *, rate=0.2, name="cmp_unet_slides"):
    """CMP-UNet as the slides print its parts: 34.6 million parameters.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        rate: Share dropped by every dropout.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    return _cmp_unet(
        input_shape,
        conv=conv_bn_relu,
        wide_conv=partial(conv_bn_relu, kernel_size=7),
        fuse_conv=partial(conv_bn_relu, use_bias=False),
        attention=partial(ChannelAttention, 8),
        enlarge=partial(layers.UpSampling2D, interpolation="bilinear"),
        rate=rate,
        name=name,
    )


def cmp_unet(input_shape=(None, None, 3), *, rate=0.2, name="cmp_unet"):
    """CMP-UNet as its authors built it: 9.1 million parameters.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        rate: Share dropped by every dropout.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    return _cmp_unet(
        input_shape,
        conv=_plain_conv,
        wide_conv=_depthwise_conv,
        fuse_conv=_plain_conv,
        attention=partial(AdaptiveChannelAttention, rate),
        enlarge=AlignedUpSampling2D,
        rate=rate,
        name=name,
    )


def _cmp_unet(
    input_shape, *, conv, wide_conv, fuse_conv, attention, enlarge, rate, name
):
    """The skeleton of both networks.

    Args:
        input_shape: `(H, W, 3)`.
        conv: Unit of CFFA and CBRD.
        wide_conv: Unit of CFFA's 7x7 convolution.
        fuse_conv: Unit of MSCAF and PFF.
        attention: Makes MSCAF's attention layer from its name.
        enlarge: Makes PFF's up-sampling layer from its factor and name.
        rate: Share dropped by every dropout.
        name: Name of the `keras.Model`.
    """
    cbrd = partial(_conv_bn_relu_dropout, conv=conv, rate=rate)
    cffa = partial(coarse_fine, conv=conv, wide_conv=wide_conv)
    mscaf = partial(_mscaf, conv=fuse_conv, attention=attention, rate=rate)

    inputs = image_input(input_shape, poolings=LEVELS)
    x = cbrd(inputs, FILTERS, name="stem_a")
    x = cbrd(x, FILTERS, name="stem_b")
    skips = [x]
    for level in range(1, LEVELS + 1):
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
        x = cffa(x, FILTERS * 2**level, name=f"down{level}_a")
        x = layers.Dropout(rate, name=f"down{level}_a_drop")(x)
        x = cffa(x, FILTERS * 2**level, name=f"down{level}_b")
        x = layers.Dropout(rate, name=f"down{level}_b_drop")(x)
        skips.append(x)

    pyramid = []
    for level in reversed(range(LEVELS)):
        x = layers.Conv2DTranspose(
            FILTERS * 2**level, 2, strides=2, padding="same", name=f"up{level}_conv"
        )(x)
        x = layers.Dropout(rate, name=f"up{level}_drop")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = mscaf(x, FILTERS * 2**level, name=f"up{level}_mscaf")
        x = cbrd(x, FILTERS * 2**level, name=f"up{level}_cbrd")
        pyramid.append(x)

    x = _pff(pyramid, FILTERS, conv=fuse_conv, enlarge=enlarge, name="pff")
    x = mscaf(x, FILTERS, name="pff_mscaf")
    x = layers.Add(name="pff_add")([x, pyramid[-1]])
    return keras.Model(inputs, vessel_map(x), name=name)


def _conv_bn_relu_dropout(x, filters, *, conv, rate, name):
    """CBRD."""
    x = conv(x, filters, name=name)
    return layers.Dropout(rate, name=f"{name}_drop")(x)


def _mscaf(x, filters, *, conv, attention, rate, name):
    """Multi-scale channel adaptive fusion: three dilations, weighted and fused."""
    near = conv(x, filters // 2, name=f"{name}_near")
    mid = conv(x, filters // 4, dilation_rate=3, name=f"{name}_mid")
    far = conv(x, filters // 4, dilation_rate=5, name=f"{name}_far")
    x = layers.Concatenate(name=f"{name}_concat")([near, mid, far])
    x = attention(name=f"{name}_attention")(x)
    x = conv(x, filters, 1, name=f"{name}_fuse")
    return layers.Dropout(rate, name=f"{name}_drop")(x)


def _pff(pyramid, filters, *, conv, enlarge, name):
    """Pyramid feature fusion of four maps, the coarsest first."""
    shares = (filters // 8, filters // 8, filters // 4, filters // 2)
    maps = []
    for level, (x, share) in enumerate(zip(pyramid, shares, strict=True)):
        x = conv(x, share, 1, name=f"{name}{level}")
        if level < LEVELS - 1:
            x = enlarge(2 ** (LEVELS - 1 - level), name=f"{name}{level}_up")(x)
        maps.append(x)
    return layers.Concatenate(name=f"{name}_concat")(maps)


def _plain_conv(x, filters, kernel_size=3, *, name, dilation_rate=1):
    """The authors' unit: no bias."""
    x = layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=False,
        dilation_rate=dilation_rate,
        name=f"{name}_conv",
    )(x)
    return _bn_relu(x, name=name)


def _depthwise_conv(x, filters, *, name):
    """The authors' 7x7 convolution of one group for each channel that enters."""
    x = layers.DepthwiseConv2D(
        7,
        padding="same",
        depth_multiplier=filters // x.shape[-1],
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    return _bn_relu(x, name=name)


def _bn_relu(x, *, name):
    x = BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
    return ReLU(name=f"{name}_relu")(x)
