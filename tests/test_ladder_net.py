"""LadderNet: the shared residual block against an oracle, and the two ladders."""

from itertools import pairwise

import keras
import numpy as np
from reference.convolution import convolve, relu

from saunet.layers import SharedResidualBlock
from saunet.models import build_model
from saunet.profiling import count_flops


def test_shared_residual_block_is_the_oracle():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 7, 4)).astype("float32")
    layer = SharedResidualBlock()
    layer.build(x.shape)
    kernel, bias = weights = [rng.standard_normal(w.shape) / 4 for w in layer.weights]
    layer.set_weights(weights)
    expected = relu(x + convolve(relu(convolve(x, kernel, bias)), kernel, bias))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_the_dropout_drops_whole_channels():
    """Through identity kernels: relu(x + drop(x)) is x or 3 x for a rate of 0.5."""
    layer = SharedResidualBlock(0.5, seed=1)
    layer.build((1, 6, 6, 16))
    kernel = np.zeros((3, 3, 16, 16))
    kernel[1, 1] = np.eye(16)
    layer.set_weights([kernel, np.zeros(16)])
    y = np.asarray(layer(np.ones((1, 6, 6, 16), "float32"), training=True))
    assert set(np.unique(y)) == {1, 3}
    assert (y == y[:, :1, :1]).all()


def test_shared_residual_block_flops_by_hand():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, SharedResidualBlock()(inputs))
    # 15 pixels of 4 channels: twice 4 -> 4 with bias, and a sum
    assert count_flops(model, (3, 5, 4)) == 60 * (2 * (72 + 1) + 1)


def parameters(channels, classes, *, filters=10, levels=4):
    """The count of the authors' code, block by block."""

    def conv(entering, leaving, side=3):
        return side * side * entering * leaving + leaving

    widths = [filters * 2**level for level in range(levels + 1)]
    block = sum(conv(w, w) for w in widths)  # down and bottom
    block += sum(conv(w, w) for w in widths[:-1])  # up
    steps = sum(conv(a, b) + conv(b, a) for a, b in pairwise(widths))
    ends = conv(channels, filters) + conv(filters, filters)
    return 2 * (block + steps) + ends + conv(filters, classes, 1)


def test_parameters_are_the_code_s_for_a_grey_patch_and_two_classes():
    model = build_model("ladder_net")
    assert model.count_params() == parameters(3, 1) == 1_381_821
    assert parameters(1, 2) == 1_381_821 - 2 * 90 + 11


def test_every_rung_joins_the_two_u_nets():
    model = build_model("ladder_net")
    for level in range(4):
        rung = model.get_layer(f"second_down{level}_rung").input
        sources = {tensor._keras_history.operation.name for tensor in rung}
        assert f"first_up{level}" in sources
    assert model.get_layer("second_in").input is model.get_layer("first_up0").output
