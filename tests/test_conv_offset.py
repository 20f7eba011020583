"""ConvOffset2D: official tensors, a literal oracle, gradients by differences."""

import keras
import numpy as np
import pytest
from helpers import generator, gradients, on_tensorflow
from keras import ops

from saunet.layers import ConvOffset2D, conv_offset

SIZES = [(5, 5), (4, 7), (7, 3), (1, 6), (6, 1), (1, 1)]


def sample(x, offsets):
    return conv_offset.sample(x, offsets[..., 0], offsets[..., 1])


def oracle(x, offsets):
    """Each value from its own place, pixel by pixel, in float64."""
    y = np.zeros(x.shape)
    last = np.array(x.shape[1:3]) - 1
    for n, r, c, k in np.ndindex(*x.shape):
        place = np.clip(np.array([r, c]) + offsets[n, r, c, k], 0, last)
        for i, j in np.ndindex(*x.shape[1:3]):
            weight = np.maximum(0, 1 - np.abs(place - [i, j])).prod()
            y[n, r, c, k] += weight * x[n, i, j, k]
    return y


def draws(height, width, channels=3, spread=2.0):
    random = generator("conv_offset", height, width)
    x = random.standard_normal((2, height, width, channels))
    offsets = spread * random.standard_normal((2, height, width, channels, 2))
    return x.astype("float32"), offsets.astype("float32")


@pytest.mark.data
@pytest.mark.parametrize("layout", ["paired", "reference"])
def test_official_tensors(layout, shared):
    path = shared("conformance") / f"conv_offset_2d_{layout}_layout.npz"
    with np.load(path) as tensors:
        x, kernel, y = (tensors[name] for name in ("x", "kernel", "y"))
    layer = ConvOffset2D(layout)
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    difference = np.abs(np.asarray(layer(x)) - y).max()
    print(f"{layout}: largest difference {difference:.1e}")
    assert difference < 1e-5
    # The other layout is another function.
    other = ConvOffset2D("paired" if layout == "reference" else "reference")
    other.build(x.shape)
    other.kernel.assign(kernel)
    assert np.abs(np.asarray(other(x)) - y).max() > 0.1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sampling_is_the_oracle(height, width):
    x, offsets = draws(height, width)
    np.testing.assert_allclose(sample(x, offsets), oracle(x, offsets), atol=1e-5)


def test_far_places_are_the_border_pixels():
    x, offsets = draws(4, 6)
    far = np.full_like(offsets, 1e6)
    corner = np.broadcast_to(x[:, -1:, -1:], x.shape)
    np.testing.assert_allclose(sample(x, far), corner, atol=1e-6)
    np.testing.assert_allclose(sample(x, -far), x[:, :1, :1] + 0 * x, atol=1e-6)


def test_no_offset_is_the_identity_and_a_whole_one_a_shift():
    x, offsets = draws(5, 4)
    still = np.zeros_like(offsets)
    np.testing.assert_allclose(sample(x, still), x, atol=1e-6)
    still[..., 0] = 1  # row: from the pixel below
    np.testing.assert_allclose(sample(x, still)[:, :-1], x[:, 1:], atol=1e-6)


def test_the_layouts_by_hand():
    x = draws(2, 3)[0]
    kernel = generator("layouts").standard_normal((3, 3, 3, 6)).astype("float32")
    offsets = np.asarray(ops.conv(x, kernel, padding="same"))
    mixed = offsets.transpose(0, 3, 1, 2).reshape(2, 3, 2, 3, 2)
    for layout in ("paired", "reference"):
        layer = ConvOffset2D(layout)
        layer.build(x.shape)
        layer.kernel.assign(kernel)
        for part, shifts in enumerate(layer.shifts(x)):
            for n, r, c, k in np.ndindex(*x.shape):
                paired = offsets[n, r, c, 2 * k + part]
                want = paired if layout == "paired" else mixed[n, k, r, c, part]
                assert float(shifts[n, r, c, k]) == pytest.approx(want, abs=1e-5)


@on_tensorflow
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_gradients_are_the_finite_differences(height, width):
    x, offsets = draws(height, width)
    # Away from whole places, where the slope jumps, and some beyond the border.
    offsets = np.floor(offsets) + 0.2 + 0.6 * (offsets - np.floor(offsets))
    random = generator("upstream", height, width)
    upstream = random.standard_normal(x.shape)
    tensors = [ops.convert_to_tensor(t) for t in (x, offsets)]
    dx, doffsets = gradients(
        lambda: ops.sum(sample(*tensors) * upstream.astype("float32")), tensors
    )

    def slope(along_x, along_offsets, step):
        def value(sign):
            y = oracle(x + sign * step * along_x, offsets + sign * step * along_offsets)
            return (y * upstream).sum()

        return (value(1) - value(-1)) / (2 * step)

    for _ in range(3):
        direction = random.standard_normal(x.shape)
        want = slope(direction, 0, 0.5)  # linear in x
        assert (dx * direction).sum() == pytest.approx(want, abs=1e-3, rel=1e-3)
        direction = np.sign(random.standard_normal(offsets.shape))
        want = slope(0, direction, 1e-5)
        assert (doffsets * direction).sum() == pytest.approx(want, abs=1e-2, rel=1e-3)


@on_tensorflow
def test_offsets_of_zero_can_be_learnt_and_clipped_ones_cannot():
    x, offsets = draws(4, 5)
    for value, learns in [(0.0, True), (50.0, False)]:
        shifts = ops.convert_to_tensor(np.full_like(offsets, value))
        x_tensor = ops.convert_to_tensor(x)
        found = gradients(lambda s=shifts, t=x_tensor: ops.sum(sample(t, s)), [shifts])
        assert bool(np.abs(found[0]).max() > 0) is learns


@on_tensorflow
@pytest.mark.parametrize("layout", ["paired", "reference"])
def test_the_kernel_gets_the_gradient_through_the_layout(layout):
    x = draws(5, 7)[0]
    layer = ConvOffset2D(layout)
    layer.build(x.shape)
    kernel = layer.kernel
    kernel.assign(generator(layout).standard_normal(kernel.shape) / 7)
    tensor = ops.convert_to_tensor(x)
    (found,) = gradients(lambda: ops.mean(ops.square(layer(tensor))), [kernel])
    before = ops.mean(ops.square(layer(tensor)))
    step = 1e-3 / np.abs(found).max()
    kernel.assign(kernel - step * found)
    change = float(ops.mean(ops.square(layer(tensor))) - before)
    assert change == pytest.approx(-step * np.square(found).sum(), rel=0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_places_are_exact_under_mixed_precision(policy):
    # bfloat16 counts to 256: a place beyond would be rounded to its neighbour's.
    x = np.zeros((1, 2, 400, 1), "float32")
    x[..., ::2, :] = 1
    layer = ConvOffset2D(dtype=policy)
    layer.build(x.shape)
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    got = layer(x)
    assert keras.backend.standardize_dtype(got.dtype) == policy.removeprefix("mixed_")
    np.testing.assert_array_equal(ops.cast(got, "float32"), x)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`layout` must be one of"):
        ConvOffset2D("swapped")
    with pytest.raises(ValueError, match="number of channels"):
        ConvOffset2D().build((None, None, None, None))
