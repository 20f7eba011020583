"""Every layer: generic checks, then hand values and a literal oracle for each."""

import functools
import json

import keras
import numpy as np
import pytest
from helpers import generator, gradients, on_tensorflow
from keras import ops
from reference import attention as attention_oracle
from reference import drop_block as drop_block_oracle

import saunet.layers
from saunet import fused
from saunet.layers import (
    BatchNormalization,
    CrossScaleSpatialAttention,
    DropBlock2D,
    GroupNormalization,
    ReLU,
    SiLU,
    SpatialAttention,
)
from saunet.layers.drop_block import bits_per_word, grow_blocks

# One entry a layer: options other than the defaults, and the inputs' channels.
LAYERS = {
    "AdaptiveChannelAttention": ({"rate": 0.3, "seed": 7}, [8]),
    "AlignedUpSampling2D": ({"size": 2}, [8]),
    "AttentionGuidedFilter": ({"radius": 1, "epsilon": 0.1}, [8, 8, 1, 8]),
    "BatchNormalization": ({"momentum": 0.9, "epsilon": 1e-2}, [8]),
    "ChannelAttention": ({"ratio": 4}, [8]),
    "ConvOffset2D": ({"layout": "reference"}, [8]),
    "CrossScaleSpatialAttention": ({"kernel_size": 5}, [8, 6]),
    "DropBlock2D": ({"rate": 0.3, "block_size": 3, "seed": 7}, [8]),
    "GroupNormalization": ({"groups": 4, "epsilon": 1e-2}, [8]),
    "ReLU": ({}, [8]),
    "RecurrentConv2D": ({"filters": 8, "steps": 3}, [8]),
    "SharedResidualBlock": ({"rate": 0.3, "seed": 7}, [8]),
    "SiLU": ({}, [8]),
    "SpatialAttention": ({"kernel_size": 5}, [8]),
    "VesselProbability": ({}, [2]),
}
# Layers whose output has another size than their (first) input.
ENLARGES = {"AlignedUpSampling2D": 2}
CHANNELS = {"VesselProbability": 1}
# Keras's own dropout draws in the compute dtype: other masks in each precision.
STOCK_DROPOUT = {"AdaptiveChannelAttention", "SharedResidualBlock"}


def make(key, **kwargs):
    return getattr(saunet.layers, key)(**LAYERS[key][0], **kwargs)


def inputs_of(name, height=9, width=13, n=2):
    xs = [
        generator(name, i).standard_normal((n, height, width, c)).astype("float32")
        for i, c in enumerate(LAYERS[name][1])
    ]
    return xs if len(xs) > 1 else xs[0]


def shapes_of(name, height, width, n=2):
    shapes = [(n, height, width, c) for c in LAYERS[name][1]]
    return shapes if len(shapes) > 1 else shapes[0]


def model_of(name, height=None, width=None, dtype=None):
    xs = [keras.Input((height, width, c)) for c in LAYERS[name][1]]
    xs = xs if len(xs) > 1 else xs[0]
    return keras.Model(xs, make(name, dtype=dtype)(xs))


def test_no_layer_is_forgotten():
    assert set(saunet.layers.__all__) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_config_gives_the_same_layer(name):
    options = LAYERS[name][0]
    layer = make(name, name="mine")
    config = layer.get_config()
    assert {k: config[k] for k in options} == options
    json.dumps(config)
    again = type(layer).from_config(config)
    assert again.get_config() == config
    for option, value in options.items():
        assert getattr(again, option) == value


@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_layer_comes_back_without_custom_objects(name, tmp_path):
    model = model_of(name)
    for variable in model.trainable_variables:
        variable.assign(generator(variable.path).standard_normal(variable.shape))
    x = inputs_of(name)
    model.save(tmp_path / "layer.keras")
    # safe mode refuses Lambdas
    again = keras.models.load_model(tmp_path / "layer.keras", safe_mode=True)
    np.testing.assert_array_equal(again(x), model(x))
    # the state of the generator too
    np.testing.assert_array_equal(again(x, training=True), model(x, training=True))


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_serves_any_size_and_knows_its_output_shape(name):
    model = model_of(name)
    factor, channels = ENLARGES.get(name, 1), CHANNELS.get(name, 8)
    for height, width in [(9, 13), (12, 8)]:
        x = inputs_of(name, height, width)
        expected = (2, height * factor, width * factor, channels)
        computed = make(name).compute_output_shape(shapes_of(name, height, width))
        assert tuple(computed) == expected
        static = model_of(name, height, width)
        assert static.output_shape[1:] == expected[1:]
        static.set_weights(model.get_weights())
        got = model(x)
        assert got.shape == expected
        np.testing.assert_allclose(got, static(x), atol=1e-6)
    assert model.output_shape == (None, None, None, channels)
    unknown = make(name).compute_output_shape(shapes_of(name, None, None))
    assert tuple(unknown) == (2, None, None, channels)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_mixed_precision_computes_low_and_stores_high(name, policy, training):
    x = inputs_of(name)
    exact, mixed = model_of(name), model_of(name, dtype=policy)
    mixed.set_weights(exact.get_weights())
    y = mixed(x, training=training)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert {v.dtype for v in mixed.trainable_variables} <= {"float32"}
    got = np.asarray(ops.cast(y, "float32"))
    assert np.isfinite(got).all()
    if training and name in STOCK_DROPOUT:
        return
    want = np.asarray(exact(x, training=training))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


