"""Our DropBlock and FLOP counts beside keras-cv's and keras-flops' (extra `reference`).

Both packages are frozen and partly broken on today's TensorFlow and Keras: what is
broken is worked around here, and the package never imports them.
"""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import profiled_flops
from keras import ops

from saunet.layers import DropBlock2D
from saunet.models import build_model
from saunet.profiling import count_flops


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed: pip install 'saunet[reference]'")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def keras_cv_drop_block():
    """keras-cv's layer from its one source file.

    Importing the package needs tensorflow-datasets, dm-tree and more; under Keras 3
    its `max_pool` call passes TensorFlow's four-sided windows.
    """
    path = folder_of("keras_cv") / "src/layers/regularization/dropblock_2d.py"

    def max_pool(x, pool_size, strides, padding):
        return ops.max_pool(x, pool_size[1:3], strides[1:3], padding.lower())

    names = {n: getattr(ops, n) for n in dir(ops) if not n.startswith("_")}
    stubs = {
        "keras_cv": {},
        "keras_cv.src": {},
        "keras_cv.src.api_export": {"keras_cv_export": lambda name: lambda x: x},
        "keras_cv.src.backend": {
            "keras": keras,
            "ops": types.SimpleNamespace(**{**names, "max_pool": max_pool}),
            "random": keras.random,
        },
        "keras_cv.src.utils": {
            "conv_utils": types.SimpleNamespace(
                normalize_tuple=lambda value, n, name, allow_zero: (value,) * n
            )
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, attributes in stubs.items():
            module = types.ModuleType(name)
            vars(module).update(attributes)
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("dropblock_2d", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.DropBlock2D


@pytest.mark.parametrize(
    ("side", "block_size", "rate"), [(24, 7, 0.18), (16, 3, 0.3), (9, 7, 0.15)]
)
def test_drop_rate_and_mean_are_those_of_keras_cv(
    keras_cv_drop_block, side, block_size, rate
):
    """On square maps: keras-cv bounds rows by the width."""
    shape = (16, side, side, 64)
    x = np.ones(shape, "float32")
    maps = shape[0] * shape[-1]
    dropped = []
    for kind in (DropBlock2D, keras_cv_drop_block):
        y = np.asarray(kind(rate, block_size, seed=1)(x, training=True))
        assert abs(y.mean() - 1) < 1e-4
        dropped.append((y == 0).mean(axis=(0, 3)))
    ours, theirs = dropped
    blocks = ours.sum() * maps / block_size**2
    assert abs(ours.mean() / theirs.mean() - 1) < 5 * np.sqrt(2 / blocks)
    # each pixel too
    sigma = np.sqrt(2 * np.maximum(ours, 1 / maps) / maps)
    assert np.all(np.abs(ours - theirs) < 5.5 * sigma)


@pytest.fixture(scope="module")
def keras_flops_rules():
    """Registers keras-flops' formulas, less those that TensorFlow has by now."""
    path = folder_of("keras_flops") / "flops_registory.py"
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the profiler needs a TensorFlow graph")
    from tensorflow.python.framework import ops as framework

    register = framework.RegisterStatistics

    class RegisterOnce(register):
        def __call__(self, function):
            # "Registering two _flops_add with name 'AddV2,flops'": known by now
            with contextlib.suppress(KeyError):
                return super().__call__(function)
            return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framework, "RegisterStatistics", RegisterOnce)
        spec = importlib.util.spec_from_file_location("flops_registory", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ["unet_18", "sd_unet", "sa_unet_backbone", "sa_unet"])
def test_flops_are_those_of_keras_flops(keras_flops_rules, name):
    """`get_flops` written again: 0.1.2 adds a list to a tuple shape on Keras 3."""
    model = build_model(name)
    profiled = profiled_flops(lambda x: model(x, training=False), (1, 64, 64, 3))
    assert count_flops(model, (64, 64, 3)) == pytest.approx(profiled, rel=2e-4)
