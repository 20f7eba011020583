"""Two virtual CPU devices train as one does at the same global batch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saunet.distribution import data_parallel
from saunet.errors import InputError

SCRIPT = """
import csv
import sys

folder, backend = sys.argv[1:]
if backend == "tensorflow":
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )

import keras
import numpy as np
from helpers import fundus_like
from keras import layers

from saunet import training
from saunet.errors import InputError

assert keras.backend.backend() == backend
assert len(keras.distribution.list_devices()) == 2


def toy_network(name, **kwargs):
    x = inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.Conv2D(1, 1, activation="sigmoid", name="vessels")(x)
    return keras.Model(inputs, x, name=name)


training.build_model = toy_network
training._tensorboard = lambda folder: []
samples = [fundus_like(32, 32, seed=i, name=n) for i, n in enumerate("abc")]
recipe = training.Recipe(
    "sa_unet", crop=16, batch_size=8, epochs=3, whole_epochs=1, steps_per_epoch=2,
    # Unlike Adam's, its steps grow with the gradient: a wrong scale would show.
    loss="bce", clip_norm=None, learning_rates=((3, 0.5),), ema=0.5, validation=1,
)
training.make_optimizer = lambda recipe, steps: keras.optimizers.SGD(
    0.5, use_ema=True, ema_momentum=0.5
)


def run(devices):
    where = f"{folder}/{devices}"
    model = training.train(recipe, samples, where, progress=False, devices=devices)
    with open(where + "/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    curve = [[float(row[name]) for name in ("loss", "val_loss")] for row in rows]
    return np.array(curve), model.get_weights()


(one, weights), (both, theirs) = run("one"), run("all")
assert one.shape == (3, 2) and one[0, 0] > one[-1, 0]
np.testing.assert_allclose(both, one, rtol=1e-5)
for a, b in zip(weights, theirs, strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
assert keras.distribution.distribution() is None
# a run of two devices goes on, here as a finished one
training.train(
    recipe, samples, folder + "/all", progress=False, devices="all", resume=True
)
# one whole photograph a step, and a last batch of one copy, are no shares of two
few = training.recipe_with(recipe, batch_size=4, epochs=1, whole_epochs=1)
training.train(few, samples, folder + "/few", progress=False, devices="all")
copies = training.recipe_with(
    recipe, augmentation="none", crop=None, whole_epochs=0, epochs=1, batch_size=2,
    steps_per_epoch=None, validation=0,
)
training.train(copies, samples, folder + "/copies", progress=False, devices="all")
odd = training.recipe_with(recipe, batch_size=3)
try:
    training.train(odd, samples, folder + "/odd", progress=False, devices="all")
except InputError as error:
    assert "2 devices" in str(error)
else:
    raise AssertionError("3 images shared out to 2 devices")
print("all done")
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_give_the_loss_curve_of_one(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), backend],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "all done" in done.stdout


def test_another_word_is_refused():
    with (
        pytest.raises(InputError, match="expected one or all"),
        data_parallel("two", 4),
    ):
        pass


def test_one_device_changes_nothing():
    with data_parallel("one", 3) as shares:
        assert shares == (1, 1)