@on_tensorflow
@pytest.mark.parametrize("name", LAYERS)
def test_every_weight_and_input_gets_a_finite_gradient(name):
    layer = make(name)
    x = inputs_of(name)
    xs = [ops.convert_to_tensor(v) for v in (x if isinstance(x, list) else [x])]
    shape = layer(xs if len(xs) > 1 else xs[0]).shape
    for variable in layer.trainable_variables:
        # not negative: no ReLU is dead by chance
        draw = generator(name, variable.name).standard_normal(variable.shape)
        variable.assign(0.2 * np.abs(draw))
    weight = generator("upstream").standard_normal(shape).astype("float32")

    def loss():
        y = layer(xs if len(xs) > 1 else xs[0], training=True)
        return ops.sum(y * weight)

    for gradient in gradients(loss, [*xs, *layer.trainable_variables]):
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


# ------------------------------------------------------------------- DropBlock2D


def drop_mask(layer, shape=(2, 20, 30, 16)):
    """Returns what the layer keeps: bool of `shape`."""
    return np.asarray(layer(ops.ones(shape), training=True)) > 0


def unpack(words, bits):
    """`(..., words)` integers to `(..., words * bits)` bool, four bits of a byte."""
    places = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27][:bits]
    planes = (np.asarray(words)[..., None] >> np.array(places)) & 1
    return planes.reshape(*planes.shape[:-2], -1).astype(bool)


@pytest.mark.parametrize("block_size", range(1, 10))
def test_one_seed_grows_one_square_below_and_right_of_it(block_size):
    seeds = np.zeros((1, 4, 6, 1), "int32")
    seeds[0, 1, 2, 0] = 0b101
    grown = np.asarray(grow_blocks(seeds, block_size))
    expected = np.zeros((1, 3 + block_size, 5 + block_size, 1), "int32")
    expected[0, 1 : 1 + block_size, 2 : 2 + block_size, 0] = 0b101
    np.testing.assert_array_equal(grown, expected)


@pytest.mark.parametrize("block_size", [1, 2, 3, 7])
def test_blocks_grow_as_the_oracle_says(block_size):
    rng = np.random.default_rng(block_size)
    channels, bits = 8, 4
    seeds = rng.random((2, 9, 14, channels)) < 0.03
    powers = 2 ** np.arange(bits)
    words = (seeds.reshape(2, 9, 14, -1, bits) * powers).sum(-1).astype("int32")
    dropped = unpack(grow_blocks(words, block_size), bits)
    np.testing.assert_array_equal(~dropped, drop_block_oracle.kept(seeds, block_size))


