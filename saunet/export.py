"""Networks as files that other engines read: ONNX, OpenVINO, LiteRT, SavedModel.

`to_onnx` writes the inference graph of any network of this package from one table,
`EMITTERS`: a few ONNX operations for each class of layer. Maps are channels first
inside, as the engines want them; the file's own input and output are this package's:
`image`, (N, H, W, 3) float32 in [0, 1], and `vessels`, (N, H, W, 1), any N, H and W
that the network takes. OpenVINO's format is made from it; LiteRT and SavedModel are
written by Keras.
"""

import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
from keras import layers

from saunet import __version__
from saunet.data.images import write_bytes
from saunet.errors import InputError, need
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

# format -> suffix of its file
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "saved_model": ""}
OPSET = 18  # reductions take their axes as an input; ONNX Runtime 1.14 reads it
TO_THE_END = np.iinfo(np.int64).max


def export(model, path, file_format, *, properties=None, calibration=None):
    """Writes a network in one of `FORMATS`, whole or not at all.

    Args:
        model: A functional `keras.Model` of one input and one output.
        path: The file: `.onnx`; `.xml` for OpenVINO, whose weights go to the `.bin`
            beside it; `.tflite` for LiteRT. For a SavedModel the folder, which must
            not exist.
        file_format: "onnx", "openvino", "litert" or "saved_model".
        properties: Dictionary of strings for the metadata of an ONNX file.
        calibration: Iterable of (N, H, W, 3) float32 arrays in [0, 1]; given these,
            the convolutions of an ONNX file compute in 8-bit integers.

    Raises:
        InputError: as `check_export`, or a package is missing or the disk full.
    """
    path = Path(path)
    check_export(path, file_format, calibrated=calibration is not None)
    if file_format == "onnx":
        graph = to_onnx(model, properties).SerializeToString()
        write_bytes(
            path, graph if calibration is None else quantize(graph, calibration)
        )
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".saunet-", dir=path.parent) as beside:
            _write_beside(model, Path(beside) / path.name, path, file_format)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}): give an existing, "
            "writable folder with free space"
        ) from error


def _write_beside(model, written, path, file_format):
    if file_format == "openvino":
        need("openvino", "openvino")
        import openvino

        graph = openvino.Core().read_model(to_onnx(model).SerializeToString())
        openvino.save_model(graph, written, compress_to_fp16=False)
        os.replace(written.with_suffix(".bin"), path.with_suffix(".bin"))
    else:
        keras_name = {"litert": "litert", "saved_model": "tf_saved_model"}
        # Keras before 3.15 takes no Path.
        model.export(str(written), format=keras_name[file_format], verbose=False)
    os.replace(written, path)


def format_of(path):
    """Returns the format that a name ends like: a folder's is a SavedModel.

    Raises:
        InputError: there is none.
    """
    formats = {suffix: name for name, suffix in FORMATS.items()}
    if Path(path).suffix not in formats:
        raise InputError(
            f"--out {path}: expected a name that ends in .onnx, .xml (OpenVINO) or "
            ".tflite (LiteRT), or a folder's without a suffix (SavedModel)"
        )
    return formats[Path(path).suffix]


def check_export(path, file_format, *, calibrated=False):
    """Says what `export` could not write, before anything is read or computed.

    Raises:
        InputError: unknown format, a suffix that does not fit it, 8-bit integers in
            another format than onnx, or something in the way.
    """
    path = Path(path)
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r}: expected {', '.join(FORMATS)}")
    if path.suffix != FORMATS[file_format]:
        expected = FORMATS[file_format] or "a folder's name, without a suffix"
        raise InputError(
            f"--out {path}: expected {expected} for {file_format}: rename it, or leave "
            "out --format"
        )
    if calibrated and file_format != "onnx":
        raise InputError(
            f"8-bit integers are written as onnx, not as {file_format}: give a name "
            "that ends in .onnx"
        )
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder: make it, or check the path")
    if file_format == "saved_model" and path.exists():
        raise InputError(f"{path} exists: give the name of a new folder")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give another name")
    weights = path.with_suffix(".bin")
    if file_format == "openvino" and weights.exists() and not path.exists():
        raise InputError(
            f"{weights} exists, and no {path.name} beside it: give another name, or "
            "move that file"
        )
    if file_format in ("litert", "saved_model") and keras.backend.backend() != (
        "tensorflow"
    ):
        raise InputError(
            f"{file_format} is written by TensorFlow: run with KERAS_BACKEND=tensorflow"
        )


