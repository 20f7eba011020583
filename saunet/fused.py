"""A unit of a network in few passes over its map, with TensorFlow on CPUs.

DropBlock, normalisation and activation are many passes over a map there, each at the
speed of memory: `x * scale + offset` is two, the gradient of SiLU five. XLA makes one
loop of such a chain. It is used for these parts alone: its convolutions are slower than
TensorFlow's. So the layers stay as they are everywhere else (JAX, float16, GPUs, where
XLA compiles all by itself). Nor is anything compiled at inference, where each size of a
photograph would be compiled anew. Two things differ beside rounding: in a compiled step
a gradient with respect to an output inside a unit is None, and second derivatives are
wrong (those of the normalisations are everywhere).

A unit is three layers, and its loops run over all three. So DropBlock notes on its
output which map it dropped from, and a normalisation what it normalised by; an
activation that finds such a note computes the unit from the map before. The outputs in
between are in the graph, too, for whoever asks for them; what nobody asks for,
TensorFlow never computes. In eager mode it would: there nothing is noted.

With `v = x * kept`, the unit is `activation(v * slope + offset)`. Forward: the sums of
v and of its square, then the unit. Backward, from `g`, the gradient before the
activation: the sums of `g` and of `g * v`, then `kept * (g * slope + v * b + c)`.

What each part gained, and what was tried and left: docs/speed.md, "For maintainers".
"""

import functools
from typing import Any, NamedTuple

import keras
from keras import ops

# So many neighbours in a row are added up before their sum is written.
RUN = {"float32": 16, "bfloat16": 8}


class Dropped(NamedTuple):
    """A map as DropBlock makes it: `x * kept * scale`.

    Attributes:
        x: `(N, H, W, C)`.
        kept: The same shape, uint8: 0 or 1; `None` where nothing is dropped.
        scale: Float32 number.
    """

    x: Any
    kept: Any = None
    scale: Any = 1.0


class Normalised(NamedTuple):
    """The arguments of `normalise` before the activation."""

    x: Any
    gamma: Any
    beta: Any
    mean: Any
    rstd: Any
    pool: Any


def can_fuse(x):
    """Returns whether the functions below take this map `(N, H, W, C)` here."""
    return _on_tensorflow_cpu() and ops.dtype(x) in ("float32", "bfloat16")


@functools.cache
def _on_tensorflow_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # There XLA compiles the whole step.
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


# ------------------------------------------------------------------ notes


def _note(y, made_of):
    """Notes on a tensor what it is made of: a `Dropped` or a `Normalised`."""
    import tensorflow as tf

    if not tf.executing_eagerly():
        y._saunet_made_of = made_of


def _dropped(x):
    """Returns the `Dropped` that a map is, by its note or as it stands."""
    made_of = getattr(x, "_saunet_made_of", None)
    return made_of if isinstance(made_of, Dropped) else Dropped(x)


def activated(x, activation):
    """Returns the unit that ends in this activation, `None` where `x` has no note.

    Args:
        x: Output of a normalisation.
        activation: `"relu"` or `"silu"`.
    """
    made_of = getattr(x, "_saunet_made_of", None)
    if isinstance(made_of, Normalised):
        return normalise(*made_of, activation)
    return None


# ------------------------------------------------------------------ the unit


def drop(x, kept, scale):
    """Returns the map `x * kept * scale`; arguments as of `Dropped`."""
    import tensorflow as tf

    def of(values):
        return _unit(values, kept, scale, 0.0, None)

    y = tf.custom_gradient(lambda x: (of(x), of))(x)
    _note(y, Dropped(x, kept, scale))
    return y


def moments(x, pool):
    """As `saunet.layers.group_norm.moments`; x as DropBlock has left it."""
    x, kept, scale = _dropped(x)
    first, second = map(pool, _means(ops.stop_gradient(x), kept))
    variance = ops.maximum(second - ops.square(first), 0.0)
    return scale * first, scale * scale * variance


def normalise(x, gamma, beta, mean, rstd, pool, activation=None):
    """As `saunet.layers.group_norm.normalise`, then an activation.

    Args:
        activation: `None`, `"relu"` or `"silu"`.
    """
    import tensorflow as tf

    # With x as it is given: its note counts again when an activation follows.
    normalised = Normalised(x, gamma, beta, mean, rstd, pool)
    x, kept, scale = _dropped(x)

    @tf.custom_gradient
    def apply(x, gamma, beta):
        slope = gamma * rstd * scale
        offset = beta - gamma * rstd * mean
        y = _unit(x, kept, slope, offset, activation)

        def gradient(dy):
            pixels = ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")
            dy_mean, product = _means(x, kept, dy, slope, offset, activation)
            dy_xhat = (product * scale - dy_mean * mean) * rstd
            # Of x * kept * scale the gradient is rstd * (gamma * g - p - xhat * q).
            p, q = pool(gamma * dy_mean), pool(gamma * dy_xhat)
            b = -rstd * rstd * q * scale * scale
            c = rstd * (mean * rstd * q - p) * scale
            dx = _unit_gradient(dy, x, kept, slope, offset, b, c, activation)
            dgamma = ops.sum(dy_xhat, axis=0, keepdims=True) * pixels
            dbeta = ops.sum(dy_mean, axis=0, keepdims=True) * pixels
            return dx, dgamma, dbeta

        return y, gradient

    y = apply(x, gamma, beta)
    if activation is None:
        _note(y, normalised)
    return y


