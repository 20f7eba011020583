"""This machine: its cores, and which precision it trains faster in.

The precision is measured, since no machine says so.

Processors with AVX-512 and bfloat16 or AMX gain by bfloat16, and GPUs from NVIDIA's
Ampere (compute capability 8.0) on. Elsewhere it is emulated: on a processor with AVX2
alone TensorFlow's step of SA-UNet takes ten times as long as in float32, nearly all of
it in the gradients of convolutions.
"""

import functools
import os
import subprocess
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


def query_gpu(fact):
    """Returns what NVIDIA's driver says of the first GPU, or None without one.

    Args:
        fact: a property that `nvidia-smi --query-gpu` knows, such as "name".
    """
    said = printed(["nvidia-smi", f"--query-gpu={fact}", "--format=csv,noheader"])
    return said and said.splitlines()[0].strip()


def printed(command, **options):
    """Returns what a program prints, or None where there is none or it fails."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, **options
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


@functools.cache
def bfloat16_is_faster():
    """Returns whether a training step is clearly faster in mixed bfloat16.

    Than in float32, of four convolutions on this machine; takes one to five seconds,
    once a process. Of a GPU it is not measured: one is taken to be faster unless its
    driver says that it has no units for it.
    """
    import keras  # seconds, which counting cores need not wait for

    if not keras.distribution.list_devices()[0].startswith("cpu"):
        generation = (query_gpu("compute_cap") or "").partition(".")[0]
        return not generation.isdecimal() or int(generation) >= 8
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