@pytest.mark.parametrize(
    ("shape", "block_size", "rate"),
    [
        ((2, 12, 12, 8), 7, 0.15),
        ((1, 9, 15, 3), 3, 0.4),
        ((2, 7, 11, 13), 7, 0.5),
        ((2, 9, 8, 14), 3, 0.4),
        ((3, 6, 5, 16), 1, 0.3),
        ((1, 8, 20, 2), 4, 0.9),
    ],
)
def test_layer_equals_the_oracle_given_the_same_draw(shape, block_size, rate):
    n, height, width, channels = shape
    bits = bits_per_word(channels)
    layer, twin = (DropBlock2D(rate, block_size, seed=3) for _ in range(2))
    words = twin._draw_seeds(n, height, width, channels // bits, bits)
    seeds = unpack(words, bits)
    assert seeds.shape == (n, height - block_size + 1, width - block_size + 1, channels)
    assert seeds.any()
    x = generator("x").standard_normal(shape).astype("float32")
    np.testing.assert_allclose(
        layer(x, training=True),
        drop_block_oracle.drop_block(x, seeds, block_size),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("channels", "bits"), [(1, 1), (3, 1), (8, 8), (48, 16), (12, 4), (17, 1), (34, 2)]
)
def test_channels_share_words_evenly(channels, bits):
    assert bits_per_word(channels) == bits


@pytest.mark.parametrize(
    ("height", "width", "block_size", "rate"),
    [(32, 32, 7, 0.18), (16, 40, 7, 0.15), (40, 16, 3, 0.3), (8, 8, 7, 0.15)],
)
def test_each_pixel_is_dropped_as_often_as_theory_says(height, width, block_size, rate):
    """Over both axes: bounds that mix up H and W fail on the oblong maps."""
    shape, calls = (8, height, width, 64), 4
    layer = DropBlock2D(rate, block_size, seed=1)
    keep = np.mean([drop_mask(layer, shape) for _ in range(calls)], axis=(0, 1, 4))
    expected = drop_block_oracle.expected_drop_rate(rate, block_size, height, width)
    maps = calls * shape[0] * shape[-1]
    # Maps are independent: the error of each pixel is binomial.
    limit = 5 * np.sqrt(expected * (1 - expected) / maps)
    assert np.all(np.abs(1 - keep - expected) < limit)
    # The mean gathers hundreds of blocks: 5 standard deviations of their number.
    blocks = expected.sum() / block_size**2 * maps
    error = abs((1 - keep).mean() / expected.mean() - 1)
    assert error < 5 / np.sqrt(blocks)


def test_seeds_are_as_frequent_as_gamma_in_every_bit_and_place():
    n, height, width, words, bits, rate, b = 4, 19, 30, 8, 8, 0.2, 5
    layer = DropBlock2D(rate, b, seed=2)
    draws = [
        unpack(layer._draw_seeds(n, height, width, words, bits), bits) for _ in range(8)
    ]
    seeds = np.stack(draws)
    gamma = drop_block_oracle.gamma(rate, b, height, width)
    for axes in [(0, 2, 3, 4), (0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3), None]:
        share = seeds.mean(axis=axes)
        trials = seeds.size / share.size
        assert np.all(np.abs(share - gamma) < 5 * np.sqrt(gamma / trials))
    # A Bernoulli process: neighbours in drawing order are independent.
    flat = seeds.reshape(8, -1).astype(float)
    both = (flat[:, 1:] * flat[:, :-1]).mean()
    assert abs(both - gamma**2) < 5 * gamma / np.sqrt(flat.size)


def test_enough_gaps_are_drawn_to_reach_the_last_places():
    """With few blocks a map, a draw that stops early starves its end."""
    rate, b, side, bits, calls = 0.3, 3, 9, 4, 200
    layer = DropBlock2D(rate, b, seed=9)
    draws = [
        unpack(layer._draw_seeds(1, side, side, 1, bits), bits) for _ in range(calls)
    ]
    last = np.reshape(draws, (calls, -1))[:, -49:]
    gamma = drop_block_oracle.gamma(rate, b, side, side)
    assert abs(last.mean() - gamma) < 5 * np.sqrt(gamma / last.size)


def test_the_sum_is_preserved_exactly_and_kept_values_share_one_scale():
    x = np.ones((2, 24, 24, 8), "float32")
    y = np.asarray(DropBlock2D(0.2, 5, seed=0)(x, training=True))
    values = np.unique(y)
    assert len(values) == 2
    assert values[0] == 0
    np.testing.assert_allclose(values[1], y.size / (y > 0).sum(), rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1, rtol=1e-5)


def test_images_and_channels_are_dropped_independently():
    rate, b, side = 0.5, 7, 40
    dropped = ~drop_mask(DropBlock2D(rate, b, seed=5), (8, side, side, 24))
    expected = drop_block_oracle.expected_drop_rate(rate, b, side, side)
    # without what all maps share, fewer drops at the border
    maps = dropped.transpose(0, 3, 1, 2) - expected
    correlation = np.corrcoef(maps.reshape(8 * 24, -1))
    off = correlation[~np.eye(len(correlation), dtype=bool)]
    assert abs(off.mean()) < 0.01
    assert off.max() < 0.9


@pytest.mark.parametrize(("height", "width"), [(14, 23), (23, 14), (7, 9)])
def test_what_is_dropped_is_a_union_of_whole_squares_inside_the_map(height, width):
    b = 7
    keep = drop_mask(DropBlock2D(0.2, b, seed=4), (4, height, width, 16))
    dropped = ~keep
    assert dropped.any()
    assert not dropped.all()
    windows = np.lib.stride_tricks.sliding_window_view(dropped, (b, b), axis=(1, 2))
    whole = windows.all(axis=(-1, -2))
    np.testing.assert_array_equal(drop_block_oracle.kept(whole, b) == 1, keep)


@pytest.mark.parametrize("rate", [0, 0.0, 0.5])
def test_identity_at_inference_and_for_rate_0(rate):
    x = generator("x").standard_normal((1, 8, 8, 3)).astype("float32")
    layer = DropBlock2D(rate, 7)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    if not rate:
        np.testing.assert_array_equal(layer(x, training=True), x)
        small = np.ones((1, 2, 2, 3), "float32")
        np.testing.assert_array_equal(DropBlock2D(0, 7)(small, training=True), small)


def test_a_seed_decides_the_masks():
    first, same, other = (DropBlock2D(0.3, 3, seed=s) for s in (1, 1, 2))
    masks = [drop_mask(first), drop_mask(first)]
    np.testing.assert_array_equal(drop_mask(same), masks[0])
    np.testing.assert_array_equal(drop_mask(same), masks[1])
    assert (masks[0] != masks[1]).any()
    assert (drop_mask(other) != masks[0]).any()


@on_tensorflow
@pytest.mark.parametrize(("side", "channels"), [(20, 16), (37, 6), (64, 3)])
def test_a_seed_gives_the_same_masks_in_eager_mode_and_in_a_graph(side, channels):
    """Sizes known or not: a gamma of other rounding would move all later blocks."""
    import tensorflow as tf

    for seed in range(4):
        masks = []
        for shape in (None, (4, side, side, channels), (None, None, None, channels)):
            layer = DropBlock2D(0.3, 3, seed=seed)
            layer.build((None, None, None, channels))
            call = functools.partial(layer, training=True)
            if shape is not None:
                call = tf.function(call, input_signature=[tf.TensorSpec(shape)])
            masks.append(np.asarray(call(tf.ones((4, side, side, channels)))))
        np.testing.assert_array_equal(masks[0], masks[1])
        np.testing.assert_array_equal(masks[0], masks[2])


def test_without_a_seed_layers_differ_and_the_global_seed_decides():
    def draw():
        keras.utils.set_random_seed(11)
        return [drop_mask(DropBlock2D(0.3, 3)) for _ in range(2)]

    first, again = draw(), draw()
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, again)


class Ramp(keras.layers.Layer):
    """Adds a weight, so that a model around it has something to train."""

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, inputs):
        return inputs + self.shift


