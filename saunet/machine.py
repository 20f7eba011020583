"""This machine: its cores, and which precision it trains faster in.

The precision is measured, since no machine says so.

Processors with AVX-512 and bfloat16 or AMX, and GPUs, gain by bfloat16. Elsewhere it is
emulated: on a processor with AVX2 alone TensorFlow's step of SA-UNet takes ten times as
long as in float32, nearly all of it in the gradients of convolutions.
"""

import functools
import os
import time

import numpy as np

ROUNDS = 6


def count_cores():
    """Returns how many processor cores this process may use.

    A batch system or `taskset` may leave it fewer than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


@functools.cache
def bfloat16_is_faster():
    """Returns whether a training step is clearly faster in mixed bfloat16.

    Than in float32, of four convolutions on this machine; takes one to five seconds,
    once a process. A GPU is taken to be faster without a measurement.
    """
    import keras  # seconds, which counting cores need not wait for

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
    """Returns a function that trains four convolutions by one step.

    A quarter of the pixels and half of the layers took 3 ms on a fast machine, little
    of it arithmetic: such a trial missed a gain of a third now and then.
    """
    import keras

    image = x = keras.Input((128, 128, 16))
    for _ in range(4):
        x = keras.layers.Conv2D(16, 3, padding="same", dtype=policy)(x)
    model = keras.Model(image, x)
    model.compile("sgd", "mse")
    maps = np.ones((4, 128, 128, 16), "float32")
    return lambda: model.train_on_batch(maps, maps)
