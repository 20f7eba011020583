"""Every network of `MODELS`: counts, shapes, gradients, names, saving, goldens.

The goldens under `golden/` are our own first reviewed output: they prove stability,
not correctness (`test_conformance.py` compares with the authors' tensors). After a
change that is meant, rewrite them by `pytest tests/test_models.py --accept-golden`,
read the difference and say why in the changelog.
"""

import functools
import inspect
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import fill_weights, fundus_like, generator, gradients, on_tensorflow
from keras import ops

from saunet.errors import InputError
from saunet.layers import BatchNormalization, ConvOffset2D, DropBlock2D
from saunet.losses import bce
from saunet.models import FACTS, MODELS, build_model, list_models
from saunet.profiling import count_flops, count_parameters

GOLDEN = Path(__file__).parent / "golden"
# The counts of the papers or of the authors' code: total and trainable.
COUNTS = {
    "unet_23": (2_158_705, 2_158_705),
    "unet_18": (535_793, 535_793),
    "unet_18_sa": (535_891, 535_891),
    "sd_unet": (535_793, 535_793),
    "sa_unet_backbone": (538_609, 537_201),
    "sa_unet": (538_707, 537_299),
    "sa_unet_gn_silu": (537_299, 537_299),
    "sa_unet_v2_narrow": (260_227, 260_227),
    "sa_unet_v2_skip_sa": (260_521, 260_521),
    "sa_unet_v2": (260_521, 260_521),
    "unet_32": (8_636_385, 8_636_385),
    "rsan_backbone": (1_053_837, 1_050_343),
    "rsan_backbone_dropblock": (1_053_837, 1_050_343),
    "rsan": (1_054_523, 1_051_029),
    "cbam_unet": (938_467, 935_523),  # not printed on the slides; so is the next one
    "cmp_unet_slides": (34_568_769, 34_546_369),
    "cmp_unet": (9_094_170, 9_071_770),  # the authors count the trainable
    "ag_net": (9_335_340, 9_335_340),
    "unet": (31_047_105, 31_039_425),  # the slides count the trainable
    "dunet_encoder": (32_898_497, 32_886_721),
    "dunet": (34_741_697, 34_729_921),
}
# No exact total was published.
UNCOUNTED = {"attention_unet", "r2u_net", "ladder_net", "unet_3level"}
FAMILY = [n for n in MODELS if MODELS[n].__module__.split(".")[-1].startswith("sa_")]
# By module: all tests of a network run before those of the next one, so that few
# networks are alive at once.
each = pytest.mark.parametrize("name", MODELS, scope="module")
in_family = pytest.mark.parametrize("name", FAMILY, scope="module")


@functools.lru_cache(maxsize=2)
def filled(name):
    """The network with weights that depend on their names alone; built once."""
    model = build_model(name)
    fill_weights(model)
    return model


def loops(model):
    """Whether a layer loops over channels, which crawls outside a graph."""
    return any(isinstance(layer, ConvOffset2D) for layer in model.layers)


def called(model, x):
    """Returns what the model gives in inference mode, from a graph if it loops."""
    if keras.backend.backend() == "tensorflow" and loops(model):
        import tensorflow as tf

        return tf.function(functools.partial(model, training=False))(tf.constant(x))
    return model(x)


def picture(height=64, width=64, n=1):
    return generator("picture", height, width).random((n, height, width, 3), "float32")


def test_list_models_is_sorted_and_complete():
    assert list_models() == sorted(MODELS)


# ------------------------------------------------------------------------ counts


def test_every_network_has_a_count():
    assert set(MODELS) <= set(COUNTS) | UNCOUNTED


@pytest.mark.parametrize(
    "name", [n for n in MODELS if n not in UNCOUNTED], scope="module"
)
def test_parameters_are_the_papers(name):
    model = filled(name)
    total, trainable = COUNTS[name]
    assert model.count_params() == total
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == trainable


@each
def test_the_written_facts_are_the_counted_ones(name):
    counted = count_parameters(filled(name))
    facts = FACTS[name]
    assert (facts.total, facts.trainable) == (counted["total"], counted["trainable"])
    assert facts.gflops == round(count_flops(filled(name), (592, 592, 3)) / 1e9, 3)


def test_unet_32_at_half_width():
    assert build_model("unet_32", filters=16).count_params() == 2_161_649


# ------------------------------------------------------------------------ shapes


@each
def test_one_network_takes_any_size(name):
    model = filled(name)
    assert model.name == name
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 1)
    y = np.asarray(model(picture(64, 96)))
    assert y.shape == (1, 64, 96, 1)
    assert y.dtype == np.float32
    assert 0 <= y.min() < y.max() <= 1


