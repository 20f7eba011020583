"""The networks compute what the authors' own code computes, weights included.

`<name>.h5` holds random weights as the authors' TensorFlow 2.12 code saves them and
`<name>.npz` an input `x` with that code's output `y`.
"""

import h5py
import numpy as np
import pytest

from saunet.models import build_model
from saunet.weights import load_weights, save_weights

pytestmark = pytest.mark.data

NETWORKS = {
    "sa_unet_2020": ("sa_unet", {}),
    "sa_unet_2020_backbone": ("sa_unet_backbone", {}),
    "sd_unet_2019": ("sd_unet", {}),
    "sa_unet_v2": ("sa_unet_v2", {}),
    "sa_unet_gn_silu": ("sa_unet_gn_silu", {}),
    "unet_gn_silu_16": ("unet_32", {"filters": 16}),
}


def layout(path):
    """What a Keras 2 reader sees: arrays layer by layer, and each attribute's kind."""
    with h5py.File(path) as file:
        kinds = {
            name: (group.attrs[name].dtype.kind if name.endswith("names") else "str")
            for group in (file, file["top_level_model_weights"])
            for name in group.attrs
        }
        layers = []
        for layer in file.attrs["layer_names"]:
            names = file[layer].attrs["weight_names"]
            if len(names):
                arrays = [(n.split("/")[-1], file[layer][n]) for n in names]
                layers.append([(n, a.shape, a.dtype.str) for n, a in arrays])
        return kinds, layers


@pytest.mark.parametrize("name", NETWORKS)
def test_official_weights_give_the_official_output(name, shared, tmp_path):
    folder = shared("conformance")
    builder, options = NETWORKS[name]
    model = build_model(builder, **options)
    load_weights(model, folder / f"{name}.h5")
    tensors = np.load(folder / f"{name}.npz")
    difference = np.abs(model.predict(tensors["x"], verbose=0) - tensors["y"]).max()
    print(f"{name}: largest difference {difference:.1e}")
    assert difference < 1e-4

    save_weights(model, tmp_path / "again.h5", file_format="legacy")
    assert layout(tmp_path / "again.h5") == layout(folder / f"{name}.h5")
    again = build_model(builder, **options)
    load_weights(again, tmp_path / "again.h5")
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
