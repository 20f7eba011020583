"""AG-Net: a guided filter, weighed by attention, in place of each skip connection.

Paper: Zhang et al., "Attention Guided Network for Retinal Image Segmentation",
MICCAI 2019, https://arxiv.org/abs/1907.12930. Code read:
https://github.com/HzFu/AGNet at c99c50b; this network gives its outputs.

The network has four side outputs of two classes, at the decoder's levels 1/8, 1/4,
1/2 and 1 (the code's side 5, 6, 7 and 8; layers `side3`, `side2`, `side1` and `side0`
here), and their mean. The authors train on the
sum of five losses and test on side 8. `outputs` chooses:

    "mean"      (N, H, W, 1): the mean's vessel class. The default: one map, on which
                every one of the 9,335,340 weights has an influence
    "all"       [mean, side 5, side 6, side 7, side 8], for the authors' training
    "side_8"    (N, H, W, 1): side 8 alone, for the authors' test; the other sides'
                weights are kept, so that a file fits every choice

Departures: a side's 1x1 convolution comes before its enlarging, the same linear map
at a fraction of the cost; Keras's initialisation; any size, not only squares; an image
is RGB in [0, 1], where the authors' weights are used to BGR in [0, 255].
"""

import keras
from keras import layers

from saunet.blocks import conv_relu, image_input
from saunet.errors import InputError
from saunet.layers import (
    AttentionGuidedFilter,
    GroupNormalization,
    ReLU,
    VesselProbability,
)

LEVELS = 4


def ag_net(input_shape=(None, None, 3), *, outputs="mean", name="ag_net"):
    """AG-Net.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        outputs: `"mean"`, `"all"` or `"side_8"`: see the head of this file.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1], or to five
        such maps.

    Raises:
        InputError: `outputs` is none of these, or a size that cannot be halved.
    """
    if outputs not in ("mean", "all", "side_8"):
        raise InputError(f"outputs {outputs!r}: pass 'mean', 'all' or 'side_8'")
    inputs = image_input(input_shape, poolings=LEVELS)
    x, guides = inputs, []
    for level in range(LEVELS):
        if level > 0:
            scale = _shrink(inputs, 2**level, name=f"scale{level}")
            scale = conv_relu(scale, 32 * 2**level, name=f"scale{level}")
            x = layers.Concatenate(name=f"down{level}_concat")([scale, x])
        x = _unit(x, 32 * 2**level, name=f"down{level}_a")
        x = _unit(x, 32 * 2**level, name=f"down{level}_b")
        # The finest level has no scaled image: the code repeats its map instead.
        pair = [scale, x] if level > 0 else [x, x]
        guides.append(layers.Concatenate(name=f"guide{level}")(pair))
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)

    x = _plain_unit(x, 32 * 2**LEVELS, name="centre_a")
    x = _plain_unit(x, 32 * 2**LEVELS, name="centre_b")

    sides = []
    for level in reversed(range(LEVELS)):
        x = _guided_up(x, guides[level], name=f"up{level}")
        x = _unit(x, 32 * 2**level, name=f"up{level}_a")
        x = _unit(x, 32 * 2**level, name=f"up{level}_b")
        x = _unit(x, 32 * 2**level, name=f"up{level}_c")
        side = layers.Conv2D(2, 1, name=f"side{level}_conv")(x)
        sides.append(
            layers.UpSampling2D(
                2**level, interpolation="bilinear", name=f"side{level}_logits"
            )(side)
        )
    mean = layers.Average(name="mean_logits")(sides)

    if outputs == "mean":
        maps = _vessels(mean, name="vessels")
    elif outputs == "side_8":
        maps = _vessels([mean, *sides], name="vessels")
    else:
        names = ["mean", "side3", "side2", "side1", "side0"]
        maps = [
            _vessels(logits, name=f"{name}_vessels")
            for logits, name in zip([mean, *sides], names, strict=True)
        ]
    return keras.Model(inputs, maps, name=name)


def _unit(x, filters, *, name):
    """Convolution 3x3 without bias, group normalisation, ReLU."""
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(
        x
    )
    x = GroupNormalization(32, epsilon=1e-4, name=f"{name}_gn")(x)
    return ReLU(name=f"{name}_relu")(x)


def _plain_unit(x, filters, *, name):
    """The centre's unit: convolution 3x3 without bias, ReLU."""
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(
        x
    )
    return ReLU(name=f"{name}_relu")(x)


def _shrink(image, factor, *, name):
    """Shrinks bilinearly by an even factor: the mean of each block's middle four.

    Pixel i is read at `factor * (i + 1/2) - 1/2`, half-way between two pixels.
    """
    x = layers.Cropping2D(factor // 2 - 1, name=f"{name}_crop")(image)
    return layers.AveragePooling2D(2, strides=factor, name=f"{name}_shrink")(x)


def _guided_up(x, guide, *, name):
    """Doubles the map along the guide's edges, where the attention looks."""
    channels = x.shape[-1]
    small = layers.AveragePooling2D(2, name=f"{name}_guide_half")(guide)
    theta = layers.Conv2D(channels, 1, name=f"{name}_theta")(small)
    phi = layers.Conv2D(channels, 1, name=f"{name}_phi")(x)
    attention = layers.Add(name=f"{name}_add")([theta, phi])
    attention = ReLU(name=f"{name}_relu")(attention)
    attention = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_psi")(attention)
    return AttentionGuidedFilter(2, epsilon=1e-2, name=f"{name}_filter")(
        [small, x, attention, guide]
    )


def _vessels(logits, *, name):
    """Vessel probability, in float32 under every dtype policy."""
    return VesselProbability(dtype="float32", name=name)(logits)
