"""RSAN: what its paper and code say about the graph, seen in the graph."""

import keras
import numpy as np
import pytest
from keras import layers

from saunet.layers import DropBlock2D, SpatialAttention
from saunet.models import build_model


@pytest.fixture(scope="module")
def rsan():
    return build_model("rsan", rate=0.22, block_size=5)


def of_kind(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "drops"), [("rsan_backbone", 0), ("rsan_backbone_dropblock", 28)]
)
def test_the_ablation_rows(name, drops):
    model = build_model(name)
    assert len(of_kind(model, DropBlock2D)) == drops
    assert not of_kind(model, SpatialAttention)


def test_rsan_adds_seven_attentions_of_98_weights(rsan):
    attentions = of_kind(rsan, SpatialAttention)
    assert [attention.count_params() for attention in attentions] == [98] * 7


def test_rate_and_block_size_reach_every_dropblock(rsan):
    drops = of_kind(rsan, DropBlock2D)
    assert len(drops) == 28
    assert {(drop.rate, drop.block_size) for drop in drops} == {(0.22, 5)}


def test_the_first_unit_normalises_the_raw_image(rsan):
    assert [layer.name for layer in rsan.layers[:3]] == [
        "image",
        "down0_a1_bn",
        "down0_a1_relu",
    ]


def test_batch_normalisation_is_the_code_s(rsan):
    norms = of_kind(rsan, layers.BatchNormalization)
    assert len(norms) == 7 * 5
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(2e-5, 0.9)}


def test_legacy_order_has_the_shortcut_after_the_second_convolution(rsan):
    names = [layer.name for layer in rsan.layers if layer.weights]
    for place in ("down0_a", "down2_a", "bottleneck_a", "up0_a"):
        shortcut = names.index(f"{place}_shortcut")
        assert names[shortcut - 1] == f"{place}2_conv"
        assert names[shortcut + 1] == f"{place[:-1]}b1_bn"


def test_a_block_whose_residual_is_zero_passes_its_input_on(rsan):
    """The shortcuts carry everything: with no residual, an RSAB is BN and ReLU."""
    for place in ("down0_a", "down0_b"):
        for weight in rsan.get_layer(f"{place}2_conv").weights:
            weight.assign(np.zeros(weight.shape))
    kernel, bias = rsan.get_layer("down0_a_shortcut").get_weights()
    x = np.random.default_rng(0).random((1, 8, 8, 3), "float32")
    # moving statistics are 0 and 1 before any training
    expected = np.maximum((x @ kernel[0, 0] + bias) / np.sqrt(1 + 2e-5), 0)
    end = rsan.get_layer("down0_b_out_relu").output
    part = keras.Model(rsan.input, end)
    np.testing.assert_allclose(part(x), expected, atol=1e-5)
