"""What a network costs: parameters, FLOPs as the papers count them, and time.

The papers' GFLOPs come from keras-flops: TensorFlow's profiler on the inference
graph of the authors' Keras 2 code at batch 1. Its rules are written out here as one
formula a layer, so that a count needs no TensorFlow and describes the network,
not the tricks of the layers that compute it:

- a multiply-add is 2, an elementwise operation 1 for each element of its output;
- a convolution is 2 * kernel area * channels in for each element of its output, and
  its bias 1 more; a transposed one has a stride**2-th of that (and the bias);
- a mean is 1 for each element it reads, a maximum 1 for each comparison;
- a pooling is its window for each element of its output;
- data movement (concatenation, padding, resizing), ReLU and sigmoid are free.

Code read: https://github.com/tokusumi/keras-flops at 0.1.2, flops_registory.py, and
`tensorflow/python/profiler/internal/flops_registry.py` of TensorFlow 2.21.
"""

import math
import statistics
import time

import numpy as np
from keras import layers, ops

from saunet.engines import PRECISIONS, make_engine
from saunet.errors import InputError
from saunet.layers import (
    AdaptiveChannelAttention,
    AlignedUpSampling2D,
    AttentionGuidedFilter,
    BatchNormalization,
    ChannelAttention,
    ConvOffset2D,
    CrossScaleSpatialAttention,
    DropBlock2D,
    GroupNormalization,
    RecurrentConv2D,
    ReLU,
    SharedResidualBlock,
    SiLU,
    SpatialAttention,
    VesselProbability,
)
from saunet.quiet import track

PAUSE = 0.05  # seconds between timed calls

# FLOPs for each element. The profiler has no formula for `Relu` and `Sigmoid`; it
# counts `x * sigmoid(1.0 * x)` as two products and a softmax as five operations.
ACTIVATIONS = {"linear": 0, "relu": 0, "sigmoid": 0, "silu": 2, "softmax": 5}


def count_parameters(model):
    """Counts the weights of a model; optimizer and random states are not weights.

    Args:
        model: A built `keras.Model`.

    Returns:
        `{"total": int, "trainable": int, "non_trainable": int}`.
    """
    trainable = sum(math.prod(w.shape) for w in model.trainable_weights)
    total = sum(math.prod(w.shape) for w in model.weights)
    return {
        "total": total,
        "trainable": trainable,
        "non_trainable": total - trainable,
    }


def count_flops(model, input_shape=(592, 592, 3)):
    """Counts the floating-point operations of one image, keras-flops convention.

    Args:
        model: A functional `keras.Model` of one input.
        input_shape: Triple of integers `(H, W, C)` in pixels and channels.

    Returns:
        Integer, a multiply-add counted as 2; divide by 1e9 for the papers' GFLOPs.

    Raises:
        InputError: the shape does not fit the model, or the model contains a layer
            or an activation whose cost is not known here.

    Example:
        >>> import keras
        >>> inputs = keras.Input((None, None, 3))
        >>> model = keras.Model(inputs, keras.layers.Conv2D(1, 1)(inputs))
        >>> count_flops(model, (2, 2, 3))    # 4 pixels * (3 multiply-adds + 1 bias)
        28
    """
    _check_input_shape(model, input_shape)
    shapes = {id(model.inputs[0]): (1, *input_shape)}
    total = 0
    for operation in model.operations:
        if isinstance(operation, layers.InputLayer):
            continue
        inputs, shape = _call_shapes(operation, shapes)
        try:
            out = tuple(operation.compute_output_shape(shape))
        except ValueError:
            out = (0,)
        # `Concatenate` computes a shape even for maps that do not meet.
        guided = isinstance(operation, AttentionGuidedFilter)
        meeting = inputs[:-1] if guided else inputs
        sizes = {one[1:-1] for one in meeting} - {(1, 1)}
        if min(out) < 1 or len(sizes) > 1:
            raise InputError(
                f"`input_shape` {tuple(input_shape)} does not fit layer "
                f"{operation.name!r} of {model.name!r}, which gets {shape}: use H and "
                "W that are multiples of 16, which every network takes"
            )
        shapes[id(operation.output)] = out
        total += _operation_flops(operation, inputs, out)
    return total