@pytest.mark.parametrize(
    ("jit_compile", "size", "policy"),
    [
        (False, None, "float32"),
        (False, 12, "mixed_float16"),
        (True, None, "float32"),
        (True, 12, "mixed_float16"),
    ],
)
def test_drop_block_trains_compiled(jit_compile, size, policy):
    """In a graph and under XLA, sizes known or not; the loss shows the drop."""
    inputs = keras.Input((size, size, 8))
    x = Ramp(dtype=policy)(inputs)
    x = DropBlock2D(0.4, 7, seed=6, dtype=policy)(x)
    outputs = keras.layers.Activation("linear", dtype="float32")(x)
    model = keras.Model(inputs, outputs)

    def average(y_true, y_pred):
        return ops.mean(y_pred)

    optimizer = keras.optimizers.SGD(0.0)
    model.compile(optimizer, "mse", metrics=[average], jit_compile=jit_compile)
    data = np.zeros((2, 12, 12, 8), "float32")
    scales = []
    for _ in range(3):
        model.reset_metrics()
        # Of an input of ones, s = size / kept remains: its mean square is s.
        scale, mean = model.train_on_batch(data, data)
        np.testing.assert_allclose(mean, 1, rtol=1e-3)
        scales.append(float(scale))
    assert len(set(scales)) == 3
    assert 1.05 < min(scales)
    assert max(scales) < 3
    if policy == "float32":
        kept = data.size / np.array(scales)
        np.testing.assert_allclose(kept, np.rint(kept), atol=0.01)


@on_tensorflow
def test_the_gradient_is_the_scaled_mask():
    x = ops.convert_to_tensor(generator("x").standard_normal((2, 10, 14, 8)))
    x = ops.cast(x, "float32")
    layer, twin = (DropBlock2D(0.3, 5, seed=8) for _ in range(2))
    (gradient,) = gradients(lambda: ops.sum(layer(x, training=True)), [x])
    np.testing.assert_allclose(gradient, twin(ops.ones_like(x), training=True))
    assert len(np.unique(gradient)) == 2


@pytest.mark.parametrize(("height", "width"), [(6, 20), (20, 6), (6, None)])
def test_a_map_smaller_than_a_block_is_refused_when_built(height, width):
    with pytest.raises(ValueError, match=r"cannot hold a block of side 7 \(layer 'd'"):
        DropBlock2D(0.1, 7, name="d")(keras.Input((height, width, 4)))


def test_a_map_smaller_than_a_block_is_refused_in_eager_mode():
    layer = DropBlock2D(0.1, 7)
    layer.build((None, None, None, 4))
    with pytest.raises(ValueError, match="lower `block_size` or feed a larger image"):
        layer(np.ones((1, 6, 6, 4), "float32"), training=True)
    # at inference nothing is drawn: any size is fine
    assert layer(np.ones((1, 6, 6, 4), "float32")).shape == (1, 6, 6, 4)


@on_tensorflow
@pytest.mark.parametrize(("height", "width"), [(6, 20), (20, 6), (3, 3)])
def test_an_unknown_size_that_does_not_fit_fails_by_name(height, width):
    import tensorflow as tf

    layer = DropBlock2D(0.1, 7)
    layer.build((None, None, None, 4))
    signature = tf.TensorSpec((None, None, None, 4))
    call = tf.function(lambda x: layer(x, training=True), input_signature=[signature])
    assert call(tf.ones((1, 7, 7, 4))).shape == (1, 7, 7, 4)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="a_map_is_smaller_than_block_size_7"
    ):
        call(tf.ones((1, height, width, 4)))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(ValueError, match=r"in \[0, 1\).*1 - p"):
        DropBlock2D(rate)


@pytest.mark.parametrize("block_size", [0, -1, 2.0])
def test_a_block_size_that_is_no_side_is_refused(block_size):
    with pytest.raises(ValueError, match="integer >= 1"):
        DropBlock2D(0.1, block_size)


def test_unknown_channels_are_refused():
    with pytest.raises(ValueError, match="number of channels"):
        DropBlock2D(0.1).build((None, 8, 8, None))


# ------------------------------------------------------------ GroupNormalization


def group_norms(groups, epsilon, channels, dtype="float32"):
    ours = GroupNormalization(groups, epsilon=epsilon, dtype=dtype)
    keras_own = keras.layers.GroupNormalization(groups, epsilon=epsilon, dtype=dtype)
    rng = generator("group norm", channels)
    values = [1 + 0.3 * rng.standard_normal(channels), rng.standard_normal(channels)]
    for layer in (ours, keras_own):
        layer.build((None, None, None, channels))
        layer.set_weights(values)
    assert [w.name for w in ours.weights] == [w.name for w in keras_own.weights]
    return ours, keras_own


with_and_without_fused = pytest.mark.parametrize("fuse", [True, False])


