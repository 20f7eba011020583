"""SA-UNetv2, the steps of its ablation, and the U-Net of its table.

Paper: Guo et al., "SA-UNetv2: Rethinking Spatial Attention U-Net for Retinal
Vessel Segmentation", 2025, https://arxiv.org/abs/2509.11774. Code read:
https://github.com/clguo/SA-UNetv2, sa-unetv2-for-drive.ipynb at f5c9bb5 and
sa-unetv2-for-stare.ipynb at 4eea4d8; `sa_unet_v2`, `sa_unet_gn_silu` (there the
branch "SAUNet") and, with 16 filters, `unet_32` give its outputs.

                         levels          bottleneck       skip connections
    sa_unet_gn_silu      16/32/64        128, attention   plain
    sa_unet_v2_narrow    16/32/48        64, attention    plain
    sa_unet_v2_skip_sa   16/32/48        64, attention    spatial attention
    sa_unet_v2           16/32/48        64, attention    cross-scale attention
    unet_32              32/64/128/256   512              plain

Unit: conv 3x3 (he_normal), DropBlock, GroupNorm of 8 groups, SiLU. The transposed
convolutions start by he_normal in `sa_unet_gn_silu`, by Keras's default elsewhere.
Where paper and code differ, the code: the transposed convolutions of "2x2" are 3x3.
Departures: none known in the graph.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import conv_drop_gn_silu, image_input, up_conv, vessel_map
from saunet.layers import CrossScaleSpatialAttention, SpatialAttention

NARROW = (16, 32, 48, 64)


def sa_unet_v2(
    input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="sa_unet_v2"
):
    """SA-UNetv2: a narrow SA-UNet whose skips are gated across scales.

    Args:
        input_shape: `(H, W, 3)`, multiples of 8 or `None`; RGB in [0, 1].
        rate: Share dropped by DropBlock.
        block_size: Side of a dropped block.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    return _u_net(input_shape, NARROW, rate, block_size, gate=_cross_scale, name=name)


def sa_unet_v2_skip_sa(
    input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="sa_unet_v2_skip_sa"
):
    """Ablation: each skip connection is gated by its own spatial attention."""
    return _u_net(input_shape, NARROW, rate, block_size, gate=_own_scale, name=name)


def sa_unet_v2_narrow(
    input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="sa_unet_v2_narrow"
):
    """Ablation: 16/32/48/64 filters, plain skip connections."""
    return _u_net(input_shape, NARROW, rate, block_size, gate=_plain, name=name)


def sa_unet_gn_silu(
    input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="sa_unet_gn_silu"
):
    """Ablation: SA-UNet with GroupNorm and SiLU ("SA-UNet, 0.54 M, 26.54 G")."""
    filters = (16, 32, 64, 128)
    up = partial(up_conv, kernel_initializer="he_normal")
    return _u_net(input_shape, filters, rate, block_size, up=up, gate=_plain, name=name)


def unet_32(
    input_shape=(None, None, 3), *, filters=32, rate=0.15, block_size=7, name="unet_32"
):
    """The "U-Net, 8.64 M, 137.10 G" row: five widths from `filters`, doubling."""
    widths = tuple(filters * 2**level for level in range(5))
    return _u_net(
        input_shape, widths, rate, block_size, attention=False, gate=_plain, name=name
    )


def _u_net(
    input_shape, filters, rate, block_size, *, attention=True, up=up_conv, gate, name
):
    """The skeleton of the five networks; the last of `filters` is the bottleneck."""
    unit = partial(conv_drop_gn_silu, rate=rate, block_size=block_size)
    *levels, bottleneck = filters
    inputs = image_input(input_shape, poolings=len(levels))
    x, skips = inputs, []
    for level, width in enumerate(levels):
        x = unit(x, width, name=f"down{level}_a")
        x = unit(x, width, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, bottleneck, name="bottleneck_a")
    if attention:
        x = SpatialAttention(7, name="bottleneck_attention")(x)
    x = unit(x, bottleneck, name="bottleneck_b")

    for level, width in reversed(list(enumerate(levels))):
        x = up(x, width, name=f"up{level}")
        skip = gate(skips[level], x, name=f"up{level}_gate")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skip])
        x = unit(x, width, name=f"up{level}_a")
        x = unit(x, width, name=f"up{level}_b")

    outputs = vessel_map(x, kernel_initializer="he_normal")
    return keras.Model(inputs, outputs, name=name)


def _plain(skip, up, *, name):
    return skip


def _own_scale(skip, up, *, name):
    return SpatialAttention(7, name=name)(skip)


def _cross_scale(skip, up, *, name):
    return CrossScaleSpatialAttention(7, name=name)([skip, up])