def compare_engines(
    model, input_shape=(592, 592, 3), *, batch=1, runs=7, progress=False
):
    """Times a network on every engine that is installed, in turns.

    Args:
        model: A functional `keras.Model` of one input and one output.
        input_shape: Triple of integers `(H, W, C)`.
        batch: Integer, images a call.
        runs: Integer, timed calls of each; three more come first, untimed.
        progress: Bool; show a bar on stderr.

    Returns:
        A list of dictionaries, `keras.Model.predict` first: "engine", "precision",
        "milliseconds" (median, one image), "images_per_second", "speedup" (over the
        first row), "of_limit" (the time over that of the network's bare arithmetic
        at the speed of this machine's fastest float32 matrix product) and
        "difference" (the largest from the first row).
    """
    _check_input_shape(model, input_shape)
    images = np.random.default_rng(0).random((batch, *input_shape), np.float32)
    runners = {("model.predict", "float32"): lambda x: model.predict(x, verbose=0)}
    for engine, precisions in PRECISIONS.items():
        for precision in precisions:
            try:
                runner = make_engine(model, engine, precision=precision)
            except InputError:
                continue  # cannot run here, or not this network
            runners[engine, precision] = runner
    products, operations = matrix_products()
    fastest = min(time_in_turns(products, runs).values())
    limit = count_flops(model, input_shape) * fastest / operations
    seconds = time_in_turns(
        {k: lambda f=f: f(images) for k, f in runners.items()}, runs, progress=progress
    )
    first = next(iter(runners))
    expected = runners[first](images)
    return [
        {
            "engine": engine,
            "precision": precision,
            "milliseconds": 1e3 * total / batch,
            "images_per_second": batch / total,
            "speedup": seconds[first] / total,
            "of_limit": total / batch / limit,
            "difference": float(
                np.abs(runners[engine, precision](images) - expected).max()
            ),
        }
        for (engine, precision), total in seconds.items()
    ]


def matrix_products():
    """Returns what shows a machine's float32 arithmetic: the fastest of these does.

    NumPy's product alone does not: on a processor newer than its library, the
    backend's was twice as fast.

    Returns:
        Functions by name, without arguments, and the operations of each.
    """
    size = 4096  # of a side
    matrix = np.random.default_rng(0).random((size, size), np.float32)
    tensor = ops.convert_to_tensor(matrix)
    return {
        "NumPy": lambda: matrix @ matrix,
        # One number back, so that it is waited for.
        "Keras": lambda: ops.convert_to_numpy(ops.matmul(tensor, tensor)[0, 0]),
    }, 2 * size**3


def time_in_turns(functions, runs=7, *, warm_up=3, progress=False):
    """Returns the median seconds of each function, all called in turns.

    A machine's speed drifts; what is called in turns drifts together. A pause comes
    before each call, since the threads of an engine spin on for a moment.

    Args:
        functions: Dictionary of functions without arguments.
        runs: Integer, timed calls of each.
        warm_up: Integer, calls before these.
        progress: Bool; show a bar on stderr.
    """
    seconds = {key: [] for key in functions}
    turns = range(warm_up + runs)
    # A thread that draws would be timed, too.
    for turn in track(turns, "timing in turns", progress, auto_refresh=False):
        for key, function in functions.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _check_input_shape(model, input_shape):
    """Refuses what is not `(H, W, C)` of the model's own channels and sides."""
    sides = isinstance(input_shape, tuple | list) and len(input_shape) == 3
    if not sides or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise InputError(
            f"`input_shape` {input_shape!r} is not three positive integers (H, W, C): "
            "give for example (592, 592, 3)"
        )
    expected = tuple(model.inputs[0].shape[1:])
    if any(e not in (None, n) for e, n in zip(expected, input_shape, strict=True)):
        raise InputError(
            f"`input_shape` {tuple(input_shape)} does not fit the input {expected} of "
            f"{model.name!r}: give that shape, or build the model with it"
        )


