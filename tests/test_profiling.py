"""Parameters and FLOPs: against the papers, TensorFlow's profiler, and by hand."""

import csv
import doctest
import runpy
import threading
from pathlib import Path

import keras
import pytest
from helpers import profiled_flops
from keras import layers

from saunet import profiling
from saunet.errors import InputError
from saunet.layers import CrossScaleSpatialAttention, DropBlock2D, SpatialAttention
from saunet.models import MODELS, build_model
from saunet.profiling import count_flops, count_parameters, time_in_turns

ROOT = Path(__file__).resolve().parents[1]


def one_layer(layer, channels=4):
    inputs = keras.Input((None, None, channels))
    return keras.Model(inputs, layer(inputs))


def test_the_example_in_the_documentation_gives_what_it_says():
    result = doctest.testmod(profiling)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_gflops_of_unet_32_at_half_width_are_those_of_the_authors_tool():
    model = build_model("unet_32", filters=16)
    assert round(count_flops(model) / 1e9, 3) == 34.634


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(5, 3, padding="same"),
        layers.Conv2D(5, (1, 3), strides=2, use_bias=False),
        layers.Conv2D(5, 3, activation="silu"),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
        layers.Conv2DTranspose(5, 2, strides=2, use_bias=False),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.DepthwiseConv2D(7, depth_multiplier=2, use_bias=False),
        layers.MaxPooling2D(2),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
        layers.Activation("silu"),
        layers.Activation("softmax"),
        layers.Activation("sigmoid"),
        layers.ReLU(),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Dropout(0.5),
    ],
    ids=lambda layer: layer.name,
)
def test_a_stock_layer_costs_what_the_profiler_counts(layer):
    model = one_layer(layer)
    profiled = profiled_flops(lambda x: model(x, training=False), (1, 18, 26, 4))
    assert count_flops(model, (18, 26, 4)) == profiled


def test_group_normalization_costs_what_the_profiler_counts_on_the_papers_graph():
    tf = pytest.importorskip("tensorflow")
    from saunet.layers import GroupNormalization

    groups, channels, epsilon = 2, 8, 1e-3
    scale = tf.reshape(tf.range(8.0), (1, 1, 1, groups, channels // groups))

    def keras_2_group_normalization(x):
        x = tf.reshape(x, (1, 6, 5, groups, channels // groups))
        mean, variance = tf.nn.moments(x, (1, 2, 4), keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, scale, scale, epsilon)

    ours = one_layer(GroupNormalization(groups), channels)
    stock = one_layer(layers.GroupNormalization(groups), channels)
    profiled = profiled_flops(keras_2_group_normalization, (1, 6, 5, channels))
    assert count_flops(ours, (6, 5, channels)) == profiled
    assert count_flops(stock, (6, 5, channels)) == profiled


def test_batch_normalization_is_keras_flops_formula():
    model = one_layer(layers.BatchNormalization())
    # 2 * elements + 5 * variance + 1 * mean, 3 x 5 pixels of 4 channels
    assert count_flops(model, (3, 5, 4)) == 2 * 60 + 5 * 4 + 4


def test_the_papers_own_layers_by_hand():
    assert count_flops(one_layer(DropBlock2D(0.1)), (10, 9, 4)) == 0
    # mean: 60, max: 60 - 15, convolution: 15 * 2 * 49 * 2, product: 60
    assert count_flops(one_layer(SpatialAttention()), (3, 5, 4)) == 165 + 2940

    inputs = keras.Input((None, None, 4))
    wide = layers.Concatenate()([inputs, inputs])
    gated = keras.Model(inputs, CrossScaleSpatialAttention()([inputs, wide]))
    # means: 60 + 120, convolution: 15 * 2 * 49 * 2, product: 60
    assert count_flops(gated, (3, 5, 4)) == 240 + 2940


def test_elementwise_layers_cost_one_for_each_further_input():
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.Add()([inputs, inputs, inputs]))
    assert count_flops(model, (3, 5, 2)) == 2 * 30


def test_an_unknown_layer_or_activation_is_an_error_not_a_zero():
    with pytest.raises(InputError, match=r"'odd', a GaussianNoise, is not known"):
        count_flops(one_layer(layers.GaussianNoise(1.0, name="odd")), (4, 4, 4))
    with pytest.raises(InputError, match=r"activation 'selu' of 'act' is not known"):
        count_flops(one_layer(layers.Activation("selu", name="act")), (4, 4, 4))
    inputs = keras.Input((None, None, 4))
    bare = keras.Model(inputs, keras.ops.exp(inputs))
    with pytest.raises(InputError, match="a Exp, is not known"):
        count_flops(bare, (4, 4, 4))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((592, 592), "is not three positive integers"),
        ((592.0, 592, 3), "is not three positive integers"),
        ((0, 592, 3), "is not three positive integers"),
        ("592", "is not three positive integers"),
        ((64, 64, 1), r"does not fit the input \(None, None, 3\)"),
        ((100, 100, 3), "use H and W that are multiples of 16"),
        ((4, 4, 3), "multiples of 16, which every network takes"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape, message):
    model = build_model("sd_unet")
    with pytest.raises(InputError, match=message):
        count_flops(model, shape)


def test_parameters_are_counted_without_random_states(seed):
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3)(inputs)  # 3 * 3 * 3 * 4 + 4 = 112
    x = DropBlock2D(0.1)(x)  # a random state, no weights
    model = keras.Model(inputs, layers.BatchNormalization()(x))  # 8 + 8
    counts = {"total": 128, "trainable": 120, "non_trainable": 8}
    assert count_parameters(model) == counts


def test_a_depthwise_convolution_by_hand():
    layer = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)
    # 15 pixels of 4 * 2 channels, each 9 multiply-adds of one channel and a bias
    assert count_flops(one_layer(layer), (3, 5, 4)) == 15 * 8 * (2 * 9 + 1)


@pytest.fixture(scope="module")
def one_epoch():
    return runpy.run_path(str(ROOT / "benchmarks" / "one_epoch.py"))


def test_the_page_of_networks_is_rendered_from_the_measurements(one_epoch):
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    assert page == one_epoch["page"](), (
        "run: python benchmarks/one_epoch.py --table > docs/networks.md"
    )


def test_every_network_was_measured_and_its_loss_fell(one_epoch):
    with one_epoch["RESULTS"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == list(MODELS)
    for row in rows:
        assert 0 < float(row["loss_after"]) < float(row["loss_before"]), row["model"]


@pytest.mark.parametrize("progress", [True, False])
def test_timing_shows_a_bar_that_no_thread_draws(capsys, progress):
    threads = set()
    functions = {"one": lambda: threads.add(threading.active_count())}
    before = threading.active_count()
    seconds = time_in_turns(functions, 2, warm_up=1, progress=progress)
    assert list(seconds) == ["one"]
    assert threads == {before}
    assert ("timing in turns" in capsys.readouterr().err) is progress
