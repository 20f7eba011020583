"""Parts of a training step in few passes over a map, with TensorFlow on CPUs.

A layer of `keras.ops` is many passes over a map there, each at the speed of memory:
`x * scale + offset` is two, the gradient of SiLU five. XLA makes one loop of a chain of
such operations, and of sums, where it can add up neighbours in registers. It is used
for these parts alone: its convolutions are slower than TensorFlow's. So the layers stay
as they are everywhere else (JAX, float16, GPUs, where XLA compiles all by itself), and
nothing but rounding differs. Nor is anything compiled at inference, where each size of
a photograph would be compiled anew.

What each part gained, and what was tried and left: docs/speed.md, "For maintainers".
"""

import functools

import keras
from keras import ops

# So many neighbours are added up in registers before their sum is written.
RUN = 16


def can_fuse(x):
    """Returns whether the functions below take this map `(N, H, W, C)` here."""
    return _on_tensorflow_cpu() and ops.dtype(x) in ("float32", "bfloat16")


@functools.cache
def _on_tensorflow_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # On a GPU the normalisation hands its gradient other numbers than the variance.
    if tf.config.list_physical_devices("GPU"):
        return False
    try:  # not every build of TensorFlow has XLA
        with tf.init_scope():
            tf.function(lambda: tf.zeros(1) + 1, jit_compile=True)()
    except tf.errors.OpError:
        return False
    return True


def one_loop(function):
    """Compiles a function of maps by XLA when it is first called."""

    @functools.cache
    def compiled():
        import tensorflow as tf

        return tf.function(function, jit_compile=True, reduce_retracing=True)

    @functools.wraps(function)
    def call(*args):
        return compiled()(*args)

    return call


# ------------------------------------------------------------------ normalisation


def means(x, other):
    """Returns the means over pixels of `x` and of `x * other`.

    Args:
        x: `(N, H, W, C)`.
        other: The same shape.

    Returns:
        Two tensors `(N, C)` float32.
    """
    pixels = ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")
    # Along a row, then down: one sum of a large map would lose two digits.
    return [
        ops.sum(ops.sum(runs, axis=2), axis=1) / pixels
        for runs in _sums_of_runs(x, other)
    ]


@one_loop
def _sums_of_runs(x, other):
    """Returns sums over up to `RUN` neighbours of a row, of `x` and `x * other`."""
    import tensorflow as tf

    n, height, width, channels = tf.unstack(tf.shape(x))
    # The largest power of two that divides the width, up to RUN.
    run = tf.minimum(tf.bitwise.bitwise_and(width, -width), RUN)
    shape = (n, height, width // run, run, channels)
    x, other = (tf.reshape(tf.cast(v, "float32"), shape) for v in (x, other))
    return tf.reduce_sum(x, axis=3), tf.reduce_sum(x * other, axis=3)


@one_loop
def multiply_add(x, scale, offset):
    """Returns `x * scale + offset` in the dtype of `x`.

    Args:
        x: `(N, H, W, C)`.
        scale: `(N, C)` float32.
        offset: `(N, C)` float32.
    """
    y = ops.cast(x, "float32") * scale[:, None, None] + offset[:, None, None]
    return ops.cast(y, x.dtype)


@one_loop
def multiply_add_both(x, other, scale, slope, offset):
    """Returns `x * scale + other * slope + offset` in the dtype of `x`.

    Args:
        x: `(N, H, W, C)`.
        other: The same shape.
        scale: `(N, C)` float32.
        slope: `(N, C)` float32.
        offset: `(N, C)` float32.
    """
    scale, slope, offset = (v[:, None, None] for v in (scale, slope, offset))
    x32, other = (ops.cast(v, "float32") for v in (x, other))
    return ops.cast(x32 * scale + other * slope + offset, x.dtype)


def normalise_batch(x, gamma, beta, mean, variance, epsilon):
    """Normalises by statistics of the batch, of which the gradient knows.

    By TensorFlow's own operation, which takes any mean and variance.

    Args:
        x: `(N, H, W, C)`.
        gamma: `(C,)` float32.
        beta: `(C,)` float32.
        mean: `(C,)` float32, of `x`; without a gradient of its own.
        variance: `(C,)` float32, likewise.
        epsilon: Float added to the variance.

    Returns:
        `(N, H, W, C)` of the dtype of `x`.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def apply(x, gamma, beta):
        y = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        ).y

        def gradient(dy):
            found = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros((0,)),
                epsilon=epsilon,
                is_training=True,
            )
            return found.x_backprop, found.scale_backprop, found.offset_backprop

        return y, gradient

    return apply(x, gamma, beta)


# ------------------------------------------------------------------ the rest


def silu(x):
    """Returns `x * sigmoid(x)`; any shape."""
    import tensorflow as tf

    return tf.custom_gradient(lambda x: (_silu(x), lambda dy: _silu_gradient(x, dy)))(x)


@one_loop
def _silu(x):
    x32 = ops.cast(x, "float32")
    return ops.cast(x32 * ops.sigmoid(x32), x.dtype)


@one_loop
def _silu_gradient(x, dy):
    x32, dy = (ops.cast(v, "float32") for v in (x, dy))
    s = ops.sigmoid(x32)
    return ops.cast(dy * s * (1 + x32 * (1 - s)), x.dtype)


def drop(x, kept, scale):
    """Returns `x * scale`, and 0 where nothing is kept.

    Args:
        x: `(N, H, W, C)`.
        kept: The same shape, uint8: 0 or 1.
        scale: Number, of the dtype of `x`.
    """
    import tensorflow as tf

    def of(values):
        return _drop(values, kept, scale)

    return tf.custom_gradient(lambda x: (of(x), of))(x)


@one_loop
def _drop(x, kept, scale):
    return ops.where(kept != 0, x * scale, ops.zeros((), x.dtype))


def count_bits(words):
    """Returns how many bits are set in all of the int32 words together."""
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=words), "int32"))