@on_tensorflow
@with_and_without_fused
@pytest.mark.parametrize(
    ("groups", "channels", "mean", "std"),
    [(8, 16, 0, 1), (8, 8, 3, 0.5), (1, 6, -2, 2), (4, 12, 30, 1), (8, 48, 0, 1e-3)],
)
def test_group_normalization_equals_keras(
    groups, channels, mean, std, fuse, monkeypatch
):
    """Values, and gradients for x, gamma and beta: ours are written by hand."""
    monkeypatch.setattr(fused, "can_fuse", lambda x: fuse)
    ours, keras_own = group_norms(groups, 1e-3, channels)
    rng = generator(groups, channels, mean)
    x = (mean + std * rng.standard_normal((3, 10, 7, channels))).astype("float32")
    x[1] *= 0.5  # images have statistics of their own
    x = ops.convert_to_tensor(x)
    upstream = rng.standard_normal(x.shape).astype("float32")
    tolerance = 1e-5 + 2e-6 * (mean / std) ** 2
    calls = [functools.partial(ours, training=True), keras_own]
    got, want = (call(x) for call in calls)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(ours(x), want, rtol=1e-4, atol=tolerance)
    results = []
    for call, layer in zip(calls, (ours, keras_own), strict=True):
        variables = [x, *layer.trainable_variables]
        results.append(gradients(lambda f=call: ops.sum(f(x) * upstream), variables))
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        scale = np.abs(want).max()
        np.testing.assert_allclose(got / scale, want / scale, atol=10 * tolerance)


def test_group_normalization_by_hand():
    x = np.array([[[[1.0, 3.0, 0.0, 0.0]], [[1.0, 3.0, 4.0, 4.0]]]], "float32")
    # group 1: 1 3 1 3, mean 2, variance 1; group 2: 0 0 4 4, mean 2, variance 4
    layer = GroupNormalization(2, epsilon=0.0)
    expected = [[[[-1, 1, -1, -1]], [[-1, 1, 1, 1]]]]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@on_tensorflow
@pytest.mark.parametrize("training", [True, False])
def test_group_normalization_in_bfloat16_is_close_to_float32(training):
    x = generator("bf").standard_normal((2, 12, 12, 16)).astype("float32") + 1
    exact, _ = group_norms(8, 1e-3, 16)
    mixed, _ = group_norms(8, 1e-3, 16, dtype="mixed_bfloat16")
    upstream = generator("up").standard_normal(x.shape).astype("float32")
    x = ops.convert_to_tensor(x)
    results = []
    for layer in (exact, mixed):
        variables = [x, *layer.trainable_variables]
        results.append(
            gradients(
                lambda f=layer: ops.sum(
                    ops.cast(f(x, training=training), "float32") * upstream
                ),
                variables,
            )
        )
    for got, want in zip(*results, strict=True):
        assert np.abs(got - want).max() < 0.03 * np.abs(want).max()


def test_group_normalization_in_float16_takes_activations_above_255():
    x = (400 + 5 * generator("fp16").standard_normal((1, 8, 8, 8))).astype("float16")
    y = np.asarray(GroupNormalization(4, dtype="mixed_float16")(x), "float32")
    assert y.std() == pytest.approx(1, abs=0.05)


def test_group_normalization_of_a_constant_map_is_beta():
    ours, _ = group_norms(4, 1e-3, 8)
    y = np.asarray(ours(np.full((1, 6, 6, 8), 5.0, "float32")))
    np.testing.assert_allclose(y, np.broadcast_to(ours.beta, y.shape), atol=1e-3)


def test_group_normalization_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="must divide the number of channels"):
        GroupNormalization(8).build((None, 4, 4, 12))


@pytest.mark.parametrize("groups", [0, -1, 2.0])
def test_a_number_of_groups_that_is_none_is_refused(groups):
    with pytest.raises(ValueError, match=f"integer >= 1, not {groups}"):
        GroupNormalization(groups)


# ------------------------------------------------------------ BatchNormalization


def batch_norms(channels, dtype="float32"):
    ours = BatchNormalization(0.9, epsilon=1e-2, dtype=dtype)
    stock = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-2, dtype=dtype)
    rng = generator("batch norm", channels)
    values = rng.uniform(0.5, 1.5, (4, channels))
    for layer in (ours, stock):
        layer.build((None, None, None, channels))
        layer.set_weights(list(values))
    assert [w.name for w in ours.weights] == [w.name for w in stock.weights]
    return ours, stock


@on_tensorflow
@with_and_without_fused
@pytest.mark.parametrize(
    ("channels", "mean", "std"), [(16, 0, 1), (5, 3, 0.5), (6, -2, 2), (12, 10, 1)]
)
def test_batch_normalization_trains_as_keras_does(
    channels, mean, std, fuse, monkeypatch
):
    """Values, moving statistics, and the gradients, which are written by hand."""
    monkeypatch.setattr(fused, "can_fuse", lambda x: fuse)
    ours, stock = batch_norms(channels)
    rng = generator("x", channels, mean)
    x = (mean + std * rng.standard_normal((3, 10, 7, channels))).astype("float32")
    x[1] *= 0.5  # the images of a batch share their statistics
    x = ops.convert_to_tensor(x)
    upstream = rng.standard_normal(x.shape).astype("float32")
    results = []
    for layer in (ours, stock):
        y = layer(x, training=True)
        moving = [layer.moving_mean, layer.moving_variance]
        state = [np.asarray(v).copy() for v in (y, *moving)]
        variables = [x, *layer.trainable_variables]
        found = gradients(
            lambda f=layer: ops.sum(f(x, training=True) * upstream), variables
        )
        results.append([*state, *found])
    for got, want in zip(*results, strict=True):
        assert got.shape == want.shape
        scale = np.abs(want).max()
        np.testing.assert_allclose(got / scale, want / scale, atol=3e-5)


