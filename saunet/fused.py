"""Parts of a training step by TensorFlow's own operations, on CPUs.

`x * scale + offset` and its gradient are four to eight passes over a map in
`keras.ops`, each at the speed of memory. TensorFlow's batch normalisation makes one
of each of them, and takes any mean and variance; SiLU's gradient is spared two passes.
So the layers stay as they are everywhere else (JAX, PyTorch, float16, GPUs, where XLA
fuses by itself), and nothing but rounding differs.
"""

import functools

import keras
from keras import ops

# A batch of more images is normalised in one piece: an operation an image would make
# the graph long.
MOST_IMAGES = 16


def can_fuse(x):
    """Returns whether the functions below take this map `(N, H, W, C)` here."""
    return _on_tensorflow_cpu() and ops.dtype(x) in ("float32", "bfloat16")


def can_fuse_images(x):
    """As `can_fuse`, for a normalisation with statistics of each image.

    In bfloat16 alone: in float32 it gained nothing in a step of SA-UNetv2.
    """
    few = x.shape[0] is not None and x.shape[0] <= MOST_IMAGES
    return few and ops.dtype(x) == "bfloat16" and can_fuse(x)


@functools.cache
def _on_tensorflow_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    # On a GPU the operation hands its gradient other numbers than the variance.
    return not tf.config.list_physical_devices("GPU")


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
            return tf.raw_ops.SoftplusGrad(gradients=dy * slope, features=x)

        return y, gradient

    return apply(x)


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


def normalise_images(x, gamma, beta, mean, variance, epsilon, pool):
    """Normalises by statistics of each image, of which the gradient knows.

    Args:
        x: `(N, H, W, C)`, N known.
        gamma: `(C,)` float32.
        beta: `(C,)` float32.
        mean: `(N, C)` float32, of `x`; without a gradient of its own.
        variance: `(N, C)` float32, likewise.
        epsilon: Float added to the variance.
        pool: What shares statistics: takes the mean over pixels `(N, C)` and returns
            the mean over what belongs together, `(N, C)`.

    Returns:
        `(N, H, W, C)` of the dtype of `x`.
    """
    import tensorflow as tf

    images = x.shape[0]
    means, variances = tf.unstack(mean, images), tf.unstack(variance, images)

    @tf.custom_gradient
    def apply(x, gamma, beta):
        # Pieces along the first axis share the memory of the whole.
        pieces = tf.split(x, images)
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
