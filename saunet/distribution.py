"""Training on all devices of one machine: each takes its share of every batch.

On JAX by `keras.distribution.DataParallel`, which computes what one device would. On
TensorFlow, whose part of `keras.distribution` is marked unfit for use, by
`tf.distribute.MirroredStrategy`: each device has a loss, a batch normalisation and a
DropBlock of its own share (the masks are the same on each, image by image), and the
gradients are averaged. For a mean over pixels (BCE) without these that is the same; for
the overlap losses (dice, jaccard, mcc) it is the mean of the shares' losses, not the
loss of the whole batch. A bound of the gradient's norm (`clip_norm`) is refused there:
each share would be clipped by itself.
"""

import contextlib

import keras

from saunet.errors import InputError

DEVICES = ("one", "all")


@contextlib.contextmanager
def data_parallel(devices, batch_size):
    """While open, new models are trained on one device or on all of a machine.

    Args:
        devices: "one", which changes nothing, or "all": all GPUs, or else all CPUs
            that the backend was told to see.
        batch_size: Images a step, over all devices.

    Yields:
        How many devices share a batch, and how many of them have a loss of their own,
        whose mean is the batch's: divide each by that. That is 1 where the backend
        computes one loss of the whole batch.

    Raises:
        InputError: another word, or the batch cannot be shared out evenly.
    """
    if devices not in DEVICES:
        raise InputError(f"devices={devices!r}: expected {' or '.join(DEVICES)}")
    names = keras.distribution.list_devices() if devices == "all" else []
    if len(names) < 2:
        yield 1, 1
        return
    if batch_size % len(names):
        raise InputError(
            f"batch_size={batch_size} cannot be shared out to {len(names)} devices: "
            "use a multiple, or train on one device"
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(names).scope():
            yield len(names), len(names)
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names))
    try:
        yield len(names), 1
    finally:
        keras.distribution.set_distribution(before)