@on_tensorflow
@pytest.mark.parametrize("layer", [BatchNormalization, GroupNormalization])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_fused_and_not_are_one_function_in_a_compiled_step(layer, dtype, monkeypatch):
    """Sizes known only at run time, moving statistics; bfloat16 rounds to 8 bits."""
    import tensorflow as tf

    layer = layer(dtype=dtype)
    layer.build((None, None, None, 8))
    kind = layer.compute_dtype
    x = 1 + 2 * generator("fuse").standard_normal((3, 9, 7, 8))
    upstream = generator("up").standard_normal(x.shape)
    x, upstream = (tf.cast(values, kind) for values in (x, upstream))
    results = []
    for fuse in (True, False):
        monkeypatch.setattr(fused, "can_fuse", lambda x, fuse=fuse: fuse)

        @tf.function(input_signature=[tf.TensorSpec((3, None, None, 8), kind)] * 2)
        def step(x, upstream):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            variables = [x, *(v.value for v in layer.trainable_variables)]
            return y, *tape.gradient(y, variables, upstream)

        moving = layer.non_trainable_variables
        start = [np.asarray(v) for v in moving]
        found = [*step(x, upstream), *(v.value for v in moving)]
        results.append([np.asarray(tf.cast(v, "float32")) for v in found])
        for variable, value in zip(moving, start, strict=True):
            variable.assign(value)
    digits = 2e-6 if dtype == "float32" else 0.02
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, atol=digits * np.abs(want).max())