@in_family
def test_images_of_a_batch_do_not_see_each_other(name):
    x = picture(32, 48, n=2)
    together = np.asarray(filled(name)(x))
    alone = np.concatenate([filled(name)(x[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@each
def test_a_size_that_cannot_be_halved_is_refused(name):
    with pytest.raises(InputError, match="must be multiples of"):
        build_model(name, (60, 64, 3))
    with pytest.raises(InputError, match="must be multiples of"):
        build_model(name, (64, 100, 3))


@each
@pytest.mark.parametrize("size", [(112, 112), (112, 128)])
def test_a_known_size_shows_in_the_output(name, size):
    model = build_model(name, (*size, 3))
    assert model.input_shape == (None, *size, 3)
    assert model.output_shape == (None, *size, 1)


# ----------------------------------------------------------------------- options


def test_a_network_can_be_named():
    assert build_model("unet_18", name="mine").name == "mine"


@pytest.mark.parametrize(
    "name", [n for n in MODELS if "rate" in inspect.signature(MODELS[n]).parameters]
)
def test_the_rate_reaches_every_layer_that_drops(name):
    layers = build_model(name, rate=0.07)._flatten_layers()
    assert {x.rate for x in layers if hasattr(x, "rate")} == {0.07}


# ------------------------------------------------------------------------ errors


@each
def test_an_unknown_option_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=f"'{name}' has no option 'keep_prob'; it ta"):
        build_model(name, keep_prob=0.82)


@pytest.mark.parametrize(
    ("wrong", "hint"), [("sa_nuet", "did you mean 'sa_unet'"), ("?", "'?': known are")]
)
def test_an_unknown_network_gets_a_hint_and_the_list(wrong, hint):
    with pytest.raises(InputError, match=re.escape(hint)) as caught:
        build_model(wrong)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in MODELS)


# ------------------------------------------------------------------------- names


@each
def test_every_layer_is_named_by_hand(name):
    """An automatic name counts up: a second build would have others."""
    names = [layer.name for layer in filled(name).layers]
    again = build_model(name)
    assert [layer.name for layer in again.layers] == names
    assert len(set(names)) == len(names)
    assert not any("/" in n or "lambda" in n.lower() for n in names)
    # each is a layer, not a bare operation on a tensor
    assert len(again.operations) == len(again.layers)
    # the names of the weights inside are stable too
    paths = [v.path for v in filled(name).weights]
    assert [v.path for v in again.weights] == paths
    assert len(set(paths)) == len(paths)


@each
def test_batch_normalisation_is_the_package_s_own(name):
    """Keras's is the same function, but takes longer to train."""
    stock = keras.layers.BatchNormalization
    kinds = {type(x) for x in filled(name).layers if isinstance(x, stock)}
    assert kinds <= {BatchNormalization}


@each
def test_the_config_builds_the_same_network(name):
    model = filled(name)
    config = model.get_config()
    json.dumps(config)
    again = keras.Model.from_config(config)
    assert again.name == name
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in again.layers)
    again.set_weights(model.get_weights())
    x = picture(32, 32)
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize("name", ["sa_unet", "sa_unet_v2"])
def test_a_saved_network_comes_back_in_safe_mode(name, tmp_path):
    model = filled(name)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = picture(32, 32)
    np.testing.assert_array_equal(again(x), model(x))


# ---------------------------------------------------------------------- DropBlock


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("sd_unet", 0.1),
        ("sa_unet_backbone", 0.18),
        ("sa_unet", 0.18),
        ("sa_unet_gn_silu", 0.15),
        ("sa_unet_v2_narrow", 0.15),
        ("sa_unet_v2_skip_sa", 0.15),
        ("sa_unet_v2", 0.15),
        ("unet_32", 0.15),
    ],
)
def test_drop_block_follows_each_convolution_at_the_papers_rate(name, rate):
    drops = [x for x in filled(name).layers if isinstance(x, DropBlock2D)]
    convs = [x for x in filled(name).layers if type(x) is keras.layers.Conv2D]
    assert len(drops) == len(convs) - 1  # not after the last one, 1x1
    assert {(d.rate, d.block_size) for d in drops} == {(rate, 7)}
    other = build_model(name, rate=0.05, block_size=3)
    drops = [x for x in other.layers if isinstance(x, DropBlock2D)]
    assert {(d.rate, d.block_size) for d in drops} == {(0.05, 3)}


