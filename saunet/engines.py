"""What runs a network: Keras, or its exported graph in OpenVINO or ONNX Runtime.

An engine is called like a function, (N, H, W, 3) float32 in [0, 1] -> (N, H, W, 1)
float32, any N, H and W that the network takes. It holds the weights that the network
had when the engine was made.
"""

import json
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np

from saunet.data.field import is_diameter
from saunet.data.padding import checked_padding
from saunet.data.runs import are_names
from saunet.errors import InputError, MissingPackageError, need
from saunet.export import FORMATS, to_onnx
from saunet.machine import count_cores
from saunet.quiet import quiet_stderr

# engine -> what it can compute in
PRECISIONS = {
    "keras": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16"),
    "onnxruntime": ("float32",),
}
METADATA = "saunet"  # the key of an ONNX file's metadata


def make_engine(model, engine="auto", *, precision="float32", threads=None):
    """Compiles a network for one of the engines.

    Args:
        model: A `keras.Model` of one input and one output.
        engine: "keras", "openvino" or "onnxruntime"; "auto" is the fastest that is
            installed and knows all layers of the model: OpenVINO where Keras has
            no GPU, else Keras.
        precision: "float32", or on Keras and OpenVINO "bfloat16", whose products
            have 8 bits of mantissa; refused on OpenVINO where the processor has no
            such instructions.
        threads: Integer, CPU threads of OpenVINO and ONNX Runtime; their own choice
            by default.

    Raises:
        InputError: no such engine or precision, the package is not installed, or the
            model has a layer that cannot be exported.
    """
    chosen = check_engine(engine, precision)
    if chosen == "keras":
        return KerasEngine(model, precision)
    try:
        graph = to_onnx(model).SerializeToString()
    except InputError:
        if engine == "auto":  # somebody's own network
            return KerasEngine(model, precision)
        raise
    return _graph_engine(chosen, graph, precision, threads)


def check_engine(engine, precision="float32"):
    """Returns the engine that "auto" or a name stands for; else `InputError`."""
    if engine not in (*PRECISIONS, "auto"):
        raise InputError(f"engine {engine!r}: expected auto, {', '.join(PRECISIONS)}")
    known = sorted({p for precisions in PRECISIONS.values() for p in precisions})
    if precision not in known:
        raise InputError(f"precision {precision!r}: expected {' or '.join(known)}")
    if engine == "auto":
        installed = find_spec("openvino") and find_spec("onnx")
        # Not `list_devices("gpu")`: where there is none JAX raises.
        names = keras.distribution.list_devices()
        on_cpu = all(name.startswith("cpu") for name in names)
        engine = "openvino" if installed and on_cpu else "keras"
    if precision not in PRECISIONS[engine]:
        raise InputError(
            f"precision {precision!r} on the engine {engine}: expected "
            f"{' or '.join(PRECISIONS[engine])}"
        )
    if engine != "keras":
        need(engine, engine)
    return engine


def open_exported(path, engine="auto", *, precision="float32", threads=None):
    """Returns an engine for a file, or SavedModel's folder, that `export` wrote.

    Args:
        path: A `.onnx`, `.xml` (OpenVINO), `.tflite` (LiteRT), or a SavedModel.
        engine: For a `.onnx`: "openvino" or "onnxruntime"; the first that is
            installed by default.
        precision: As in `make_engine`; for `.onnx` and `.xml`.
        threads: Likewise.

    Raises:
        InputError: no such file, a damaged one, or one of another kind; or what
            runs it is not installed.
    """
    path = Path(path)
    kinds = {suffix: file_format for file_format, suffix in FORMATS.items()}
    suffix = path.suffix.lower()
    if not path.exists() or suffix not in kinds:
        raise InputError(
            f"{path}: expected an exported network, .onnx, .xml, .tflite or a "
            f"SavedModel's folder"
        )
    try:
        if suffix == ".tflite":
            return LiteRTEngine(path)
        if suffix == "":
            return SavedModelEngine(path)
        if suffix == ".xml":
            engine = "openvino"
        elif engine == "auto":
            engine = "openvino" if find_spec("openvino") else "onnxruntime"
        elif engine == "keras":
            raise InputError("engine 'keras': expected openvino or onnxruntime")
        check_engine(engine, precision)
        return _graph_engine(engine, path, precision, threads)
    except InputError:
        raise
    except Exception as error:  # each library raises a class of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as {kinds[suffix]} ({reason}): export the "
            f"network again"
        ) from error


