"""Parts of a training step by TensorFlow's own operations, on CPUs.

Means and variances, `x * scale + offset` and their gradient are many passes over a map
in `keras.ops`, each at the speed of memory. TensorFlow's batch normalisation makes one
operation of each way, and takes any mean and variance; SiLU's gradient is spared some
passes. So the layers stay as they are everywhere else (JAX, PyTorch, float16, GPUs,
where XLA fuses by itself), and nothing but rounding differs.
"""

import functools
import itertools

import keras
from keras import ops

# A batch of more images is normalised in one piece: an operation an image would make
# the graph long.
MOST_IMAGES = 16


def can_fuse(x):
    """Returns whether the functions below take this map `(N, H, W, C)` here."""
    return _on_tensorflow_cpu() and ops.dtype(x) in ("float32", "bfloat16")


def can_fuse_moments(x):
    """As `can_fuse`, for a normalisation that takes its moments too.

    In bfloat16 alone. TensorFlow adds up the pixels one after the other: the variance
    of eight photographs of 592x592 is 1e-3 too small, of 1,008x1,008 4e-3, no more than
    bfloat16 rounds by. In float32 it gained nothing in a step of SA-UNet.
    """
    return ops.dtype(x) == "bfloat16" and can_fuse(x)


def can_fuse_images(x):
    """As `can_fuse_moments`, for statistics of each image."""
    few = x.shape[0] is not None and x.shape[0] <= MOST_IMAGES
    return few and can_fuse_moments(x)


@functools.cache
def _on_tensorflow_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # On a GPU the operation hands its gradient other numbers than the variance.
    return not tf.config.list_physical_devices("GPU")


def known_sizes(batches):
    """Returns batches of one size for `fit`, such that layers know their number.

    Keras leaves it open for a generator, and `can_fuse_images` wants it.

    Args:
        batches: Generator of `(x, y)`, arrays or tuples of them, all of one size.

    Returns:
        What `keras.Model.fit` takes: a `tf.data.Dataset`, or the generator itself
        where nothing is fused.
    """
    if not _on_tensorflow_cpu():
        return batches
    import tensorflow as tf

    first = next(batches)
    return tf.data.Dataset.from_generator(
        lambda: itertools.chain([first], batches),
        output_signature=tf.nest.map_structure(
            lambda array: tf.TensorSpec(array.shape, array.dtype), first
        ),
    )


def silu(x):
    """Returns `x * sigmoid(x)`, with a gradient by hand; any shape."""
    import tensorflow as tf

    @tf.custom_gradient
    def apply(x):
        y = tf.nn.silu(x)

        def gradient(dy):
            # Not before dy is there: else x - y of every layer waits in memory.
            with tf.control_dependencies([dy]):
                slope = (x - y) + 1
            # sigmoid(x) * slope * dy, and SoftplusGrad is sigmoid(x) * (...)
            if x.dtype == tf.float32:
                return tf.raw_ops.SoftplusGrad(gradients=dy * slope, features=x)
            # Its exponential costs six passes in bfloat16, a quotient one.
            return dy * slope * tf.math.divide_no_nan(y, x)

        return y, gradient

    # y / x of 0 would not be sigmoid(0); any other number keeps its value.
    return apply(x if x.dtype == tf.float32 else x + 1e-20)