def test_training_draws_masks_and_inference_does_not():
    model = filled("sa_unet_v2")
    x = picture()
    np.testing.assert_array_equal(model(x), model(x))
    first, second = (np.asarray(model(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - np.asarray(model(x))).max() > 1e-3


# -------------------------------------------------------------------- mixed precision


# A CPU emulates float16 slowly: minutes for networks of 30 million weights.
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((n, "mixed_bfloat16") for n in MODELS),
        *((n, "mixed_float16") for n in FAMILY),
    ],
    scope="module",
)
def test_mixed_precision_gives_float32_probabilities(name, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model(name)
    finally:
        keras.config.set_dtype_policy(before)
    assert {v.dtype for v in model.trainable_weights} == {"float32"}
    assert model.output.dtype == "float32"
    low = policy.removeprefix("mixed_")
    computed = {x.compute_dtype for x in model.layers if x.name != "vessels"}
    assert computed == {low}
    model.set_weights(filled(name).get_weights())
    x = picture(64, 64)
    y = np.asarray(model(x))
    assert y.dtype == np.float32
    assert np.abs(y - np.asarray(filled(name)(x))).mean() < 0.02


# ----------------------------------------------------------------------- learning


@on_tensorflow
@each
def test_every_weight_gets_a_gradient_and_a_step_along_it_helps(name):
    model = build_model(name)
    model.set_weights(filled(name).get_weights())
    sample = fundus_like(32, 32)
    x = ops.convert_to_tensor(sample.image[None].astype("float32") / 255)
    y = sample.vessels[None, ..., None].astype("float32")
    variables = model.trainable_variables

    def loss():
        return bce(y, model(x))

    found = gradients(loss, variables, compiled=loops(model))
    for variable, gradient in zip(variables, found, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path
    before = float(bce(y, called(model, x)))
    # a step that lowers the loss by 2 % if it were linear
    step = 0.02 * before / sum(np.square(g, dtype="float64").sum() for g in found)
    for variable, gradient in zip(variables, found, strict=True):
        variable.assign_sub(step * gradient)
    assert float(bce(y, called(model, x))) < before


@each
def test_a_network_learns_one_picture(name):
    """Its loss in inference mode falls far below that of any constant answer."""
    keras.utils.set_random_seed(0)
    options = inspect.signature(MODELS[name]).parameters
    model = build_model(name, **({"rate": 0.0} if "rate" in options else {}))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics are those of the last step
    # Tracing takes longer than the steps; but where a layer loops over channels,
    # single operations take longer still.
    optimizer = keras.optimizers.Adam(3e-3)
    model.compile(optimizer, bce, run_eagerly=not loops(model))
    sample = fundus_like(32, 32, seed=4)
    x = sample.image[None].astype("float32") / 255
    y = sample.vessels[None, ..., None].astype("float32")
    share = y.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    for _ in range(150):
        model.reset_metrics()
        if model.train_on_batch(x, y) < 0.15 * entropy:
            break
    # Once more without a step: the statistics of the weights as they are now.
    optimizer.learning_rate = 0.0
    model.train_on_batch(x, y)
    found = model.predict_on_batch(x)
    assert float(bce(y, found)) < 0.5 * entropy
    overlap = 2 * (y * (found > 0.5)).sum() / (y.sum() + (found > 0.5).sum())
    assert overlap > 0.9


# ------------------------------------------------------------------------ goldens


def inputs_of(layer):
    tensors = layer.input if layer._inbound_nodes else []
    tensors = tensors if isinstance(tensors, list) else [tensors]
    return [t._keras_history.operation.name for t in tensors]


OPTIONS = (
    "kernel_size strides use_bias groups epsilon momentum rate block_size activation "
    "size interpolation pool_size ratio steps"
).split()


def structure(model):
    """One line a layer: name, class, where from, output shape, weights, options."""
    lines = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        config = layer.get_config()
        options = {k: config[k] for k in OPTIONS if config.get(k) is not None}
        if "kernel_initializer" in config:
            options["init"] = config["kernel_initializer"]["class_name"]
        options = " ".join(f"{k}={v}" for k, v in options.items())
        weights = [list(w.shape) for w in layer.weights]
        shape = layer.output.shape[1:]
        lines.append(
            f"{layer.name}: {type(layer).__name__}({', '.join(inputs_of(layer))}) "
            f"-> {shape} {weights} {options}".rstrip()
        )
    return lines


def numerics(model):
    """The output for a fixed picture: spread, and a grid of its values."""
    y = np.asarray(called(model, picture()), "float64")[0, :, :, 0]
    grid = y[4::11, 7::11].ravel()
    return {
        "mean": round(y.mean(), 6),
        "std": round(y.std(), 6),
        "values": [round(v, 6) for v in grid],
    }


def compared(name, kind, value, accept):
    path = GOLDEN / f"{name}_{kind}.json"
    if accept:
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")
    assert path.exists(), "no golden: run with --accept-golden and review it"
    return json.loads(path.read_text())


@each
def test_the_structure_is_the_golden_one(name, accept_golden):
    value = structure(filled(name))
    assert value == compared(name, "structure", value, accept_golden)


@each
def test_the_numbers_are_the_golden_ones(name, accept_golden):
    got = numerics(filled(name))
    want = compared(name, "numerics", got, accept_golden)
    # A flat output or a saturated one would protect nothing.
    assert want["std"] > 0.02
    assert want["std"] < 0.4
    assert len(want["values"]) == 36
    for key in ("mean", "std", "values"):
        np.testing.assert_allclose(got[key], want[key], atol=2e-5, err_msg=key)


def test_no_golden_is_left_over():
    kinds = ("structure", "numerics")
    expected = {f"{name}_{kind}.json" for name in MODELS for kind in kinds}
    assert {p.name for p in GOLDEN.glob("*.json")} == expected
