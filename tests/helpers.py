"""What several tests share: weights by path, tiny samples, small graph tools."""

import hashlib

import keras
import numpy as np
import pytest

from saunet.data.datasets import Sample
from saunet.layers import RecurrentConv2D, SharedResidualBlock

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="uses a TensorFlow gradient tape"
)


def generator(*words):
    """Returns a NumPy generator that the words alone decide."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def fill_weights(model):
    """Fills each weight from a generator seeded by its path, He-scaled.

    No initialiser and no global seed is involved, and a layer keeps its values
    when others come or go. Kernels are scaled so that the signal survives the
    depth of a network: a golden protects only what its output depends on.
    """
    # A recurrence, or a residual without normalisation, that keeps the spread of its
    # input adds to it at every step.
    growing = {
        id(inner)
        for layer in model.layers
        if isinstance(layer, RecurrentConv2D | SharedResidualBlock)
        for inner in layer._flatten_layers(include_self=False)
    }
    for layer in all_layers(model):
        for variable in layer.weights:
            path = variable.path.split(f"{model.name}/")[-1]
            draw = generator(path).standard_normal(variable.shape)
            kind = variable.name
            if kind == "kernel":
                fan_in = np.prod(variable.shape[:-1])
                gain = 0.5 if id(layer) in growing else 2
                if isinstance(layer, keras.layers.Conv2DTranspose):
                    # (k, k, out, in); a stride of 2 leaves a quarter of the taps.
                    # No ReLU follows: a gain of 2 would saturate the sigmoid.
                    fan_in = np.prod(variable.shape) / variable.shape[-2] / 4
                    gain = 1
                draw *= np.sqrt(gain / fan_in)
            elif kind in ("gamma", "moving_variance"):
                draw = 1 + 0.1 * np.tanh(draw)
            else:
                draw *= 0.1
            variable.assign(draw)


def all_layers(model):
    """Returns the layers of a model that have no layers of their own inside."""
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not list(layer._flatten_layers(include_self=False))
    ]


def fundus_like(height, width, seed=0, name="a"):
    """Returns a small `Sample`: dark lines on an orange ground, labels exact."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    vessels = np.zeros((height, width), bool)
    for _ in range(3):
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25) * height
        across = (x - width / 2) * np.sin(angle) + (y - height / 2) * np.cos(angle)
        vessels |= np.abs(across - shift) < rng.uniform(1, 3)
    image = np.where(vessels[..., None], (120, 40, 20), (200, 110, 60))
    image = image + rng.normal(0, 5, image.shape)
    return Sample(
        name=name,
        image=np.clip(image, 0, 255).astype(np.uint8),
        vessels=vessels.astype(np.uint8),
        fov=np.ones((height, width), np.uint8),
        fov_source="official",
        second_observer=None,
    )


def gradients(function, variables, compiled=False):
    """Returns the gradients of `function()` as arrays or None; TensorFlow only."""
    import tensorflow as tf

    values = [getattr(v, "value", v) for v in variables]

    def compute():
        with tf.GradientTape() as tape:
            for value in values:
                tape.watch(value)
            result = function()
        return tape.gradient(result, values)

    found = tf.function(compute)() if compiled else compute()
    return [None if g is None else np.asarray(g) for g in found]


def profiled_flops(function, shape):
    """What TensorFlow's profiler counts in the frozen graph of `function`."""
    tf = pytest.importorskip("tensorflow")
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2_as_graph as freeze,
    )

    if keras.backend.backend() != "tensorflow":
        pytest.skip("the profiler needs a TensorFlow graph")
    spec = tf.TensorSpec(shape, "float32")
    frozen, _ = freeze(tf.function(function).get_concrete_function(spec))
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    profile = tf.compat.v1.profiler.profile(
        graph=frozen.graph, cmd="scope", options=options
    )
    return profile.total_float_ops