def _call_shapes(operation, shapes):
    """Returns the inputs' shapes as a list, and as `compute_output_shape` takes them.

    Raises `InputError` for an operation without a formula, whose arguments may have
    any structure.
    """
    if type(operation) not in FLOPS:
        known = ", ".join(sorted({kind.__name__ for kind in FLOPS}))
        raise InputError(
            f"the cost of {operation.name!r}, a {type(operation).__name__}, is not "
            f"known: add its formula to `saunet.profiling.FLOPS` (it has {known})"
        )
    tensors = operation.input
    if isinstance(tensors, list | tuple):
        inputs = [shapes[id(tensor)] for tensor in tensors]
        return inputs, inputs
    shape = shapes[id(tensors)]
    return [shape], shape


def _operation_flops(operation, inputs, out):
    """Returns one layer's formula plus its activation."""
    flops = FLOPS[type(operation)](operation, inputs, out)
    activation = getattr(operation, "activation", None)
    if activation is None:
        return flops
    if activation.__name__ not in ACTIVATIONS:
        raise InputError(
            f"the cost of the activation {activation.__name__!r} of "
            f"{operation.name!r} is not known: add it to "
            f"`saunet.profiling.ACTIVATIONS` (it has {', '.join(ACTIVATIONS)})"
        )
    return flops + ACTIVATIONS[activation.__name__] * math.prod(out)


def _nothing(layer, inputs, out):
    return 0


def _elementwise(layer, inputs, out):
    return (len(inputs) - 1) * math.prod(out)


def _conv(layer, inputs, out):
    channels = inputs[0][-1] // layer.groups
    per_output = 2 * math.prod(layer.kernel_size) * channels + layer.use_bias
    return per_output * math.prod(out)


def _conv_transpose(layer, inputs, out):
    products = 2 * math.prod(out) * math.prod(layer.kernel_size) * inputs[0][-1]
    # The profiler's own rounding: down, as it stores integers.
    return products // math.prod(layer.strides) + layer.use_bias * math.prod(out)


def _depthwise_conv(layer, inputs, out):
    return (2 * math.prod(layer.kernel_size) + layer.use_bias) * math.prod(out)


def _dense(layer, inputs, out):
    return (2 * inputs[0][-1] + layer.use_bias) * math.prod(out)


def _pooling(layer, inputs, out):
    return math.prod(layer.pool_size) * math.prod(out)


def _global_mean(layer, inputs, out):
    return math.prod(inputs[0])


def _global_max(layer, inputs, out):
    return math.prod(inputs[0]) - math.prod(out)


def _batch_normalization(layer, inputs, out):
    # keras-flops' formula for `FusedBatchNormV3` (variance: 5, mean: 1 a channel)
    return 2 * math.prod(out) + (5 + 1) * out[-1]


def _group_normalization(layer, inputs, out):
    # `tf.nn.moments` (mean, squared difference: 2, mean) then
    # `tf.nn.batch_normalization` (x * a + b) on each element; rsqrt(variance + eps)
    # is 3 a group, a = scale * rsqrt and b = offset - mean * a are 3 a channel.
    return (4 + 2) * math.prod(out) + 3 * layer.groups + 3 * out[-1]


def _spatial_attention(layer, inputs, out):
    elements = math.prod(out)
    pixels = elements // out[-1]
    mean, peak, product = elements, elements - pixels, elements
    return mean + peak + product + 2 * layer.kernel_size**2 * 2 * pixels


def _cross_scale_attention(layer, inputs, out):
    means = sum(math.prod(shape) for shape in inputs)
    pixels = math.prod(out) // out[-1]
    return means + math.prod(out) + 2 * layer.kernel_size**2 * 2 * pixels


def _channel_attention(layer, inputs, out):
    n, channels = out[0], out[-1]
    hidden = channels // layer.ratio
    dense = (2 * channels + 1) * hidden + (2 * hidden + 1) * channels
    mean, peak, product = math.prod(out), math.prod(out) - n * channels, math.prod(out)
    return mean + peak + product + n * (2 * dense + channels)