@on_tensorflow
@pytest.mark.parametrize("channels", [5, 16, 48])
@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_drop_block_fused_or_not_drops_the_same(channels, dtype, digits, monkeypatch):
    import tensorflow as tf

    x = generator("drop", channels).standard_normal((2, 17, 23, channels))
    x = tf.cast(x, dtype)
    results = []
    for fuse in (True, False):
        monkeypatch.setattr(fused, "can_fuse", lambda x, fuse=fuse: fuse)
        layer = DropBlock2D(0.3, seed=1, dtype=dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        found = (y, tape.gradient(y, x, x))
        results.append([np.asarray(tf.cast(v, "float32")) for v in found])
    assert 0.1 < (results[0][0] == 0).mean() < 0.5
    for got, want in zip(*results, strict=True):
        np.testing.assert_array_equal(got == 0, want == 0)
        np.testing.assert_allclose(got, want, rtol=digits)


@on_tensorflow
@pytest.mark.parametrize(("height", "width"), [(9, 7), (74, 74), (592, 592)])
def test_means_keep_the_digits_of_large_maps(height, width):
    x = 30 + generator("means").standard_normal((2, height, width, 3), "float32")
    wide = x.astype("float64")
    want = wide.mean((1, 2)), (wide**2).mean((1, 2))
    for got, mean in zip(
        fused._means(ops.convert_to_tensor(x), None), want, strict=True
    ):
        np.testing.assert_allclose(got, mean, rtol=1e-6)


def drop_block(dtype):
    return DropBlock2D(0.3, 3, seed=1, dtype=dtype)


UNITS = {
    "sa_unet": (drop_block, BatchNormalization, ReLU),
    "sa_unet_v2": (drop_block, GroupNormalization, SiLU),
    "sd_unet": (drop_block, ReLU),
    "unet": (BatchNormalization, ReLU),
    "rsan": (drop_block, BatchNormalization),
    "relu after groups": (GroupNormalization, ReLU),
    "silu after a batch": (BatchNormalization, SiLU),
}


@on_tensorflow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("sides", [(9, 32), (9, 7), (None, None)])
def test_a_unit_fused_or_not_is_one_function(unit, dtype, sides, monkeypatch):
    """Its outputs in between, too, and all gradients and moving statistics."""
    import tensorflow as tf

    real = 1 + 2 * generator("unit").standard_normal((3, 9, sides[1] or 6, 8))
    kind = "float32" if dtype == "float32" else "bfloat16"
    ends = []
    loop = fused._unit_gradient

    def unit_gradient(dy, x, kept, *args):
        ends.append((kept is not None, args[-1]))
        return loop(dy, x, kept, *args)

    monkeypatch.setattr(fused, "_unit_gradient", unit_gradient)
    results = []
    for fuse in (True, False):
        monkeypatch.setattr(fused, "can_fuse", lambda x, fuse=fuse: fuse)
        layers = [layer(dtype=dtype) for layer in UNITS[unit]]
        for layer in layers:
            layer.build((None, None, None, 8))
            for weight in layer.weights[:2]:  # gamma and beta
                if weight.shape == (8,):
                    weight.assign(weight + generator(weight.name).random(8) - 0.5)

        @tf.function(input_signature=[tf.TensorSpec((3, *sides, 8), kind)] * 2)
        def step(x, upstream, layers=layers):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, between = x, []
                for layer in layers:
                    y = layer(y, training=True)
                    between.append(y)
            weights = [v.value for layer in layers for v in layer.trainable_variables]
            return *between, *tape.gradient(y, [x, *weights], upstream)

        x = tf.cast(real, kind)
        found = [*step(x, tf.cast(real[::-1], kind))]
        for layer in layers:
            found += [v.value for v in layer.non_trainable_variables if v.shape == (8,)]
        results.append([np.asarray(tf.cast(v, "float32"), "float64") for v in found])
    for got, want in zip(*results, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(got, want, atol=3e-6 * np.abs(want).max())
        else:  # where a sum is near 0, ReLU may let pass what it else stops
            assert np.abs(got - want).mean() < 0.01 * np.abs(want).max()
    # The loops run from the convolution's map to the activation. Those of a
    # normalisation that were traced for its own output have no gradient.
    activation = {ReLU: "relu", SiLU: "silu"}.get(UNITS[unit][-1])
    want = [] if unit == "sd_unet" else [(UNITS[unit][0] is drop_block, activation)]
    assert ends == want


@on_tensorflow
def test_in_eager_mode_nothing_is_noted():
    """There what comes before an activation would be computed twice."""
    x = ops.ones((2, 9, 9, 8))
    y = BatchNormalization()(DropBlock2D(0.3, 3)(x, training=True), training=True)
    assert fused.activated(y, "relu") is None


@on_tensorflow
def test_on_cpus_a_step_is_fused():
    """float16 is not."""
    for dtype in ("float32", "bfloat16", "float16"):
        x = keras.KerasTensor((None, None, None, 8), dtype)
        assert fused.can_fuse(x) == (dtype != "float16")


@on_tensorflow
def test_without_xla_nothing_is_fused(monkeypatch):
    """Builds of TensorFlow that lack it say so when a function is first called."""
    import tensorflow as tf

    def function(call, jit_compile):
        def fail():
            raise tf.errors.UnimplementedError(None, None, "no XLA here")

        return fail

    monkeypatch.setattr(tf, "function", function)
    fused._on_tensorflow_cpu.cache_clear()
    try:
        assert not fused.can_fuse(keras.KerasTensor((2, 4, 4, 8), "float32"))
    finally:
        fused._on_tensorflow_cpu.cache_clear()


@on_tensorflow
@pytest.mark.parametrize(
    ("dtype", "digits"), [("float32", 1e-4), ("mixed_bfloat16", 0.02)]
)
def test_what_is_fused_compiles_by_xla(dtype, digits):
    """`jit_compile=True`, which Keras may choose by itself; not all operations can."""
    losses = []
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((8, 8, 3), 4)
        normalisations = BatchNormalization, functools.partial(GroupNormalization, 3)
        for layer, activation in zip(normalisations, (ReLU, SiLU), strict=True):
            x = keras.layers.Conv2D(3, 3, dtype=dtype)(x)
            x = activation(dtype=dtype)(layer(dtype=dtype)(x))
        model = keras.Model(inputs, x)
        model.compile("sgd", "mse", jit_compile=compiled)
        x = generator("xla").random((4, 8, 8, 3), "float32")
        losses.append([model.train_on_batch(x, x[:, :4, :4]) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=digits)


@on_tensorflow
@pytest.mark.parametrize(
    ("dtype", "digits", "fuse"),
    [("float32", 3e-6, True), ("bfloat16", 0.01, True), ("float32", 3e-6, False)],
)
def test_silu_and_its_gradient(dtype, digits, fuse):
    """`x s` and `s (1 + x (1 - s))`, also where the sigmoid is 0 or 1."""
    x = np.linspace(-40, 40, 320).astype("float32").reshape(1, 10, 32, 1)
    tensor = ops.cast(x, dtype)
    x = np.asarray(ops.cast(tensor, "float32"), "float64")
    s = 1 / (1 + np.exp(-x))
    if fuse:
        one, zero, dy = ops.ones((1, 1)), ops.zeros((1, 1)), ops.ones_like(tensor)
        y = fused._unit(tensor, None, one, zero, "silu")
        slope = fused._unit_gradient(dy, tensor, None, one, zero, zero, zero, "silu")
    else:
        y = SiLU(dtype=dtype)(tensor)
        (slope,) = gradients(lambda: ops.sum(SiLU(dtype=dtype)(tensor)), [tensor])
    y, slope = (np.asarray(ops.cast(v, "float32")) for v in (y, slope))
    np.testing.assert_allclose(y, x * s, rtol=digits, atol=digits)
    np.testing.assert_allclose(slope, s * (1 + x * (1 - s)), atol=digits)


@on_tensorflow
def test_relus_gradient_is_zero_at_zero():
    x = np.array([-np.inf, -1, -0.0, 0.0, 1e-30, 1, np.inf], "float32")
    dy = ops.full(x.shape, -2.0)
    want = [0, 0, 0, 0, -2, -2, -2]
    np.testing.assert_array_equal(fused._relu_gradient(dy, ops.array(x)), want)


@on_tensorflow
def test_bfloat16_is_rounded_as_tensorflow_does():
    x = generator("round").standard_normal(10_000).astype("float32")
    # halves between two neighbours, which go to the even one
    halves = (np.arange(1000, dtype="uint32") << 16 | 0x3F808000).view("float32")
    x = ops.array([*x, *halves, np.nan, np.inf, -np.inf, 3.4028235e38, -0.0], "float32")
    got, want = fused._narrow(x, "bfloat16"), ops.cast(x, "bfloat16")
    np.testing.assert_array_equal(ops.cast(got, "float32"), ops.cast(want, "float32"))


@on_tensorflow
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("unit", ["sa_unet", "sa_unet_v2"])
def test_what_is_no_number_is_not_hidden(unit, value, dtype):
    """A training that has broken must end, not go on with zeros."""
    x = generator("nan").random((2, 8, 16, 8), "float32")
    x[0, 3, 4, 5] = value
    y = inputs = keras.Input((8, 16, 8), 2)
    for layer in UNITS[unit]:
        y = layer(dtype=dtype)(y)
    model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(y))
    model.compile("sgd", "mse", jit_compile=False)
    assert np.isnan(model.train_on_batch(x, x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layer", [BatchNormalization, GroupNormalization])
def test_normalisations_train_with_narrow_weights(layer, dtype):
    """A policy that keeps the weights in 16 bits, too."""
    layer = layer(dtype=dtype)
    x = generator("narrow").standard_normal((2, 6, 4, 8)).astype("float32")
    y = layer(ops.cast(x, dtype), training=True)
    assert {keras.backend.standardize_dtype(v.dtype) for v in layer.weights} == {dtype}
    wide = type(layer)()(x, training=True)
    np.testing.assert_allclose(ops.cast(y, "float32"), wide, atol=0.03)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(
    ("kind", "training"),
    [
        (BatchNormalization, True),  # else it is Keras's, which rounds
        (GroupNormalization, True),
        (GroupNormalization, False),
    ],
)
def test_a_scale_is_not_rounded_to_bfloat16(kind, training, fuse, monkeypatch):
    """1.003 would be 1: the rounding of single pixels averages out, this does not."""
    if not fuse:
        monkeypatch.setattr(fused, "can_fuse", lambda x: False)
    x = generator("x").standard_normal((2, 48, 48, 8)).astype("float32")
    layer = kind(dtype="mixed_bfloat16")
    layer.build(x.shape)
    sums = []
    for scale in (1, 1.003):
        layer.gamma.assign(np.full(8, scale))
        y = ops.cast(layer(x, training=training), "float32")
        sums.append(float(ops.sum(ops.abs(y))))
    assert sums[1] / sums[0] == pytest.approx(1.003, abs=3e-4)


def test_batch_normalization_does_not_train_what_is_frozen():
    ours, stock = batch_norms(6)
    x = generator("x").standard_normal((2, 5, 4, 6)).astype("float32")
    np.testing.assert_array_equal(ours(x), stock(x))
    ours.trainable = False
    np.testing.assert_array_equal(ours(x, training=True), stock(x))
    np.testing.assert_array_equal(ours.moving_mean, stock.moving_mean)


@pytest.mark.parametrize("option", ["axis", "center", "scale", "synchronized"])
def test_batch_normalization_refuses_what_it_would_not_heed(option):
    with pytest.raises(TypeError, match=option):
        BatchNormalization(**{option: False})


# --------------------------------------------------------------------- attention


def with_kernel(layer, shapes):
    layer.build(shapes)
    (kernel,) = layer.weights
    kernel.assign(generator("kernel").standard_normal(kernel.shape) * 0.2)
    return layer, np.asarray(kernel, "float64")


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_spatial_attention_equals_the_oracle(kernel_size):
    x = generator("x").standard_normal((2, 9, 12, 5)).astype("float32")
    layer, kernel = with_kernel(SpatialAttention(kernel_size), x.shape)
    np.testing.assert_allclose(
        layer(x), attention_oracle.spatial_attention(x, kernel), atol=1e-5
    )


def test_cross_scale_attention_equals_the_oracle():
    skip = generator("skip").standard_normal((2, 9, 12, 5)).astype("float32")
    up = generator("up").standard_normal((2, 9, 12, 3)).astype("float32")
    shapes = [skip.shape, up.shape]
    layer, kernel = with_kernel(CrossScaleSpatialAttention(), shapes)
    np.testing.assert_allclose(
        layer([skip, up]),
        attention_oracle.cross_scale_attention(skip, up, kernel),
        atol=1e-5,
    )


def test_spatial_attention_weighs_the_mean_first_and_the_maximum_second():
    x = np.zeros((1, 1, 1, 4), "float32")
    x[..., 0] = 8  # mean 2, maximum 8
    for place, summary in [(0, 2.0), (1, 8.0)]:
        layer, kernel = with_kernel(SpatialAttention(1), x.shape)
        one_hot = np.zeros(kernel.shape)
        one_hot[0, 0, place, 0] = 0.25
        layer.set_weights([one_hot])
        expected = 8 / (1 + np.exp(-summary / 4))
        np.testing.assert_allclose(layer(x)[0, 0, 0, 0], expected, rtol=1e-6)


def test_cross_scale_attention_weighs_the_skip_first_and_gates_it_alone():
    skip, up = np.full((1, 1, 1, 2), 2.0), np.full((1, 1, 1, 2), 8.0)
    for place, summary in [(0, 2.0), (1, 8.0)]:
        layer, kernel = with_kernel(
            CrossScaleSpatialAttention(1), [skip.shape, up.shape]
        )
        one_hot = np.zeros(kernel.shape)
        one_hot[0, 0, place, 0] = 0.25
        layer.set_weights([one_hot])
        expected = 2 / (1 + np.exp(-summary / 4))
        np.testing.assert_allclose(
            layer([skip, up]), np.full_like(skip, expected), rtol=1e-6
        )


@pytest.mark.parametrize("kind", [SpatialAttention, CrossScaleSpatialAttention])
def test_attention_has_98_weights(kind):
    layer = kind()
    shape = (None, None, None, 16)
    layer.build(shape if kind is SpatialAttention else [shape, shape])
    assert layer.count_params() == 98
    assert len(layer.weights) == 1
    assert isinstance(layer.conv.kernel_initializer, keras.initializers.HeNormal)
