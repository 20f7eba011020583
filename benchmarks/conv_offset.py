"""Time and memory of ConvOffset2D beside a plain 3x3 convolution, on this CPU.

    python benchmarks/conv_offset.py

One training step each (forward and gradients of input and weights) on the same maps,
in turns in one process; the ratio is the median over rounds. Processor time is what
both cost, and hardly depends on what else runs; wall time also says how well they
spread over cores. Memory is what a step and its two given maps hold at
the peak, each in a process of its own, with large blocks given back at once. Needs
Linux and TensorFlow.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import process_memory

import saunet  # noqa: F401  (before Keras: it chooses TensorFlow's kernels)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
KINDS = ("convolution", "offset")


def training_step(kind, args):
    """Returns a function of a map's side that runs one step of one kind of layer."""
    import keras
    import tensorflow as tf

    from saunet.layers import ConvOffset2D

    shape = (None, None, None, args.channels)
    if kind == "convolution":
        layer = keras.layers.Conv2D(args.channels, 3, padding="same", use_bias=False)
    else:
        layer = ConvOffset2D()
    layer.build(shape)
    if kind == "offset":
        # Offsets of about a pixel: at the initial .01 all neighbours are the same.
        kernel = layer.kernel
        kernel.assign(tf.random.normal(kernel.shape, stddev=args.channels**-0.5 / 3))

    @tf.function(jit_compile=args.jit, input_signature=2 * [tf.TensorSpec(shape)])
    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        sources = [x, *(w.value for w in layer.trainable_weights)]
        return tape.gradient(y, sources, upstream)

    @functools.cache
    def maps(side):
        sizes = (args.batch, side, side, args.channels)
        return tf.random.normal(sizes), tf.random.normal(sizes)

    return lambda side: step(*maps(side))[1].numpy()


def compare_times(args):
    """Prints the median times of both layers, in turns, and their ratio."""
    steps = {kind: training_step(kind, args) for kind in KINDS}
    for step in steps.values():
        step(args.size)
    times = {kind: [] for kind in KINDS}
    for _ in range(args.rounds):
        for kind, step in steps.items():
            before = time.perf_counter(), time.process_time()
            step(args.size)
            after = time.perf_counter(), time.process_time()
            times[kind].append([b - a for a, b in zip(before, after, strict=True)])
    for clock, name in enumerate(("wall", "processor")):
        plain, ours = ([t[clock] for t in times[kind]] for kind in KINDS)
        ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
        print(
            f"{name} time: convolution {1e3 * statistics.median(plain):.1f} ms, "
            f"ConvOffset2D {1e3 * statistics.median(ours):.1f} ms, ratio {ratio:.2f}"
        )


def peak_memory(kind, args):
    """Returns the bytes that a step holds at most beyond those before it."""
    step = training_step(kind, args)
    # On a small map first: TensorFlow keeps what it has once held.
    step(8)
    before = process_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step(args.size)
    return process_memory("VmHWM") - before


def compare_memory(args):
    """Prints the peak memory of both layers, and its ratio."""
    peaks = {}
    for kind in KINDS:
        command = [sys.executable, __file__, "--memory-of", kind, *sys.argv[1:]]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        peaks[kind] = int(done.stdout)
    plain, ours = (peaks[kind] / 2**20 for kind in KINDS)
    print(
        f"peak memory: convolution {plain:.1f} MiB, ConvOffset2D {ours:.1f} MiB, "
        f"ratio {ours / plain:.2f}"
    )


def main():
    """Reads the options and runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jit", action="store_true", help="compile by XLA")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of, args))
        return
    compare_times(args)
    compare_memory(args)


if __name__ == "__main__":
    main()