def quantize(graph, calibration):
    """Returns an ONNX graph whose convolutions compute in 8-bit integers.

    Weights are scaled by output channel, activations by the range that they take on
    the calibration images. Normalisation and attention stay in float32. Weights take
    seven of the eight bits: without VNNI a processor adds two products in 16 bits, and
    eight overflow there (F1 on DRIVE .0033 lower for SA-UNetv2, .0046 for SA-UNet, on
    OpenVINO); seven cost .0009 and .0006, anywhere.

    Args:
        graph: The bytes of an ONNX file.
        calibration: Iterable of (N, H, W, 3) float32 arrays, photographs as the network
            sees them; some eight suffice. Training images, never test images.
    """
    need("onnxruntime", "onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        """Hands the images out one by one."""

        def __init__(self):
            self.batches = iter(calibration)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder:
        floats, integers = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        floats.write_bytes(graph)
        # It advises on stderr to optimise the graph first; the engines do that.
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_static(
                floats,
                integers,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return integers.read_bytes()


def to_onnx(model, properties=None):
    """Returns the inference graph of a network as an `onnx.ModelProto`.

    Args:
        model: A functional `keras.Model` of one input and one output, whose layers
            are in `EMITTERS`; DropBlock and Dropout vanish, weights are float32.
        properties: Dictionary of strings kept in the file's metadata.

    Raises:
        InputError: The package onnx is not installed, or a layer is not known.
    """
    need("onnx", "onnx")
    import onnx
    from onnx import TensorProto, helper

    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{model.name!r} has {len(model.outputs)} outputs: build it with one to "
            "export it"
        )
    graph = Graph()
    channels_first = graph.op("Transpose", "image", perm=(0, 3, 1, 2))
    tensors = {id(model.inputs[0]): channels_first}
    for layer in model.operations:
        if isinstance(layer, layers.InputLayer):
            continue
        if type(layer) not in EMITTERS:
            known = ", ".join(sorted(kind.__name__ for kind in EMITTERS))
            raise InputError(
                f"layer {layer.name!r}, a {type(layer).__name__}, cannot be exported: "
                f"add it to saunet.export.EMITTERS (it has {known})"
            )
        if unwritten := ", ".join(_unwritten(layer)):
            raise InputError(
                f"layer {layer.name!r}, a {type(layer).__name__} with {unwritten}, "
                "cannot be exported"
            )
        graph.scope = layer.name
        try:
            given = keras.tree.map_structure(lambda t: tensors[id(t)], layer.input)
        except (KeyError, AttributeError) as error:
            raise _called_twice(layer) from error
        y = EMITTERS[type(layer)](graph, layer, given)
        activation = getattr(layer, "activation", None)
        if activation is not None:
            y = graph.activate(activation, y)
        tensors[id(layer.output)] = y
    graph.scope = "output"
    last = tensors.get(id(model.outputs[0]))
    if last is None:
        raise _called_twice(model.operations[-1])
    graph.op("Transpose", last, perm=(0, 2, 3, 1), output="vessels")
    graph.drop_unread_concatenations()

    height, width, channels = model.inputs[0].shape[1:]
    sides = [height or "height", width or "width"]
    image, vessels = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sides, last])
        for name, last in (("image", channels), ("vessels", model.outputs[0].shape[-1]))
    )
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes, model.name, [image], [vessels], list(graph.constants.values())
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="saunet",
        producer_version=__version__,
    )
    helper.set_model_props(proto, dict(properties or {}))
    onnx.checker.check_model(proto, full_check=True)
    return proto


# Options of stock layers, and the values of them that are written.
WRITTEN = {
    layers.AveragePooling2D: {"padding": ("valid",)},
    layers.BatchNormalization: {"scale": (True,), "center": (True,), "axis": (-1, 3)},
    layers.Concatenate: {"axis": (-1, 3)},
    layers.Conv2DTranspose: {"output_padding": (None,), "dilation_rate": ((1, 1),)},
    layers.MaxPooling2D: {"padding": ("valid",)},
    layers.ReLU: {"max_value": (None,), "negative_slope": (0,), "threshold": (0,)},
    layers.UpSampling2D: {"interpolation": ("nearest", "bilinear")},
}


def _unwritten(layer):
    """Yields what a layer is asked for that its emitter would not write."""
    options = next((o for kind, o in WRITTEN.items() if isinstance(layer, kind)), {})
    for name, values in options.items():
        if getattr(layer, name) not in values:
            yield f"{name}={getattr(layer, name)!r}"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        yield f"data_format={layer.data_format!r}"
    if isinstance(layer, layers.Conv2DTranspose):
        sides = tuple(zip(layer.kernel_size, layer.strides, strict=True))
        same = layer.padding == "same" and all(k >= s for k, s in sides)
        if not same and any(k != s for k, s in sides):
            yield f"padding={layer.padding!r}"
    activation = getattr(layer, "activation", None)
    if activation is not None and not hasattr(activation, "__name__"):
        yield f"activation={type(activation).__name__}"


def _called_twice(layer):
    return InputError(
        f"layer {layer.name!r} is called more than once, or in another network, too, "
        "and cannot be exported: build each network with layers of its own"
    )


class Graph:
    """An ONNX graph that grows; a tensor is its name.

    `scope` is the layer that is being written and begins the names of its nodes.
    `joined` has the parts of each concatenation and their channels.
    """

    def __init__(self):
        self.nodes = []
        self.constants = {}
        self.joined = {}
        self.scope = "input"
        self._used = Counter()

    def op(self, kind, *inputs, output=None, **attributes):
        """Adds a node and returns its output; arrays among `inputs` are constants."""
        from onnx import helper

        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        name = self._unique(kind)
        output = output or f"{name}:0"
        self.nodes.append(
            helper.make_node(kind, names, [output], name=name, **attributes)
        )
        return output

    def split(self, x, parts, axis):
        """Returns the equal parts of a tensor along an axis."""
        from onnx import helper

        name = self._unique("Split")
        outputs = [f"{name}:{i}" for i in range(parts)]
        self.nodes.append(
            helper.make_node(
                "Split", [x], outputs, name=name, axis=axis, num_outputs=parts
            )
        )
        return outputs

    def constant(self, array):
        """Adds an array; integers become int64, floats keep their width."""
        array = np.asarray(array)
        if array.dtype.kind == "i":
            array = array.astype(np.int64)
        return self._add(self._unique("constant"), array)

    def weight(self, variable, shape=None, perm=None):
        """Adds a Keras variable under its own path, once however often it is used."""
        if variable.path not in self.constants:
            array = keras.ops.convert_to_numpy(variable.value).astype(np.float32)
            array = array if perm is None else array.transpose(perm)
            self._add(variable.path, array if shape is None else array.reshape(shape))
        return variable.path

    def kernel(self, variable, first, last):
        """Adds a kernel of a convolution for some of the channels that it reads."""
        if last - first == variable.shape[2]:
            return self.weight(variable, perm=(3, 2, 0, 1))
        array = keras.ops.convert_to_numpy(variable.value).astype(np.float32)
        part = array[:, :, first:last].transpose(3, 2, 0, 1)
        return self._add(f"{variable.path}[{first}:{last}]", part)

    def activate(self, activation, x):
        """Applies an activation function of Keras."""
        name = activation.__name__
        if name == "linear":
            return x
        if name == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if name in ("relu", "sigmoid"):
            return self.op(name.capitalize(), x)
        raise InputError(f"activation {name!r} of {self.scope!r} cannot be exported")

    def drop_unread_concatenations(self):
        """Removes those whose parts are read one by one."""
        read = {name for node in self.nodes for name in node.input}
        self.nodes = [
            node
            for node in self.nodes
            if node.output[0] not in self.joined or node.output[0] in read
        ]

    def side(self, x, axis):
        """Returns one side of a tensor as an int64 of shape (1,)."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def _unique(self, kind):
        key = f"{self.scope}/{kind}"
        self._used[key] += 1
        return key if self._used[key] == 1 else f"{key}_{self._used[key]}"

    def _add(self, name, array):
        from onnx import numpy_helper

        array = np.ascontiguousarray(array)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name


# One function a class of layer, (graph, layer, input or inputs) -> output, without
# the layer's activation.


def _identity(graph, layer, x):
    return x


def _of_pair(kind):
    def emit(graph, layer, inputs):
        total, *others = inputs
        for other in others:
            total = graph.op(kind, total, other)
        return total

    return emit


def _pads(layer):
    """Returns ONNX's `pads` of a convolution whose stride divides the map's sides."""
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    sides = zip(layer.kernel_size, layer.dilation_rate, layer.strides, strict=True)
    totals = [
        max(dilation * (side - 1) + 1 - stride, 0) for side, dilation, stride in sides
    ]
    return (*(t // 2 for t in totals), *(t - t // 2 for t in totals))


def _conv(graph, layer, x):
    """Maps that are joined are convolved one by one: none is copied beside another."""
    parts = graph.joined.get(x) if layer.groups == 1 else None
    bias = [graph.weight(layer.bias)] if layer.use_bias else []
    total, first = None, 0
    for part, channels in parts or [(x, layer.kernel.shape[2])]:
        y = graph.op(
            "Conv",
            part,
            graph.kernel(layer.kernel, first, first + channels),
            *bias,
            kernel_shape=layer.kernel_size,
            dilations=layer.dilation_rate,
            group=layer.groups,
            strides=layer.strides,
            pads=_pads(layer),
        )
        total = y if total is None else graph.op("Add", total, y)
        first, bias = first + channels, []
    return total


def _depthwise_conv(graph, layer, x):
    *_, channels, multiplier = layer.kernel.shape
    shape = (channels * multiplier, 1, *layer.kernel_size)
    weights = [graph.weight(layer.kernel, shape, perm=(2, 3, 0, 1))]
    if layer.use_bias:
        weights.append(graph.weight(layer.bias))
    return graph.op(
        "Conv",
        x,
        *weights,
        kernel_shape=layer.kernel_size,
        dilations=layer.dilation_rate,
        group=channels,
        strides=layer.strides,
        pads=_pads(layer),
    )


def _conv_transpose(graph, layer, x):
    weights = [graph.weight(layer.kernel, perm=(3, 2, 0, 1))]
    if layer.use_bias:
        weights.append(graph.weight(layer.bias))
    # "same": the output is stride times the input; what is over is cut at the end.
    over = [k - s for k, s in zip(layer.kernel_size, layer.strides, strict=True)]
    return graph.op(
        "ConvTranspose",
        x,
        *weights,
        kernel_shape=layer.kernel_size,
        strides=layer.strides,
        pads=(*(n // 2 for n in over), *(n - n // 2 for n in over)),
    )


def _dense(graph, layer, x):
    """A dense layer inside another one, of `(N, C)`; on maps C is the second axis."""
    x = graph.op("MatMul", x, graph.weight(layer.kernel))
    if layer.use_bias:
        x = graph.op("Add", x, graph.weight(layer.bias))
    return graph.activate(layer.activation, x)


def _conv_active(graph, layer, x):
    return graph.activate(layer.activation, _conv(graph, layer, x))


def _pooling(kind):
    def emit(graph, layer, x):
        return graph.op(kind, x, kernel_shape=layer.pool_size, strides=layer.strides)

    return emit


def _concatenate(graph, layer, inputs):
    y = graph.op("Concat", *inputs, axis=1)
    sizes = [tensor.shape[-1] for tensor in layer.input]
    graph.joined[y] = list(zip(inputs, sizes, strict=True))
    return y


def _cropping(graph, layer, x):
    (top, bottom), (left, right) = layer.cropping
    ends = [-n if n else TO_THE_END for n in (bottom, right)]
    return graph.op("Slice", x, (top, left), ends, (2, 3))


def _up_sampling(graph, layer, x):
    scales = np.float32([1, 1, *layer.size])
    if layer.interpolation == "nearest":
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        options["nearest_mode"] = "floor"
    else:
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph.op("Resize", x, "", scales, **options)


def _aligned_up_sampling(graph, layer, x):
    scales = np.float32([1, 1, layer.size, layer.size])
    return graph.op(
        "Resize",
        x,
        "",
        scales,
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )


def _average(graph, layer, inputs):
    total = _of_pair("Add")(graph, layer, inputs)
    return graph.op("Mul", total, np.float32(1 / len(inputs)))


def _batch_normalization(graph, layer, x):
    return graph.op(
        "BatchNormalization",
        x,
        graph.weight(layer.gamma),
        graph.weight(layer.beta),
        graph.weight(layer.moving_mean),
        graph.weight(layer.moving_variance),
        epsilon=layer.epsilon,
    )


def _group_normalization(graph, layer, x):
    """Sums per channel, groups on the small tensors, one multiply-add of the map.

    ONNX's own GroupNormalization is taken apart by the engines into reshapes that
    undo their blocked layouts: three times the time.
    """
    channels = layer.gamma.shape[0]

    # Rows, then columns: the engines add one number after the other in float32, and
    # over a whole map that loses three digits. The root of a row's sum of squares is
    # one operation, and no map of squares has to be written for it.
    mean = graph.op("ReduceMean", graph.op("ReduceMean", x, (3,)), (2,))
    root = graph.op("ReduceL2", x, (3,))
    second = graph.op("ReduceMean", graph.op("Mul", root, root), (2,))
    width = graph.op("Cast", graph.side(x, 3), to=_float_type())
    second = graph.op("Div", second, width)

    def of_groups(per_channel):
        grouped = graph.op("Reshape", per_channel, (0, layer.groups, -1, 1))
        grouped = graph.op("ReduceMean", grouped, (2,))
        grouped = graph.op(
            "Expand", grouped, (1, layer.groups, channels // layer.groups, 1)
        )
        return graph.op("Reshape", grouped, (0, channels, 1, 1))

    mean, second = of_groups(mean), of_groups(second)
    variance = graph.op("Sub", second, graph.op("Mul", mean, mean))
    variance = graph.op("Max", variance, np.float32(0))
    deviation = graph.op("Sqrt", graph.op("Add", variance, np.float32(layer.epsilon)))
    scale = graph.op("Div", graph.weight(layer.gamma, (1, -1, 1, 1)), deviation)
    shift = graph.weight(layer.beta, (1, -1, 1, 1))
    shift = graph.op("Sub", shift, graph.op("Mul", mean, scale))
    return graph.op("Add", graph.op("Mul", x, scale), shift)


def _spatial_attention(graph, layer, x):
    summary = [graph.op(kind, x, (1,)) for kind in ("ReduceMean", "ReduceMax")]
    attention = _conv_active(graph, layer.conv, graph.op("Concat", *summary, axis=1))
    return graph.op("Mul", x, attention)


def _cross_scale_attention(graph, layer, inputs):
    # A sum of maps of two channels, one of them 0 each: OpenVINO fuses it, while it
    # joins maps of one channel by its slow reference code.
    places = np.eye(2, dtype=np.float32).reshape(2, 1, 2, 1, 1)
    means = [graph.op("ReduceMean", x, (1,)) for x in inputs]
    pair = [graph.op("Mul", *one) for one in zip(means, places, strict=True)]
    attention = _conv_active(graph, layer.conv, graph.op("Add", *pair))
    return graph.op("Mul", inputs[0], attention)


def _channel_attention(graph, layer, x):
    gates = []
    for kind in ("ReduceMean", "ReduceMax"):
        summary = graph.op(kind, x, (2, 3), keepdims=0)
        hidden = _dense(graph, layer.hidden, summary)
        gates.append(_dense(graph, layer.gate, hidden))
    attention = graph.op("Sigmoid", graph.op("Add", *gates))
    return graph.op("Mul", x, graph.op("Unsqueeze", attention, (2, 3)))


def _adaptive_channel_attention(graph, layer, x):
    channels = layer.channel_weight.units
    grids = []
    for kind in ("ReduceMax", "ReduceMean"):
        grid = _adaptive_pool(graph, x, layer.bins, kind)
        grids.append(graph.op("Reshape", grid, (0, channels, layer.bins**2)))
    hidden = _dense(graph, layer.grid_hidden, graph.op("Concat", *grids, axis=2))
    score = graph.op("Squeeze", _dense(graph, layer.grid_score, hidden), (2,))
    hidden = _dense(graph, layer.channel_hidden, score)
    weight = _dense(graph, layer.channel_weight, hidden)
    weight = graph.op("Add", graph.op("Unsqueeze", weight, (2, 3)), np.float32(1))
    return graph.op("Mul", x, weight)


def _adaptive_pool(graph, x, bins, kind):
    """Windows `[floor(i n / bins), ceil((i + 1) n / bins))` of rows, then columns."""
    for axis in (2, 3):
        side = graph.side(x, axis)
        parts = []
        for i in range(bins):
            start = graph.op("Div", graph.op("Mul", side, (i,)), (bins,))
            stop = graph.op("Mul", side, (i + 1,))
            stop = graph.op("Div", graph.op("Add", stop, (bins - 1,)), (bins,))
            window = graph.op("Slice", x, start, stop, (axis,))
            parts.append(graph.op(kind, window, (axis,)))
        x = graph.op("Concat", *parts, axis=axis)
    return x


def _conv_offset(graph, layer, x):
    """Each channel of each image becomes an image of its own for `GridSample`."""
    channels = layer.kernel.shape[2]
    height, width = graph.side(x, 2), graph.side(x, 3)
    offsets = graph.op(
        "Conv",
        x,
        graph.weight(layer.kernel, perm=(3, 2, 0, 1)),
        kernel_shape=(3, 3),
        pads=(1, 1, 1, 1),
    )
    if layer.layout == "paired":
        shape = graph.op("Concat", (-1, channels, 2), height, width, axis=0)
        offsets = graph.op("Reshape", offsets, shape)
        offsets = graph.op("Transpose", offsets, perm=(0, 1, 3, 4, 2))
    shape = graph.op("Concat", (-1,), height, width, (2,), axis=0)
    shifts = graph.split(graph.op("Reshape", offsets, shape), 2, axis=3)
    places = []
    for shift, side, ending in zip(
        shifts, (height, width), ((1, -1, 1, 1), (1, 1, -1, 1)), strict=True
    ):
        count = graph.op("Cast", graph.op("Squeeze", side), to=_float_type())
        grid = graph.op("Range", np.float32(0), count, np.float32(1))
        place = graph.op("Add", shift, graph.op("Reshape", grid, ending))
        # From pixels to [-1, 1]; a side of one pixel has only the place 0.
        last = graph.op("Sub", count, np.float32(1))
        half = graph.op("Mul", graph.op("Max", last, np.float32(1)), np.float32(0.5))
        places.append(graph.op("Sub", graph.op("Div", place, half), np.float32(1)))
    # `GridSample` wants the column before the row.
    grid = graph.op("Concat", *reversed(places), axis=3)
    maps = graph.op("Reshape", x, graph.op("Concat", (-1, 1), height, width, axis=0))
    maps = graph.op(
        "GridSample",
        maps,
        grid,
        mode="bilinear",
        padding_mode="border",
        align_corners=1,
    )
    return graph.op(
        "Reshape", maps, graph.op("Concat", (-1, channels), height, width, axis=0)
    )


def _guided_filter(graph, layer, inputs):
    """The formulas of `AttentionGuidedFilter`, in float64 as there."""
    *small, guide = inputs
    x, y, attention = (graph.op("Cast", t, to=_float_type(64)) for t in small)
    a = graph.op("Add", graph.op("Abs", attention), np.float64(1e-12))
    ax, ay = graph.op("Mul", a, x), graph.op("Mul", a, y)

    def window_sum(values):
        r = layer.radius
        values = graph.op("Pad", values, (0, 0, r, r, 0, 0, r, r))
        for axis in (2, 3):
            shifted = [
                graph.op("Slice", values, (i,), (i - 2 * r or TO_THE_END,), (axis,))
                for i in range(2 * r + 1)
            ]
            values = _of_pair("Add")(graph, layer, shifted)
        return values

    # Not as a constant: OpenVINO would not finish folding the sums of its windows.
    ones = graph.op("Div", a, a)
    n = window_sum(ones)

    def mean(values):
        return graph.op("Div", window_sum(values), n)

    total = graph.op("ReduceSum", a, (0, 1, 2, 3))
    n_tax = graph.op("Div", window_sum(graph.op("Mul", a, ax)), total)
    mean_ax, mean_ay = mean(ax), mean(ay)
    covariance, variance = (
        graph.op("Sub", mean(graph.op("Mul", ax, t)), graph.op("Mul", n_tax, mean_t))
        for t, mean_t in ((ay, mean_ay), (ax, mean_ax))
    )
    variance = graph.op("Add", graph.op("Abs", variance), np.float64(layer.epsilon))
    slope = graph.op("Div", covariance, variance)
    intercept = graph.op("Sub", mean_ay, graph.op("Mul", slope, mean_ax))
    intercept = graph.op("Div", intercept, mean(a))

    def enlarged(values):
        values = graph.op("Cast", mean(values), to=_float_type())
        size = graph.op(
            "Concat",
            graph.op("Shape", values, start=0, end=2),
            graph.op("Shape", guide, start=2, end=4),
            axis=0,
        )
        return graph.op(
            "Resize",
            values,
            "",
            "",
            size,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    slope, intercept = enlarged(slope), enlarged(intercept)
    return graph.op("Add", graph.op("Mul", slope, guide), intercept)


def _recurrent_conv(graph, layer, x):
    fed = _conv(graph, layer.forward, x)
    x = graph.op("Relu", fed)
    for _ in range(layer.steps):
        x = graph.op("Relu", graph.op("Add", fed, _conv(graph, layer.recurrent, x)))
    return x


def _shared_residual_block(graph, layer, x):
    y = _conv(graph, layer.conv, graph.op("Relu", _conv(graph, layer.conv, x)))
    return graph.op("Relu", graph.op("Add", x, y))


def _vessel_probability(graph, layer, inputs):
    logits = inputs[-1] if isinstance(inputs, list) else inputs
    background, vessel = graph.split(logits, 2, axis=1)
    return graph.op("Sigmoid", graph.op("Sub", vessel, background))


def _float_type(bits=32):
    from onnx import TensorProto

    return TensorProto.FLOAT if bits == 32 else TensorProto.DOUBLE


def _relu(graph, layer, x):
    return graph.op("Relu", x)


EMITTERS = {
    layers.Activation: _identity,
    layers.Add: _of_pair("Add"),
    layers.Average: _average,
    layers.AveragePooling2D: _pooling("AveragePool"),
    layers.BatchNormalization: _batch_normalization,
    BatchNormalization: _batch_normalization,
    layers.Concatenate: _concatenate,
    layers.Conv2D: _conv,
    layers.Conv2DTranspose: _conv_transpose,
    layers.Cropping2D: _cropping,
    layers.DepthwiseConv2D: _depthwise_conv,
    layers.Dropout: _identity,
    layers.MaxPooling2D: _pooling("MaxPool"),
    layers.Multiply: _of_pair("Mul"),
    layers.ReLU: _relu,
    ReLU: _identity,
    SiLU: _identity,
    layers.UpSampling2D: _up_sampling,
    AdaptiveChannelAttention: _adaptive_channel_attention,
    AlignedUpSampling2D: _aligned_up_sampling,
    AttentionGuidedFilter: _guided_filter,
    ChannelAttention: _channel_attention,
    ConvOffset2D: _conv_offset,
    CrossScaleSpatialAttention: _cross_scale_attention,
    DropBlock2D: _identity,
    GroupNormalization: _group_normalization,
    RecurrentConv2D: _recurrent_conv,
    SharedResidualBlock: _shared_residual_block,
    SpatialAttention: _spatial_attention,
    VesselProbability: _vessel_probability,
}