def read_metadata(path):
    """Returns what `saunet export` noted in an ONNX file: a dictionary, or None.

    Raises:
        InputError: onnx is not installed, or the note is not what `saunet` writes.
    """
    need("onnx", "onnx")
    import onnx

    properties = onnx.load(path, load_external_data=False).metadata_props
    notes = {entry.key: entry.value for entry in properties}
    if METADATA not in notes:
        return None
    try:
        about = json.loads(notes[METADATA])
        checked_padding(about["padding"])
        diameter = about.get("fov_diameter")
        sound = (
            all(isinstance(about[key], str) for key in ("name", "model"))
            and 0 <= about["threshold"] < 1
            and (diameter is None or is_diameter(diameter))
            and are_names(about.get("seen", []))
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise InputError(
            f"{path}: its note {notes[METADATA][:200]!r} makes no sense: expected a "
            f"file written by `saunet export`; export the network again"
        )
    return about


def _graph_engine(name, graph, precision, threads):
    kinds = {"openvino": OpenVINOEngine, "onnxruntime": ONNXRuntimeEngine}
    return kinds[name](graph, precision=precision, threads=threads)


class KerasEngine:
    """Keras on its own backend and device; needs no other package.

    Args:
        model: A `keras.Model` of one input and one output.
        precision: "float32" runs the model itself, in whatever precision it was
            built; "bfloat16" a copy of it in mixed bfloat16.
    """

    name = "keras"

    def __init__(self, model, precision="float32"):
        self.precision = precision
        self.model = _in_bfloat16(model) if precision == "bfloat16" else model

    def __call__(self, batch):
        # Measured on 2 CPU cores, sa_unet_v2 at 592x592: 0.17 s, where `model.predict`
        # takes 0.25 s. Keras compiles it once, and once more with free height and
        # width when a second size comes.
        return np.asarray(self.model.predict_on_batch(batch), np.float32)


def _in_bfloat16(model):
    """Returns a copy whose layers compute in bfloat16, the last one excepted."""

    def copied(layer):
        config = layer.get_config()
        if layer.output is not model.output:
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=copied)
    copy.set_weights(model.get_weights())
    return copy


class OpenVINOEngine:
    """A graph on OpenVINO's CPU plugin.

    Compiled for one size, in a quarter of a second, SA-UNetv2 runs 1.6 times faster
    than compiled for all sizes. So the first size, and each other that comes twice, is
    compiled; a size that comes once runs in a graph for all.

    Args:
        graph: The bytes of an ONNX file, or the path of a `.onnx` or `.xml`.
        precision: "float32" or "bfloat16".
        threads: Integer, or `None` for OpenVINO's choice.
    """

    name = "openvino"
    kept = 4  # graphs of one size that stay compiled, the last used

    def __init__(self, graph, *, precision="float32", threads=None):
        import openvino

        self.precision = precision
        self._core = openvino.Core()
        has = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in has:
            raise InputError(
                "precision 'bfloat16' on the engine openvino: this processor has no "
                "such instructions, and would compute in float32: leave it out"
            )
        self._graph = self._core.read_model(graph)
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        }
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._compiled = OrderedDict()
        self._seen_once = set()
        self._any_size = None

    def __call__(self, batch):
        return self._network(batch.shape)(batch)[0]

    def _network(self, shape):
        if shape not in self._compiled and self._compiled:
            if shape not in self._seen_once:
                self._seen_once.add(shape)
                if self._any_size is None:
                    self._any_size = self._compile(self._graph)
                return self._any_size
        if shape not in self._compiled:
            graph = self._graph.clone()
            graph.reshape(list(shape))
            self._compiled[shape] = self._compile(graph)
            if len(self._compiled) > self.kept:
                evicted, _ = self._compiled.popitem(last=False)
                self._seen_once.discard(evicted)  # not at once again
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _compile(self, graph):
        return self._core.compile_model(graph, "CPU", self._config)


class ONNXRuntimeEngine:
    """A graph on ONNX Runtime's CPU provider.

    Args:
        graph: The bytes of an ONNX file, or its path.
        precision: "float32".
        threads: Integer, or `None` for ONNX Runtime's choice.
    """

    name = "onnxruntime"

    def __init__(self, graph, *, precision="float32", threads=None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.precision = precision
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch):
        return self._session.run(None, {"image": batch})[0]


class LiteRTEngine:
    """A `.tflite` file on LiteRT."""

    name = "litert"
    precision = "float32"

    def __init__(self, path):
        need("ai_edge_litert", "litert")
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=count_cores())
        with quiet_stderr():  # it tells of its delegate
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, batch):
        if tuple(self._input["shape"]) != batch.shape:
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape)
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


class SavedModelEngine:
    """A SavedModel's folder on TensorFlow."""

    name = "saved_model"
    precision = "float32"

    def __init__(self, path):
        if find_spec("tensorflow") is None:
            raise MissingPackageError(
                "a SavedModel needs the package tensorflow, which is not installed: "
                "pip install tensorflow"
            )
        import tensorflow as tf

        self._model = tf.saved_model.load(str(path))

    def __call__(self, batch):
        return self._model.serve(batch).numpy()