def _adaptive_channel_attention(layer, inputs, out):
    n, height, width, channels = out
    bins = int(math.log2(channels))
    cells, hidden, quarter = bins**2, bins**2 // 2, channels // 4
    # What the overlapping windows of a side read: floor(i s / b) to ceil((i+1) s / b).
    rows, columns = (
        sum(-(-(i + 1) * side // bins) - i * side // bins for i in range(bins))
        for side in (height, width)
    )
    mean = rows * columns * channels
    peak = mean - cells * channels
    grid = channels * ((2 * 2 * cells + 1) * hidden + 2 * hidden + 1)
    excite = (2 * channels + 1) * quarter + (2 * quarter + 1) * channels
    return n * (mean + peak + grid + excite) + 2 * math.prod(out)


def _recurrent_conv(layer, inputs, out):
    forward = (2 * 9 * inputs[0][-1] + 1) * math.prod(out)
    step = (2 * 9 * layer.filters + 1) * math.prod(out)
    return forward + layer.steps * step


def _shared_residual_block(layer, inputs, out):
    return 2 * (2 * 9 * out[-1] + 1) * math.prod(out) + math.prod(out)


def _average(layer, inputs, out):
    # a sum, and one product by 1 / n
    return len(inputs) * math.prod(out)


def _conv_offset(layer, inputs, out):
    # two filters a channel; then for each value two sums for its place, two
    # differences for its distances, and three interpolations of 3.
    return (2 * 9 * 2 * out[-1] + 2 + 2 + 3 * 3) * math.prod(out)


def _guided_filter(layer, inputs, out):
    small, guide = math.prod(inputs[0]), math.prod(out)
    pixels = small // inputs[0][-1]
    mean = 4 * layer.radius + 1
    # A window mean is 2 * radius sums along each side and a division. For each value:
    # seven of them, five products, A of six and b of three operations. For each
    # pixel: a + 1e-12 and its total, the window's size, one mean. For each value of
    # the guide: A x + b.
    fit = (7 * mean + 5 + 6 + 3) * small + (2 + 2 * mean - 1) * pixels
    return fit + 2 * guide


def _vessel_probability(layer, inputs, out):
    # as the profiler counts a softmax, of two classes
    return 2 * ACTIVATIONS["softmax"] * math.prod(out)


# layer class -> (layer, list of input shapes, output shape) -> FLOPs, activation
# excluded. A class that is missing is an error, never a silent zero.
FLOPS = {
    layers.Activation: _nothing,
    layers.ReLU: _nothing,
    ReLU: _nothing,
    SiLU: _nothing,
    layers.Concatenate: _nothing,
    layers.Dropout: _nothing,
    layers.Reshape: _nothing,
    layers.UpSampling2D: _nothing,
    AlignedUpSampling2D: _nothing,
    DropBlock2D: _nothing,
    layers.Cropping2D: _nothing,
    layers.Average: _average,
    layers.Add: _elementwise,
    layers.Multiply: _elementwise,
    layers.Conv2D: _conv,
    layers.Conv2DTranspose: _conv_transpose,
    layers.DepthwiseConv2D: _depthwise_conv,
    layers.Dense: _dense,
    layers.MaxPooling2D: _pooling,
    layers.AveragePooling2D: _pooling,
    layers.GlobalAveragePooling2D: _global_mean,
    layers.GlobalMaxPooling2D: _global_max,
    layers.BatchNormalization: _batch_normalization,
    BatchNormalization: _batch_normalization,
    layers.GroupNormalization: _group_normalization,
    GroupNormalization: _group_normalization,
    SpatialAttention: _spatial_attention,
    CrossScaleSpatialAttention: _cross_scale_attention,
    ChannelAttention: _channel_attention,
    AdaptiveChannelAttention: _adaptive_channel_attention,
    RecurrentConv2D: _recurrent_conv,
    SharedResidualBlock: _shared_residual_block,
    AttentionGuidedFilter: _guided_filter,
    ConvOffset2D: _conv_offset,
    VesselProbability: _vessel_probability,
}
