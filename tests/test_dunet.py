"""U-Net and DU-Net: which layers are deformable and normalised, and what they cost."""

import keras
import pytest

from saunet.layers import ConvOffset2D
from saunet.models import build_model
from saunet.profiling import count_flops


def test_the_deformable_levels():
    encoder = ["down1_a", "down1_b", "down2_a", "down2_b"]
    decoder = ["up1_a", "up1_b", "up0_a", "up0_b"]
    for name, units in (("dunet_encoder", encoder), ("dunet", encoder + decoder)):
        model = build_model(name, layout="reference")
        offsets = [x for x in model.layers if isinstance(x, ConvOffset2D)]
        assert [x.name for x in offsets] == [f"{unit}_offset" for unit in units]
        assert {x.layout for x in offsets} == {"reference"}
    channels = [x.kernel.shape[2] for x in offsets]
    # The decoder's first offset is on the concatenated map.
    assert channels == [64, 128, 128, 256, 256, 128, 128, 64]


@pytest.mark.parametrize(("name", "levels"), [("unet", 4), ("unet_3level", 3)])
def test_the_bottleneck_of_u_net_has_no_normalisation(name, levels):
    model = build_model(name)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == 4 * levels
    assert not any(x.name.startswith("bottleneck") for x in norms)
    assert model.get_layer("bottleneck_b_conv").filters == 64 * 2**levels


def test_an_offset_layer_costs_its_convolution_and_its_interpolation():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, ConvOffset2D()(inputs))
    # 15 pixels: 8 filters of 2 * 9 * 4; 4 values of 2 + 2 + 3 * 3
    assert count_flops(model, (3, 5, 4)) == 15 * (8 * 72 + 4 * 13)
    # In a network: its four layers at 32x32 and 16x16, and the bottleneck's
    # normalisations, which U-Net does not have.
    plain, deformable = (
        count_flops(build_model(name), (64, 64, 3))
        for name in ("unet", "dunet_encoder")
    )
    offsets = [(64, 32), (128, 32), (128, 16), (256, 16)]
    more = sum(side**2 * c * (2 * 9 * 2 * c + 13) for c, side in offsets)
    assert deformable - plain == more + 2 * (2 * 4 * 4 * 1024 + 6 * 1024)
