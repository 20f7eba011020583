"""R2U-Net, the recurrent residual U-Net.

Paper: Alom et al., "Recurrent Residual Convolutional Neural Network based on U-Net
(R2U-Net) for Medical Image Segmentation", 2018, https://arxiv.org/abs/1802.06955.

From the paper: each place of a U-Net is a recurrent residual unit, two recurrent
convolutions of t = 2 steps whose sum with the unit's input goes on; a recurrence
is relu(w_f x + w_r y + b) with the same w_r at every step; skips are concatenated.
Inferred: the widths (16/32/64 and 128, those of the networks it is compared with
here), the 1x1 convolution that brings a unit's input to its width, batch
normalisation after each recurrent convolution, the 3x3 up-convolution. The
authors' network has no public code; a known port shares w_f and w_r, against
equation 1. The 1,099,217 parameters follow from these widths; no count of the
paper's was checked against them.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import image_input, up_conv, vessel_map
from saunet.layers import BatchNormalization, RecurrentConv2D

LEVELS = 3


def r2u_net(input_shape=(None, None, 3), *, steps=2, name="r2u_net"):
    """R2U-Net: a U-Net of recurrent residual units.

    Args:
        input_shape: `(H, W, 3)`, multiples of 8 or `None`; RGB in [0, 1].
        steps: Recurrences of each convolution, the paper's t (2 or 3).
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    unit = partial(_recurrent_residual, steps=steps)
    inputs = image_input(input_shape, poolings=LEVELS)
    x, skips = inputs, []
    for level in range(LEVELS):
        x = unit(x, 16 * 2**level, name=f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = unit(x, 16 * 2**LEVELS, name="bottleneck")

    for level in reversed(range(LEVELS)):
        x = up_conv(x, 16 * 2**level, name=f"up{level}")
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = unit(x, 16 * 2**level, name=f"up{level}")

    return keras.Model(inputs, vessel_map(x), name=name)


def _recurrent_residual(x, filters, *, steps, name):
    x = layers.Conv2D(filters, 1, name=f"{name}_width")(x)
    residual = x
    for part in "ab":
        residual = RecurrentConv2D(filters, steps=steps, name=f"{name}_{part}")(
            residual
        )
        residual = BatchNormalization(name=f"{name}_{part}_bn")(residual)
    return layers.Add(name=f"{name}_add")([x, residual])
