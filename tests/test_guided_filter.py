"""The attention-guided filter against a literal oracle, and its pieces."""

import keras
import numpy as np
import pytest
from helpers import generator, gradients, on_tensorflow
from keras import layers, ops

from saunet.layers import AttentionGuidedFilter, VesselProbability


def box(x, radius):
    """Sums over windows cut at the border, one by one."""
    y = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape[1:3]):
        rows = slice(max(i - radius, 0), i + radius + 1)
        columns = slice(max(j - radius, 0), j + radius + 1)
        y[:, i, j] = x[:, rows, columns].sum(axis=(1, 2))
    return y


def bilinear(x, height, width):
    """PyTorch's `align_corners=False`: half-pixel centres, no antialiasing."""

    def weights(old, new):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old)))

    rows, columns = weights(x.shape[1], height), weights(x.shape[2], width)
    return np.einsum("ih,jw,nhwc->nijc", rows, columns, x)


def oracle(x, y, attention, guide, *, radius=2, epsilon=1e-2):
    x, y, attention = (np.float64(v) for v in (x, y, attention))
    n = box(np.ones((1, *x.shape[1:3], 1)), radius)
    a = np.abs(attention) + 1e-12
    t = a / a.sum()

    def mean(v):
        return box(v, radius) / n

    mean_tax, mean_ax, mean_ay = mean(t * a * x), mean(a * x), mean(a * y)
    slope = mean(a * a * x * y) - n * mean_tax * mean_ay
    slope = slope / (np.abs(mean(a * a * x * x) - n * mean_tax * mean_ax) + epsilon)
    intercept = (mean_ay - slope * mean_ax) / mean(a)
    size = guide.shape[1:3]
    return bilinear(mean(slope), *size) * guide + bilinear(mean(intercept), *size)


def draws(height, width, guide=None, n=2, channels=3):
    random = generator("guided", height, width)
    guide = guide or (2 * height, 2 * width)
    small = [random.standard_normal((n, height, width, channels)) for _ in range(2)]
    attention = random.random((n, height, width, 1))
    large = random.standard_normal((n, *guide, channels))
    return [v.astype("float32") for v in (*small, attention, large)]


@pytest.mark.parametrize(
    ("height", "width", "guide"),
    [(8, 8, None), (5, 9, None), (2, 3, None), (1, 1, None), (6, 4, (13, 7))],
)
def test_the_filter_is_the_oracle(height, width, guide):
    inputs = draws(height, width, guide)
    got = AttentionGuidedFilter()(inputs)
    np.testing.assert_allclose(got, oracle(*inputs), atol=2e-5)


def test_radius_and_epsilon_are_used():
    inputs = draws(7, 9)
    got = AttentionGuidedFilter(1, epsilon=0.3)(inputs)
    np.testing.assert_allclose(got, oracle(*inputs, radius=1, epsilon=0.3), atol=2e-5)


def test_it_serves_unknown_sizes():
    kinds = [(None, None, 3), (None, None, 3), (None, None, 1), (None, None, 3)]
    maps = [keras.Input(kind) for kind in kinds]
    model = keras.Model(maps, AttentionGuidedFilter(name="filter")(maps))
    assert model.output_shape == (None, None, None, 3)
    inputs = draws(5, 6)
    np.testing.assert_allclose(model(inputs), oracle(*inputs), atol=2e-5)


def test_a_flat_guide_passes_the_weighed_mean_on():
    x, y, attention, guide = draws(6, 8)
    y[:] = 3
    got = AttentionGuidedFilter()([0 * x, y, attention, 0 * guide])
    np.testing.assert_allclose(got, 3, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64")
@pytest.mark.parametrize("value", [0.0, 1e-7, 1.0])
def test_no_attention_anywhere_or_all_of_it_is_finite(value):
    x, y, attention, guide = draws(6, 8)
    attention[:] = value
    attention[:, 3:] = 1  # beside it: what a difference of sums would lose
    inputs = [x, y, attention, guide]
    np.testing.assert_allclose(
        AttentionGuidedFilter()(inputs), oracle(*inputs), atol=1e-4
    )
    inputs[2] = np.full_like(attention, value)
    np.testing.assert_allclose(
        AttentionGuidedFilter()(inputs), oracle(*inputs), atol=1e-4
    )


@on_tensorflow
def test_gradients_are_the_finite_differences():
    inputs = draws(4, 5, n=1, channels=2)
    upstream = generator("upstream").standard_normal(inputs[3].shape)
    tensors = [ops.convert_to_tensor(v) for v in inputs]
    layer = AttentionGuidedFilter()
    found = gradients(
        lambda: ops.sum(layer(tensors) * upstream.astype("float32")), tensors
    )
    for i, gradient in enumerate(found):
        direction = generator("direction", i).standard_normal(inputs[i].shape)

        def value(step, i=i, direction=direction):
            moved = [np.float64(v) for v in inputs]
            moved[i] = moved[i] + step * direction
            return (oracle(*moved) * upstream).sum()

        want = (value(1e-6) - value(-1e-6)) / 2e-6
        assert (gradient * direction).sum() == pytest.approx(want, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_fits_in_float64(policy):
    inputs = draws(6, 8)
    got = AttentionGuidedFilter(dtype=policy)(inputs)
    low = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(got.dtype) == low
    # The exact result for the rounded inputs, rounded once.
    rounded = [np.asarray(ops.cast(ops.cast(v, low), "float32")) for v in inputs]
    got = np.asarray(ops.cast(got, "float32"))
    np.testing.assert_allclose(got, oracle(*rounded), rtol=5e-3, atol=1e-4)


def test_wrong_channels_are_refused():
    x, y, attention, guide = draws(4, 4)
    with pytest.raises(ValueError, match="with C, C, 1 and C channels"):
        AttentionGuidedFilter()([x, y[..., :2], attention, guide])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3), (1, 7)])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_keras_enlarges_bilinearly_as_the_authors_framework(height, width, size):
    x = generator("resize", height, width).standard_normal((1, height, width, 2))
    x = x.astype("float32")
    want = bilinear(x, height * size, width * size)
    got = layers.UpSampling2D(size, interpolation="bilinear")(x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    odd = (2 * height + 3, 3 * width + 1)
    got = ops.image.resize(x, odd, data_format="channels_last")
    np.testing.assert_allclose(got, bilinear(x, *odd), atol=1e-5)


def test_the_vessel_probability_is_the_softmax_of_class_one():
    logits = np.array([[[[0.0, 0.0], [1.0, 3.0], [-400.0, 400.0]]]], "float32")
    want = [0.5, 1 / (1 + np.exp(-2)), 1.0]
    got = np.asarray(VesselProbability()(logits))
    assert got.shape == (1, 1, 3, 1)
    np.testing.assert_allclose(got.ravel(), want, atol=1e-6)
    # Of a list, the last.
    np.testing.assert_array_equal(VesselProbability()([0 * logits, logits]), got)
    assert VesselProbability().compute_output_shape((2, None, 4, 2)) == (2, None, 4, 1)
