"""RSAN and CMP-UNet compute what their authors' own code computes.

`rsan_2020.h5` is what TensorFlow 2.12 saved, `cmp_unet_2023_torch.npz` holds a
PyTorch state dict; both carry random weights, an input and the output for it.
"""

import keras
import numpy as np
import pytest
from torch_weights import load_torch_weights

from saunet.models import build_model
from saunet.weights import load_weights

pytestmark = pytest.mark.data


def test_rsan_gives_the_official_output(shared, tmp_path):
    folder = shared("conformance")
    model = build_model("rsan")
    load_weights(model, folder / "rsan_2020.h5")
    tensors = np.load(folder / "rsan_2020.npz")
    difference = np.abs(model.predict(tensors["x"], verbose=0) - tensors["y"]).max()
    print(f"rsan_2020: largest difference {difference:.1e}")
    assert difference < 1e-4


def cmp_unet_names():
    """Our layer -> the authors' module."""
    names = {}

    def unit(ours, conv, norm):
        names[f"{ours}_conv"] = conv
        names[f"{ours}_bn"] = norm

    def cffa(ours, theirs):
        for part, branch in (("fine", "thinconv"), ("coarse", "wideconv")):
            for letter, index in (("a", 0), ("b", 3)):
                module = f"{theirs}.{branch}.model"
                unit(f"{ours}_{part}_{letter}", *_pair(module, index))
        unit(f"{ours}_fuse", *_pair(f"{theirs}.out", 0))

    def mscaf(ours, theirs):
        for number, part in enumerate(("near", "mid", "far"), start=1):
            unit(f"{ours}_{part}", *_pair(f"{theirs}.conv{number}", 0))
        for inner, module in {
            "grid_hidden": "q.0",
            "grid_score": "q.3",
            "channel_hidden": "k.0",
            "channel_weight": "k.3",
        }.items():
            names[f"{ours}_attention/{inner}"] = f"{theirs}.out.0.{module}"
        unit(f"{ours}_fuse", *_pair(f"{theirs}.out", 1))

    unit("stem_a", *_pair("inc", 0))
    unit("stem_b", *_pair("inc", 4))
    for level in (1, 2, 3, 4):
        cffa(f"down{level}_a", f"down{level}.conv.1")
        cffa(f"down{level}_b", f"down{level}.conv.3")
    for number, level in enumerate((3, 2, 1, 0), start=1):
        names[f"up{level}_conv"] = f"up{number}.up.0"
        mscaf(f"up{level}_mscaf", f"up{number}.out.0")
        unit(f"up{level}_cbrd", *_pair(f"up{number}.out", 1))
        unit(f"pff{number - 1}", *_pair(f"out{number}", 0))
    mscaf("pff_mscaf", "ffm")
    names["vessels_conv"] = "out.0"
    return names


def _pair(module, index):
    """A convolution and the normalisation after it in a `torch.nn.Sequential`."""
    return f"{module}.{index}", f"{module}.{index + 1}"


def test_cmp_unet_gives_the_official_logit(shared):
    with np.load(shared("conformance") / "cmp_unet_2023_torch.npz") as file:
        tensors = dict(file)
    model = build_model("cmp_unet")
    load_torch_weights(model, tensors, cmp_unet_names())
    logits = keras.Model(model.inputs, model.get_layer("vessels_conv").output)
    error = np.abs(logits.predict(tensors["x"], verbose=0) - tensors["y0"]).max()
    relative = error / np.abs(tensors["y0"]).max()
    print(f"cmp_unet_2023: largest difference {relative:.1e} of the largest logit")
    assert relative < 1e-3
