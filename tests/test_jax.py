"""Models, losses, data, training, weights and inference on JAX, without TensorFlow."""

import importlib.util
import os
import subprocess
import sys

import pytest

# Compiling is what takes the time here; as little of it as there is.
ON_JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
}

# Between them they have every layer of the package; all 25 take JAX minutes to compile.
NETWORKS = (
    *("sa_unet", "sa_unet_v2", "rsan", "dunet", "ag_net", "cbam_unet"),
    *("cmp_unet", "ladder_net", "r2u_net"),
)

SCRIPT = """
import sys
sys.modules["tensorflow"] = None  # importing it is an error

import keras
import numpy as np

import saunet
from saunet import training
from saunet.data.synthetic import synthetic_fundus

assert keras.backend.backend() == "jax"
folder = sys.argv[1]
samples = [synthetic_fundus(i, height=80, width=64) for i in range(3)]
recipe = training.Recipe(
    "sa_unet_v2", model_kwargs={"rate": 0.1, "block_size": 3}, loss="bce_mcc", crop=32,
    batch_size=1, epochs=2, steps_per_epoch=1, optimizer="adamw", ema=0.5,
    schedule="one_cycle", validation=1,
)
whole = training.train(recipe, samples, folder + "/whole", progress=False)

save = training._RunFolder._save_state

def killed(self):
    if self.epochs_done == 2:
        raise KeyboardInterrupt
    save(self)

training._RunFolder._save_state = killed
try:
    training.train(recipe, samples, folder + "/killed", progress=False)
except KeyboardInterrupt:
    pass
training._RunFolder._save_state = save
resumed = training.train(
    recipe, samples, folder + "/killed", resume=True, progress=False
)
again = saunet.build_model("sa_unet_v2")
saunet.load_weights(again, folder + "/whole/last.weights.h5")
for a, b, c in zip(*(m.get_weights() for m in (whole, resumed, again)), strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)
saunet.save_weights(again, folder + "/legacy.h5", file_format="legacy")
saunet.load_weights(resumed, folder + "/legacy.h5")
probability = saunet.Segmenter(again).predict(samples[0].image)
assert probability.shape == (80, 64)
assert 0 <= probability.min() < probability.max() <= 1
print("all done")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_everything_runs_on_jax_where_tensorflow_is_absent(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, **ON_JAX},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("all done\n"), done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_networks_have_their_golden_numbers_on_jax():
    tests = os.path.join(os.path.dirname(__file__), "test_models.py")
    names = [f"{tests}::test_the_numbers_are_the_golden_ones[{n}]" for n in NETWORKS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *names],
        env={**os.environ, **ON_JAX},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"{len(NETWORKS)} passed" in done.stdout