@one_loop
def _unit(x, kept, slope, offset, activation):
    """Returns `activation(v * slope + offset)`; both `(N or 1, C)` or numbers."""
    y = _line(_keep(x, kept), slope, offset)
    return _narrow(_ACTIVATIONS[activation](y), x.dtype)


@one_loop
def _unit_gradient(dy, x, kept, slope, offset, b, c, activation):
    """Returns `kept * (g * slope + v * b + c)`."""
    v = _keep(x, kept)
    g = _GRADIENTS[activation](_wide(dy), _line(v, slope, offset))
    dx = g * _on_pixels(slope) + _line(v, b, c)
    return _narrow(dx if kept is None else dx * ops.cast(kept, "float32"), x.dtype)


def _means(x, kept, dy=None, slope=None, offset=None, activation=None):
    """Returns the means over pixels of `g` and `g * v`, `(N, C)` float32.

    Without `dy`, `g` is `v`.
    """
    # XLA computes a sum of a chain number by number, and two sums in two passes. Terms
    # that are written out it takes by the vector, both parts of a complex one at once.
    width = x.shape[2]
    # The largest power of two that divides the width, up to the run.
    run = min(width & -width, RUN[ops.dtype(x)]) if width else 1
    x, kept, dy = (v if v is None else _in_runs(v, run) for v in (x, kept, dy))
    sums = _sums_of_runs(x, kept, dy, slope, offset, activation, run)
    # Along a row, then down: one sum of a large map would lose two digits.
    sums = ops.sum(ops.sum(sums, axis=2), axis=1)
    pixels = ops.cast(ops.shape(x)[1] * ops.shape(x)[2] * run, "float32")
    return ops.real(sums) / pixels, ops.imag(sums) / pixels


def _in_runs(x, run):
    n, height, width, channels = ops.shape(x)
    return ops.reshape(x, (n, height, width // run, run, channels))


@one_loop
def _sums_of_runs(x, kept, dy, slope, offset, activation, run):
    """Returns sums `(N, H, W / run, C)` of `g`, and of `g * v` as imaginary part."""
    import tensorflow as tf

    first = second = 0.0
    for place in range(run):
        x_here, kept_here, dy_here = (
            v if v is None else v[:, :, :, place] for v in (x, kept, dy)
        )
        v = _keep(x_here, kept_here)
        g = v
        if dy is not None:
            g = _GRADIENTS[activation](_wide(dy_here), _line(v, slope, offset))
        first, second = first + g, second + g * v
    return tf.complex(first, second)


def _keep(x, kept):
    x = _wide(x)
    return x if kept is None else x * ops.cast(kept, "float32")


def _line(x, slope, offset):
    return x * _on_pixels(slope) + _on_pixels(offset)


def _on_pixels(values):
    return values[:, None, None] if ops.ndim(values) else values


def _sigmoid(x):
    # As a tangent: XLA has it by the vector, the exponential number by number.
    return 0.5 * ops.tanh(0.5 * x) + 0.5


def _relu_gradient(dy, x):
    import tensorflow as tf

    # The sign of 0 - x, spread over all bits: a comparison takes a fifth longer. Not
    # that of -x, which for 0 is negative, too.
    positive = ops.right_shift(tf.bitcast(0.0 - x, "int32"), 31)
    return tf.bitcast(ops.bitwise_and(tf.bitcast(dy, "int32"), positive), "float32")


def _silu_gradient(dy, x):
    s = _sigmoid(x)
    return dy * s * (1 + x * (1 - s))


_ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: ops.maximum(x, 0.0),
    "silu": lambda x: x * _sigmoid(x),
}
_GRADIENTS = {
    None: lambda dy, x: dy,
    "relu": _relu_gradient,
    "silu": _silu_gradient,
}


def _wide(x):
    return ops.cast(x, "float32")


def _narrow(x, dtype):
    """Casts float32, to bfloat16 by integers: XLA's own takes up to thrice the time.

    What arithmetic makes of NaN stays NaN; one with all bits set would not.
    """
    if dtype == "float32":
        return x
    import tensorflow as tf

    bits = tf.bitcast(x, "int32")
    odd = ops.bitwise_and(ops.right_shift(bits, 16), 1)  # a half goes to the even one
    rounded = ops.right_shift(bits + odd + 0x7FFF, 16)
    return tf.bitcast(tf.cast(rounded, "int16"), "bfloat16")


def count_bits(words):
    """Returns how many bits are set in all of the int32 words together."""
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=words), "int32"))
