"""AG-Net: the authors' tensors, its outputs, its scaled inputs."""

import keras
import numpy as np
import pytest
from helpers import fill_weights, generator
from test_guided_filter import bilinear
from torch_weights import load_torch_weights

from saunet.errors import InputError
from saunet.models import build_model
from saunet.models.ag_net import _shrink

LOGITS = ["mean_logits", *(f"side{level}_logits" for level in (3, 2, 1, 0))]


def module_names():
    """Our layer -> the authors' module."""
    names = {"centre_a_conv": "center.encode.0.conv"}
    names["centre_b_conv"] = "center.encode.1.conv"
    for level in range(4):
        names[f"scale{level}_conv"] = f"conv{level + 1}.encode.0"
        names[f"side{level}_conv"] = f"side_{8 - level}"
        for part in ("theta", "phi", "psi"):
            names[f"up{level}_{part}"] = f"attentionblock{8 - level}.{part}"
        for number, letter in enumerate("abc"):
            for part in ("conv", "gn"):
                down = f"down{level + 1}.encode.{number}.{part}"
                names[f"down{level}_{letter}_{part}"] = down
                up = f"up{8 - level}.decode.{number}.{part}"
                names[f"up{level}_{letter}_{part}"] = up
    return names


@pytest.mark.data
def test_official_tensors(shared):
    with np.load(shared("conformance") / "ag_net_2019_torch.npz") as file:
        tensors = dict(file)
    model = build_model("ag_net", outputs="all")
    load_torch_weights(model, tensors, module_names())
    logits = [model.get_layer(name).output for name in LOGITS]
    got = keras.Model(model.inputs, logits).predict(tensors["x"], verbose=0)
    for i, y in enumerate(got):
        difference = np.abs(y - tensors[f"y{i}"]).max()
        print(f"{LOGITS[i]}: largest difference {difference:.1e}")
        assert difference < 1e-3


def test_the_outputs_are_one_network():
    models = {kind: build_model("ag_net", outputs=kind) for kind in ("mean", "all")}
    models["side_8"] = build_model("ag_net", outputs="side_8")
    fill_weights(models["mean"])
    weights = models["mean"].get_weights()
    x = generator("ag_net").random((1, 32, 48, 3), "float32")
    maps = {}
    for kind, model in models.items():
        assert model.count_params() == 9_335_340
        model.set_weights(weights)
        maps[kind] = model(x)
    assert [y.shape for y in maps["all"]] == [(1, 32, 48, 1)] * 5
    np.testing.assert_allclose(maps["all"][0], maps["mean"], atol=1e-6)
    np.testing.assert_allclose(maps["all"][4], maps["side_8"], atol=1e-6)
    assert np.abs(np.asarray(maps["mean"]) - maps["side_8"]).max() > 1e-3
    with pytest.raises(InputError, match="outputs 'last': pass 'mean', 'all' or"):
        build_model("ag_net", outputs="last")


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_scaled_inputs_are_bilinear(factor):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, _shrink(image, factor, name="scale"))
    x = generator("shrink").random((1, 32, 48, 3), "float32")
    want = bilinear(x, 32 // factor, 48 // factor)
    np.testing.assert_allclose(model(x), want, atol=1e-6)
