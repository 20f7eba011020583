"""RSAN, the residual spatial attention network, and its ablation rows.

Paper: Guo et al., "Residual Spatial Attention Network for Retinal Vessel
Segmentation", ICONIP 2020, https://arxiv.org/abs/2009.08829. Code read:
https://github.com/clguo/RSAN, RSAN.py at 2795768 and layer.py at 4e7e04e.

                               DropBlock    spatial attention
    rsan_backbone              no           no
    rsan_backbone_dropblock    yes          no
    rsan                       yes          yes, 7 of them

Each of the seven places (16/32/64 down, 128, 64/32/16 up) is a residual block and
a residual spatial attention block (RSAB); both start with BN and ReLU, and the RSAB
ends with them, too.

Where paper and code differ, the code: equation 4 joins [maximum, mean], the code's
attention [mean, maximum]; the transposed convolutions of "2x2" are 3x3.

Inferred: the rows without attention keep the RSAB's last BN and ReLU; the paper's
numbers of parameters agree.
Departures: none known in the graph. The paper's "keep probability .85" (DRIVE) and
".78" (CHASE_DB1) are `rate=0.15` and `rate=0.22` here.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import image_input, up_conv, vessel_map
from saunet.layers import BatchNormalization, DropBlock2D, ReLU, SpatialAttention

LEVELS = 3


def rsan_backbone(input_shape=(None, None, 3), *, name="rsan_backbone"):
    """Ablation "Backbone": neither DropBlock nor attention."""
    return _rsan(input_shape, _bn_relu_conv, attention=False, name=name)


def rsan_backbone_dropblock(
    input_shape=(None, None, 3),
    *,
    rate=0.15,
    block_size=7,
    name="rsan_backbone_dropblock",
):
    """Ablation "Backbone+DropBlock": no attention."""
    unit = partial(_bn_relu_conv_drop, rate=rate, block_size=block_size)
    return _rsan(input_shape, unit, attention=False, name=name)


def rsan(input_shape=(None, None, 3), *, rate=0.15, block_size=7, name="rsan"):
    """RSAN: residual blocks with DropBlock and spatial attention.

    Args:
        input_shape: `(H, W, 3)`, multiples of 8 or `None`; RGB in [0, 1].
        rate: Share dropped by DropBlock, `1 - keep_prob`.
        block_size: Side of a dropped block.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    unit = partial(_bn_relu_conv_drop, rate=rate, block_size=block_size)
    return _rsan(input_shape, unit, attention=True, name=name)


def _rsan(input_shape, unit, *, attention, name):
    """The skeleton of the three networks; `unit` ends with or without DropBlock."""
    inputs = image_input(input_shape, poolings=LEVELS)
    x, skips = inputs, []
    for level in range(LEVELS):
        x = _residual_block(x, 16 * 2**level, unit=unit, name=f"down{level}_a")
        x = _rsab(x, unit=unit, attention=attention, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = _residual_block(x, 16 * 2**LEVELS, unit=unit, name="bottleneck_a")
    x = _rsab(x, unit=unit, attention=attention, name="bottleneck_b")

    for level in reversed(range(LEVELS)):
        x = up_conv(x, 16 * 2**level, name=f"up{level}")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = _residual_block(x, 16 * 2**level, unit=unit, name=f"up{level}_a")
        x = _rsab(x, unit=unit, attention=attention, name=f"up{level}_b")

    return keras.Model(inputs, vessel_map(x), name=name)


def _residual_block(x, filters, *, unit, name):
    """Two units and a shortcut, which is a 1x1 convolution if the width changes."""
    residual = unit(x, filters, name=f"{name}1")
    residual = unit(residual, filters, name=f"{name}2")
    if x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    # In this order the shortcut comes after the second unit in a legacy file.
    return layers.Add(name=f"{name}_add")([residual, x])


def _rsab(x, *, unit, attention, name):
    """Residual spatial attention block: the residual is gated before it is added."""
    residual = unit(x, x.shape[-1], name=f"{name}1")
    residual = unit(residual, x.shape[-1], name=f"{name}2")
    if attention:
        residual = SpatialAttention(7, name=f"{name}_attention")(residual)
    x = layers.Add(name=f"{name}_add")([x, residual])
    return _bn_relu(x, name=f"{name}_out")


def _bn_relu_conv_drop(x, filters, *, rate, block_size, name):
    x = _bn_relu_conv(x, filters, name=name)
    return DropBlock2D(rate, block_size, name=f"{name}_drop")(x)


def _bn_relu_conv(x, filters, *, name):
    x = _bn_relu(x, name=name)
    return layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)


def _bn_relu(x, *, name):
    x = BatchNormalization(momentum=0.9, epsilon=2e-5, name=f"{name}_bn")(x)
    return ReLU(name=f"{name}_relu")(x)
