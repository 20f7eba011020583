"""The units: which layers in which order, their names, their parameters."""

import keras
import pytest
from keras import layers

from saunet import blocks
from saunet.errors import InputError
from saunet.layers import (
    BatchNormalization,
    DropBlock2D,
    GroupNormalization,
    ReLU,
    SiLU,
)

DROP = {"rate": 0.1, "block_size": 3}
# unit -> its options, its layers in order, its parameters beside the convolution
UNITS = {
    "conv_relu": ({}, [layers.Conv2D, ReLU], 0),
    "conv_drop_relu": (DROP, [layers.Conv2D, DropBlock2D, ReLU], 0),
    "conv_drop_bn_relu": (
        DROP,
        [layers.Conv2D, DropBlock2D, BatchNormalization, ReLU],
        4 * 16,
    ),
    "conv_drop_gn_silu": (
        DROP,
        [layers.Conv2D, DropBlock2D, GroupNormalization, SiLU],
        2 * 16,
    ),
}
PARTS = {"ReLU": "relu", "Conv2D": "conv", "DropBlock2D": "drop"}
PARTS |= {"BatchNormalization": "bn", "GroupNormalization": "gn", "SiLU": "silu"}


def unit(name):
    inputs = keras.Input((8, 12, 5), name="image")
    outputs = getattr(blocks, name)(inputs, 16, **UNITS[name][0], name="a")
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_its_layers_in_order(name):
    _, kinds, extra = UNITS[name]
    model = unit(name)
    made = model.layers[1:]
    assert [type(layer) for layer in made] == kinds
    assert [layer.name for layer in made] == [f"a_{PARTS[k.__name__]}" for k in kinds]
    assert model.output_shape == (None, 8, 12, 16)
    # 3x3 kernel and bias
    assert model.count_params() == 3 * 3 * 5 * 16 + 16 + extra


@pytest.mark.parametrize("name", [n for n in UNITS if UNITS[n][0]])
def test_a_unit_hands_its_options_to_drop_block(name):
    drop = unit(name).get_layer("a_drop")
    assert (drop.rate, drop.block_size) == (0.1, 3)


def test_the_initialisers_and_epsilons_are_the_papers():
    v2 = unit("conv_drop_gn_silu")
    config = v2.get_layer("a_conv").get_config()
    assert config["kernel_initializer"]["class_name"] == "HeNormal"
    gn = v2.get_layer("a_gn")
    assert (gn.groups, gn.epsilon) == (8, 1e-3)
    assert v2.get_layer("a_silu").activation is keras.activations.silu
    v1 = unit("conv_drop_bn_relu")
    config = v1.get_layer("a_conv").get_config()
    assert config["kernel_initializer"]["class_name"] == "GlorotUniform"
    bn = v1.get_layer("a_bn")
    assert (bn.epsilon, bn.momentum) == (1e-3, 0.99)  # Keras's defaults


def test_up_conv_doubles_the_map_with_a_3x3_kernel_and_bias():
    inputs = keras.Input((4, 6, 8))
    model = keras.Model(inputs, blocks.up_conv(inputs, 5, name="up0"))
    assert model.output_shape == (None, 8, 12, 5)
    assert model.layers[1].name == "up0_conv"
    assert model.count_params() == 3 * 3 * 8 * 5 + 5
    assert model.layers[1].activation is keras.activations.linear


def test_the_vessel_map_stays_in_float32():
    inputs = keras.Input((4, 6, 8), dtype="bfloat16")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras.Model(inputs, blocks.vessel_map(inputs))
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.output_shape == (None, 4, 6, 1)
    assert model.count_params() == 8 + 1
    assert model.get_layer("vessels_conv").compute_dtype == "bfloat16"
    assert model.get_layer("vessels").compute_dtype == "float32"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("poolings", [3, 4])
def test_an_input_that_cannot_be_halved_is_refused(poolings):
    multiple = 2**poolings
    shape = (3 * multiple, 5 * multiple, 3)
    assert blocks.image_input(shape, poolings=poolings).shape == (None, *shape)
    assert blocks.image_input((None, None, 3), poolings=poolings).shape[1:3] == (
        None,
        None,
    )
    for wrong in [(multiple // 2, None, 3), (None, 3 * multiple + 1, 3)]:
        with pytest.raises(InputError, match=f"must be multiples of {multiple}; pad"):
            blocks.image_input(wrong, poolings=poolings)
