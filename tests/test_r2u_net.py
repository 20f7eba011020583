"""R2U-Net: the recurrence against an oracle in loops, and the unit around it."""

import keras
import numpy as np
import pytest
from reference.convolution import convolve, relu

from saunet.layers import RecurrentConv2D
from saunet.models import build_model
from saunet.profiling import count_flops


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_recurrent_convolution_is_the_oracle(steps):
    rng = np.random.default_rng(steps)
    x = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    layer = RecurrentConv2D(4, steps=steps)
    layer.build(x.shape)
    forward, bias, recurrent = weights = [
        rng.standard_normal(w.shape) / 4 for w in layer.weights
    ]
    layer.set_weights(weights)
    fed = convolve(x, forward, bias)
    y = relu(fed)
    for _ in range(steps):
        y = relu(fed + convolve(y, recurrent))
    np.testing.assert_allclose(layer(x), y, rtol=1e-4, atol=1e-4)


def test_more_steps_need_no_more_weights():
    for steps in (2, 3):
        model = build_model("r2u_net", steps=steps)
        assert model.count_params() == 1_099_217
        units = [x for x in model.layers if isinstance(x, RecurrentConv2D)]
        assert [x.steps for x in units] == [steps] * 14


def test_recurrent_convolution_flops_by_hand():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, RecurrentConv2D(4, steps=2)(inputs))
    # 15 pixels of 4 channels: 3 -> 4 with bias, then twice 4 -> 4 and a sum
    assert count_flops(model, (3, 5, 3)) == 60 * (54 + 1 + 2 * (72 + 1))


def test_a_unit_adds_what_it_recurs_to_its_input():
    """With kernels of 0 the recurrence is relu(0): the 1x1 convolution remains."""
    model = build_model("r2u_net", (8, 8, 3))
    for part in "ab":
        for weight in model.get_layer(f"down0_{part}").weights:
            weight.assign(np.zeros(weight.shape))
    kernel, bias = model.get_layer("down0_width").get_weights()
    x = np.random.default_rng(0).random((1, 8, 8, 3), "float32")
    part = keras.Model(model.input, model.get_layer("down0_add").output)
    np.testing.assert_allclose(part(x), x @ kernel[0, 0] + bias, atol=1e-5)