def normalise_batch(x, gamma, beta, mean, variance, epsilon):
    """Normalises by statistics of the batch, of which the gradient knows.

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
        y = _affine(x, gamma, beta, mean, variance, epsilon)

        def gradient(dy):
            return _gradient(dy, x, gamma, mean, variance, epsilon, of_batch=True)

        return y, gradient

    return apply(x, gamma, beta)


def train_batch(x, gamma, beta, epsilon):
    """As `normalise_batch`, and takes the statistics in the same passes.

    Returns:
        `(N, H, W, C)` of the dtype of `x`; its mean and its variance, `(C,)` float32.
    """
    found = _batch_norm(x, gamma, beta, epsilon)
    return found.y, found.batch_mean, found.reserve_space_2


def normalise_images(x, gamma, beta, epsilon, pool):
    """Normalises by statistics of each image.

    Args:
        x: `(N, H, W, C)`, N known.
        gamma: `(C,)` float32.
        beta: `(C,)` float32.
        epsilon: Float added to the variance.
        pool: What shares statistics: takes the mean over pixels `(N, C)` and returns
            the mean over what belongs together, `(N, C)`.

    Returns:
        `(N, H, W, C)` of the dtype of `x`.
    """
    import tensorflow as tf

    images = x.shape[0]

    @tf.custom_gradient
    def apply(x, gamma, beta):
        # Pieces along the first axis share the memory of the whole.
        pieces = tf.split(x, images)
        mean, variance = _moments_of(pieces, pool)
        means, variances = tf.unstack(mean, images), tf.unstack(variance, images)
        y = [
            _affine(piece, gamma, beta, one_mean, one_variance, epsilon)
            for piece, one_mean, one_variance in zip(
                pieces, means, variances, strict=True
            )
        ]

        def gradient(dy):
            pixels = ops.cast(ops.shape(x)[1] * ops.shape(x)[2], "float32")
            parts = [
                _gradient(dy_piece, piece, gamma, one_mean, one_variance, epsilon)
                for dy_piece, piece, one_mean, one_variance in zip(
                    tf.split(dy, images), pieces, means, variances, strict=True
                )
            ]
            # Of gamma and beta, an image each: sums of dy * normalised x, and of dy.
            dgamma = tf.stack([part[1] for part in parts])
            dbeta = tf.stack([part[2] for part in parts])
            # dx = rstd * (gamma * dy - b - g * normalised x), b and g group means
            rstd = ops.rsqrt(variance + epsilon)
            b = tf.unstack(-rstd * pool(gamma * dbeta / pixels), images)
            g = tf.unstack(-rstd * pool(gamma * dgamma / pixels), images)
            dx = [
                part[0] + _affine(piece, slope, offset, one_mean, one_variance, epsilon)
                for part, piece, slope, offset, one_mean, one_variance in zip(
                    parts, pieces, g, b, means, variances, strict=True
                )
            ]
            total = [ops.sum(sums, axis=0) for sums in (dgamma, dbeta)]
            return tf.concat(dx, 0), *total

        return tf.concat(y, 0), gradient

    return apply(x, gamma, beta)


def _moments_of(pieces, pool):
    """Returns mean and variance `(N, C)` of N pieces, shared as `pool` says."""
    import tensorflow as tf

    channels = pieces[0].shape[-1]
    # The normalised map is not wanted, but no operation leaves it out.
    found = [
        _batch_norm(piece, tf.ones(channels), tf.zeros(channels), 1e-3)
        for piece in pieces
    ]
    means = tf.stack([one.batch_mean for one in found])
    variances = tf.stack([one.reserve_space_2 for one in found])
    mean = pool(means)
    # Of channels about their own means, then of these about the shared one.
    return mean, pool(variances + ops.square(means - mean))


def _batch_norm(x, gamma, beta, epsilon):
    """TensorFlow's batch normalisation in training; knows its gradient.

    `batch_mean` and `reserve_space_2` are its mean and variance (`batch_variance`
    is n / (n - 1) times as large).
    """
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=tf.zeros((0,)),
        variance=tf.zeros((0,)),
        epsilon=epsilon,
        is_training=True,
    )


def _affine(x, scale, offset, mean, variance, epsilon):
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset`, in one pass."""
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _gradient(dy, x, scale, mean, variance, epsilon, *, of_batch=False):
    """Returns the gradients of x, scale and offset of `_affine`.

    `of_batch`: mean and variance are those of x, and depend on it.
    """
    import tensorflow as tf

    found = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=scale,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=tf.zeros((0,)),
        epsilon=epsilon,
        is_training=of_batch,
    )
    return found.x_backprop, found.scale_backprop, found.offset_backprop
