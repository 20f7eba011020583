"""LadderNet: two U-Nets in a chain, joined at every level.

Paper: Zhuang, "LadderNet: Multi-path networks based on U-Net for medical image
segmentation", 2018, https://arxiv.org/abs/1810.07810. Code read:
https://github.com/juntang-zhuang/LadderNet, src/LadderNetv65.py at e978369 and
src/retinaNN_training.py at 46f0640 (4 levels of 10/20/40/80 channels, 160 below).

From the paper and the code: residual blocks whose two convolutions share weights,
with a dropout of channels of 0.25 between them; strided 3x3 convolutions in the
place of poolings; skips are added, not concatenated; the second U-Net receives the
first one's decoder map at each level.
Departures: RGB instead of a grey patch; one sigmoid instead of a softmax over two
classes, which is the same function of the difference of its logits. A strided
convolution pads bottom and right here and top and left there, so the two are
mirror images of each other.
Inferred: nothing in the graph; the kernels start from he_normal instead of
PyTorch's default.
"""

from functools import partial

import keras
from keras import layers

from saunet.blocks import image_input, vessel_map
from saunet.layers import SharedResidualBlock

FILTERS = 10
LEVELS = 4


def ladder_net(input_shape=(None, None, 3), *, rate=0.25, name="ladder_net"):
    """LadderNet: encoder, decoder, encoder, decoder, joined at every level.

    Args:
        input_shape: `(H, W, 3)`, multiples of 16 or `None`; RGB in [0, 1].
        rate: Share of the channels dropped inside each residual block.
        name: Name of the `keras.Model`.

    Returns:
        A `keras.Model` from `(N, H, W, 3)` to `(N, H, W, 1)` in [0, 1].
    """
    block = partial(SharedResidualBlock, rate)
    inputs = image_input(input_shape, poolings=LEVELS)
    x = layers.Conv2D(
        FILTERS,
        3,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name="first_in",
    )(inputs)
    x, downs = _encode(x, [], block=block, name="first")
    x, ups = _decode(x, downs, block=block, name="first")

    x = block(name="second_in")(x)
    x, downs = _encode(x, ups, block=block, name="second")
    x, _ = _decode(x, downs, block=block, name="second")
    return keras.Model(inputs, vessel_map(x), name=name)


def _encode(x, rungs, *, block, name):
    """Returns the lowest map and those of each level; `rungs` are added on the way."""
    downs = []
    for level in range(LEVELS):
        if rungs:
            x = layers.Add(name=f"{name}_down{level}_rung")([x, rungs[level]])
        x = block(name=f"{name}_down{level}")(x)
        downs.append(x)
        x = layers.Conv2D(
            FILTERS * 2 ** (level + 1),
            3,
            strides=2,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}_down{level}_conv",
        )(x)
    return block(name=f"{name}_bottom")(x), downs


def _decode(x, downs, *, block, name):
    """Returns the decoder's last map, and those of each level, the finest first."""
    ups = []
    for level in reversed(range(LEVELS)):
        x = layers.Conv2DTranspose(
            FILTERS * 2**level,
            3,
            strides=2,
            padding="same",
            name=f"{name}_up{level}_conv",
        )(x)
        x = layers.Add(name=f"{name}_up{level}_skip")([x, downs[level]])
        x = block(name=f"{name}_up{level}")(x)
        ups.insert(0, x)
    return x, ups
