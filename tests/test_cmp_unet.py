"""CMP-UNet: its layers against oracles in loops, and both readings of the graph."""

import keras
import numpy as np
import pytest
from keras import ops
from reference.attention import sigmoid
from reference.convolution import relu
from torch_weights import keras_layout

from saunet.layers import AdaptiveChannelAttention, AlignedUpSampling2D
from saunet.layers.adaptive_channel_attention import adaptive_pool
from saunet.models import build_model
from saunet.profiling import count_flops, count_parameters

SIZES = [(5, 5), (12, 7), (3, 16), (1, 2), (11, 13)]


def random(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


def pooled(x, bins, reduce):
    """PyTorch's adaptive pooling, window by window."""
    n, height, width, channels = x.shape
    out = np.zeros((n, bins, bins, channels))
    for i in range(bins):
        for j in range(bins):
            top, bottom = i * height // bins, -(-(i + 1) * height // bins)
            left, right = j * width // bins, -(-(j + 1) * width // bins)
            out[:, i, j] = reduce(x[:, top:bottom, left:right], axis=(1, 2))
    return out


def test_adaptive_windows_by_hand():
    """Seven pixels in three windows: [0, 3), [2, 5), [4, 7)."""
    x = np.arange(7.0, dtype="float32").reshape(1, 1, 7, 1)
    mean = adaptive_pool(x, 3, ops.mean)
    np.testing.assert_allclose(np.ravel(mean), [1, 3, 5] * 3)
    peak = adaptive_pool(x, 3, ops.max)
    np.testing.assert_allclose(np.ravel(peak), [2, 4, 6] * 3)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_adaptive_pooling_is_the_oracle(height, width):
    x = random(2, height, width, 4)
    for ours, theirs in ((ops.mean, np.mean), (ops.max, np.max)):
        np.testing.assert_allclose(
            adaptive_pool(x, 5, ours), pooled(x, 5, theirs), atol=1e-6
        )


def adaptive_channel_attention(x, weights):
    """The authors' module with PyTorch's layout: channels before pixels."""
    n, _, _, channels = x.shape
    bins = int(np.log2(channels))
    grids = [pooled(x, bins, reduce) for reduce in (np.max, np.mean)]
    grids = [g.transpose(0, 3, 1, 2).reshape(n, channels, -1) for g in grids]
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    score = relu(np.concatenate(grids, axis=-1) @ w1 + b1) @ w2 + b2
    weight = sigmoid(relu(score[..., 0] @ w3 + b3) @ w4 + b4)
    return weight[:, None, None, :] * x + x


@pytest.mark.parametrize("channels", [4, 9, 32])
@pytest.mark.parametrize("known", [True, False])
def test_adaptive_channel_attention_is_the_oracle(channels, known):
    x = random(2, 6, 11, channels)
    inputs = keras.Input((*(x.shape[1:3] if known else (None, None)), channels))
    model = keras.Model(inputs, AdaptiveChannelAttention()(inputs))
    weights = [random(*w.shape, 1)[..., 0] for w in model.get_weights()]
    model.set_weights(weights)
    bins = int(np.log2(channels))
    assert weights[0].shape == (2 * bins**2, bins**2 // 2)
    assert weights[4].shape == (channels, channels // 4)
    expected = adaptive_channel_attention(x, weights)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("other", ["grid_drop", "channel_drop"])
def test_each_dropout_of_adaptive_channel_attention_drops_in_training_only(other):
    x = random(1, 8, 8, 32)
    layer = AdaptiveChannelAttention(0.5, seed=0)
    layer.build(x.shape)
    getattr(layer, other).rate = 0
    np.testing.assert_array_equal(layer(x), layer(x))
    assert np.abs(layer(x, training=True) - layer(x)).max() > 1e-4


@pytest.mark.parametrize("channels", [3, None])
def test_adaptive_channel_attention_refuses_too_few_channels(channels):
    with pytest.raises(ValueError, match=f"at least 4 channels, not {channels}"):
        AdaptiveChannelAttention().build((None, 8, 8, channels))


def test_adaptive_channel_attention_flops_by_hand():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, AdaptiveChannelAttention()(inputs))
    # 2 x 2 windows of a 3 x 4 map read (2 + 2) x (2 + 2) pixels of 4 channels
    mean, peak = 64, 64 - 16
    # per channel 8 -> 2 -> 1; then 4 -> 1 -> 4
    grid, excite = 4 * (17 * 2 + 5), 9 * 1 + 3 * 4
    assert count_flops(model, (3, 4, 4)) == mean + peak + grid + excite + 2 * 48


def enlarged(x, size):
    """Bilinear with aligned corners: one-dimensional interpolation, twice."""
    for axis in (1, 2):
        side = x.shape[axis]
        places = np.linspace(0, side - 1, size * side)
        x = np.apply_along_axis(
            lambda line, places=places: np.interp(places, np.arange(len(line)), line),
            axis,
            x,
        )
    return x


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_aligned_up_sampling_is_the_oracle(height, width, size):
    x = random(1, height, width, 3)
    if 1 in x.shape[1:3]:  # `linspace` leaves one pixel as it is
        expected = np.repeat(enlarged(x[:, :1].repeat(2, 1), size)[:, :size], 1, 1)
    else:
        expected = enlarged(x, size)
    got = AlignedUpSampling2D(size)(x)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_aligned_up_sampling_keeps_the_corners_and_knows_unknown_sizes():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, AlignedUpSampling2D(8)(inputs))
    assert model.output_shape == (None, None, None, 2)
    x = random(1, 5, 9, 2)
    y = model.predict(x, verbose=0)
    assert y.shape == (1, 40, 72, 2)
    corners = np.ix_([0], [0, -1], [0, -1], [0, 1])
    np.testing.assert_allclose(y[corners], x[corners], atol=1e-5)


def test_a_depthwise_kernel_keeps_the_groups_of_pytorch():
    """Output o of a grouped convolution reads channel o // (outputs a group)."""
    torch = random(6, 1, 7, 7)
    kernel = keras_layout(torch, (7, 7, 3, 2))
    for output in range(6):
        np.testing.assert_array_equal(
            kernel[:, :, output // 2, output % 2], torch[output, 0]
        )


@pytest.mark.parametrize(
    ("name", "total", "trainable", "wide_kernel"),
    [
        ("cmp_unet_slides", 34_568_769, 34_546_369, (7, 7, 32, 64)),
        ("cmp_unet", 9_094_170, 9_071_770, (7, 7, 32, 2)),  # depthwise
    ],
)
def test_both_readings(name, total, trainable, wide_kernel):
    model = build_model(name)
    assert model.get_layer("down1_a_coarse_a_conv").kernel.shape == wide_kernel
    counts = count_parameters(model)
    assert (counts["total"], counts["trainable"]) == (total, trainable)


def test_the_authors_leave_biases_to_normalisation():
    model = build_model("cmp_unet")
    biased = [layer.name for layer in model.layers if getattr(layer, "use_bias", False)]
    assert biased == ["up3_conv", "up2_conv", "up1_conv", "up0_conv", "vessels_conv"]
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert {(n.epsilon, n.momentum) for n in norms} == {(1e-5, 0.9)}
