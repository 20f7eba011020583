"""Which precision this machine trains faster in: measured, since none says so.

Processors with AVX-512 and bfloat16 or AMX, and GPUs, gain by bfloat16. Elsewhere it is
emulated: on a processor with AVX2 alone TensorFlow's step of SA-UNet takes ten times as
long as in float32, nearly all of it in the gradients of convolutions.
"""

import functools
import time

import keras
import numpy as np

ROUNDS = 4


@functools.cache
def bfloat16_is_faster():
    """Returns whether a training step is clearly faster in mixed bfloat16.

    Than in float32, of two convolutions on this machine; takes one to four seconds,
    once a process. A GPU is taken to be faster without a measurement.
    """
    if not keras.distribution.list_devices()[0].startswith("cpu"):
        return True
    steps = {policy: _step(policy) for policy in ("float32", "mixed_bfloat16")}
    seconds = {policy: [] for policy in steps}
    for _ in range(ROUNDS):  # in turns
        for policy, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[policy].append(time.perf_counter() - start)
    # The first one compiles; what else the machine does can only add. A gain that is
    # hardly one is not worth the digits.
    return min(seconds["mixed_bfloat16"][1:]) < 0.9 * min(seconds["float32"][1:])


def _step(policy):
    """Returns a function that trains two convolutions by one step."""
    image = keras.Input((64, 64, 16))
    x = keras.layers.Conv2D(16, 3, padding="same", dtype=policy)(image)
    x = keras.layers.Conv2D(16, 3, padding="same", dtype=policy)(x)
    model = keras.Model(image, x)
    model.compile("sgd", "mse")
    maps = np.ones((4, 64, 64, 16), "float32")
    return lambda: model.train_on_batch(maps, maps)
