"""CBAM-UNet: channel attention against an oracle, and the graph around it."""

import keras
import numpy as np
import pytest
from reference.attention import sigmoid
from reference.convolution import relu

from saunet.layers import ChannelAttention, SpatialAttention
from saunet.models import build_model
from saunet.profiling import count_flops


def channel_attention(x, hidden, hidden_bias, gate, gate_bias):
    """The slides' `channel_attention`, its two Dense layers shared."""

    def shared(v):
        return relu(v @ hidden + hidden_bias) @ gate + gate_bias

    weight = sigmoid(shared(x.mean(axis=(1, 2))) + shared(x.max(axis=(1, 2))))
    return x * weight[:, None, None, :]


def test_channel_attention_is_the_oracle():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 7, 16)).astype("float32")
    layer = ChannelAttention(8)
    layer.build(x.shape)
    weights = [rng.standard_normal(w.shape) for w in layer.weights]
    layer.set_weights(weights)
    assert [w.shape for w in weights] == [(16, 2), (2,), (2, 16), (16,)]
    expected = channel_attention(x, *weights)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_channel_attention_by_hand():
    """Gates of weight 1: sigmoid(relu(mean) + relu(max)) of one channel."""
    layer = ChannelAttention(1)
    layer.build((1, 2, 1, 1))
    one, zero = np.ones((1, 1)), np.zeros(1)
    layer.set_weights([one, zero, one, zero])
    x = np.array([1.0, 3.0], "float32").reshape(1, 2, 1, 1)
    expected = x / (1 + np.exp(-(2.0 + 3.0)))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6)


@pytest.mark.parametrize("channels", [4, None])
def test_channel_attention_refuses_a_map_without_a_hidden_unit(channels):
    with pytest.raises(ValueError, match=f"ratio=8.* {channels} channels: lower"):
        ChannelAttention(8).build((None, 4, 4, channels))


def test_channel_attention_flops_by_hand():
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, ChannelAttention(4)(inputs))
    # mean 120, max 120 - 8, product 120; twice 8 -> 2 and 2 -> 8 with bias, a sum
    dense = (2 * 8 + 1) * 2 + (2 * 2 + 1) * 8
    assert count_flops(model, (3, 5, 8)) == 352 + 2 * dense + 8


@pytest.fixture(scope="module")
def model():
    return build_model("cbam_unet", rate=0.3)


def test_the_encoder_mixes_coarse_and_fine_features(model):
    kernels = {
        layer.name: layer.kernel_size
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.name.startswith("down")
    }
    assert [k for n, k in kernels.items() if n.startswith("down0")] == [(3, 3)] * 2
    for level in (1, 2):
        for part in "ab":
            name = f"down{level}_{part}"
            assert kernels[f"{name}_fine_a_conv"] == (3, 1)
            assert kernels[f"{name}_fine_b_conv"] == (1, 3)
            assert kernels[f"{name}_coarse_a_conv"] == (7, 7)
            assert kernels[f"{name}_coarse_b_conv"] == (1, 1)
            assert kernels[f"{name}_fuse_conv"] == (1, 1)
            concat = model.get_layer(f"{name}_concat")
            assert [tensor.shape[-1] for tensor in concat.input] == [16 * 2**level] * 2


def test_the_bottleneck_attends_to_channels_first(model):
    kinds = [type(layer) for layer in model.layers]
    assert kinds.index(ChannelAttention) + 1 == kinds.index(SpatialAttention)


def test_rate_reaches_every_dropout(model):
    rates = [
        layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)
    ]
    # level 1 down, bottleneck, three levels up
    assert rates == [0.3] * (2 + 2 + 6)
