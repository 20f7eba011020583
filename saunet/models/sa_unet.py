"""SA-UNet and its ablation rows.

Paper: Guo et al., "SA-UNet: Spatial Attention U-Net for Retinal Vessel
Segmentation", ICPR 2020, https://arxiv.org/abs/2004.03696; SD-Unet is Guo et al.
2019. Code read: https://github.com/clguo/SA-UNet, SA_UNet.py at b9f9c1c.

                unit                          levels             bottleneck
    unet_23     conv, ReLU                    16/32/64/128       256
    unet_18     conv, ReLU                    16/32/64           128
    unet_18_sa  conv, ReLU                    16/32/64           128, attention
    sd_unet     conv, DropBlock, ReLU         16/32/64           128
    backbone *  conv, DropBlock, BN, ReLU     16/32/64           128
    sa_unet     conv, DropBlock, BN, ReLU     16/32/64           128, attention

* `sa_unet_backbone`. Where paper and code differ, the code: the transposed convolutions
of "2x2" are 3x3.
Departures: none known in the graph. The paper's "keep probability .82" (DRIVE)
and ".87" (CHASE_DB1) are `rate=0.18` and `rate=0.13` here.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import (
    conv_drop_bn_relu,
    conv_drop_relu,
    conv_relu,
    image_input,
    up_conv,
    vessel_map,
)
from saunet.layers import SpatialAttention


def unet_23(input_shape=(None, None, 3), *, name="unet_23"):
    """The paper's "23 layers U-Net": four poolings, no normalisation."""
    return _u_net(input_shape, conv_relu, levels=4, attention=False, name=name)


def unet_18(input_shape=(None, None, 3), *, name="unet_18"):
    """The paper's "18 layers U-Net"."""
    return _u_net(input_shape, conv_relu, levels=3, attention=False, name=name)


def unet_18_sa(input_shape=(None, None, 3), *, name="unet_18_sa"):
    """The paper's "U-Net + SA"."""
    return _u_net(input_shape, conv_relu, levels=3, attention=True, name=name)


def sd_unet(input_shape=(None, None, 3), *, rate=0.1, block_size=7, name="sd_unet"):
    """SD-Unet: DropBlock after each convolution, keep probability .9."""
    unit = partial(conv_drop_relu, rate=rate, block_size=block_size)
    return _u_net(input_shape, unit, levels=3, attention=False, name=name)


def sa_unet_backbone(
    input_shape=(None, None, 3), *, rate=0.18, block_size=7, name="sa_unet_backbone"
):
    """The paper's "Backbone": SA-UNet without the attention."""
    unit = partial(conv_drop_bn_relu, rate=rate, block_size=block_size)
    return _u_net(input_shape, unit, levels=3, attention=False, name=name)


def sa_unet(input_shape=(None, None, 3), *, rate=0.18, block_size=7, name="sa_unet"):
    """SA-UNet: the Backbone with spatial attention in the bottleneck.

    Args:
        input_shape: `(H, W, 3)`, multiples of 8 or `None`; RGB in [0, 1].
        rate: Share dropped by DropBlock, `1 - keep_prob`.
        block_size: Side of a dropped block.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    unit = partial(conv_drop_bn_relu, rate=rate, block_size=block_size)
    return _u_net(input_shape, unit, levels=3, attention=True, name=name)


def _u_net(input_shape, unit, *, levels, attention, name):
    """The skeleton that the six networks share; `unit` is their only other part."""
    inputs = image_input(input_shape, poolings=levels)
    x, skips = inputs, []
    for level in range(levels):
        x = unit(x, 16 * 2**level, name=f"down{level}_a")
        x = unit(x, 16 * 2**level, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, 16 * 2**levels, name="bottleneck_a")
    if attention:
        x = SpatialAttention(7, name="bottleneck_attention")(x)
    x = unit(x, 16 * 2**levels, name="bottleneck_b")

    for level in reversed(range(levels)):
        x = up_conv(x, 16 * 2**level, name=f"up{level}")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = unit(x, 16 * 2**level, name=f"up{level}_a")
        x = unit(x, 16 * 2**level, name=f"up{level}_b")

    return keras.Model(inputs, vessel_map(x), name=name)
