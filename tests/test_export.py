"""Exported networks compute what Keras computes, without this package."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import fill_weights, generator
from keras import layers

from saunet import inference
from saunet.cli import main
from saunet.data.synthetic import synthetic_fundus
from saunet.engines import (
    METADATA,
    KerasEngine,
    make_engine,
    open_exported,
    read_metadata,
)
from saunet.errors import InputError, MissingPackageError
from saunet.export import FORMATS, export, format_of, to_onnx
from saunet.inference import Segmenter, export_segmenter, load_segmenter
from saunet.layers import ConvOffset2D
from saunet.models import MODELS, build_model

onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def v2():
    model = build_model("sa_unet_v2")
    fill_weights(model)
    return model


def picture(n, height, width):
    return generator("export", height, width).random((n, height, width, 3), "float32")


def on_onnx_runtime(proto, batch):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return session.run(None, {"image": batch})[0]


@pytest.mark.parametrize("name", MODELS)
def test_onnx_computes_what_keras_computes(name):
    model = build_model(name)
    fill_weights(model)
    proto = to_onnx(model)
    # Not square, and not the multiple of 32 that hides a wrong window or padding.
    batch = picture(2, 48, 80)
    expected = KerasEngine(model)(batch)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(on_onnx_runtime(proto, batch), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["dunet", "ag_net", "cmp_unet", "sa_unet_v2"])
def test_openvino_reads_the_onnx_graph(name):
    # The networks whose layers the engines take apart in different ways.
    model = build_model(name)
    fill_weights(model)
    core = openvino.Core()
    graph = core.read_model(to_onnx(model).SerializeToString())
    batch = picture(2, 48, 80)
    expected = KerasEngine(model)(batch)
    for shape in (None, batch.shape):  # of any size, and folded for one
        if shape:
            graph.reshape(shape)
        network = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(network(batch)[0], expected, atol=1e-4)


@pytest.mark.parametrize("layout", ["paired", "reference"])
@pytest.mark.parametrize("size", [(6, 9), (1, 4), (5, 1)])
def test_offsets_beyond_the_map_and_maps_of_one_row(layout, size):
    inputs = keras.Input((None, None, 2))
    layer = ConvOffset2D(layout)
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(generator("offsets").normal(0, 2, layer.kernel.shape))
    batch = generator("map", *size).random((3, *size, 2), "float32")
    np.testing.assert_allclose(
        on_onnx_runtime(to_onnx(model), batch), np.asarray(model(batch)), atol=1e-5
    )


@pytest.mark.parametrize(
    "layer",
    [
        layers.UpSampling2D((2, 3)),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Cropping2D(((1, 0), (2, 3))),
        layers.Conv2D(4, (3, 2), padding="same", dilation_rate=2, activation="silu"),
        layers.Conv2D(4, 3, padding="valid", groups=2),
        layers.Conv2D(4, 2, strides=2, padding="same"),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2DTranspose(3, 2, strides=2),
        layers.DepthwiseConv2D((1, 5), padding="same", depth_multiplier=2),
        layers.AveragePooling2D(2, strides=4),
        layers.MaxPooling2D(2),
    ],
    ids=lambda layer: layer.name,
)
def test_each_stock_layer(layer):
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, layer(inputs))
    fill_weights(model)
    batch = generator("layer").random((2, 16, 24, 4), "float32")
    np.testing.assert_allclose(
        on_onnx_runtime(to_onnx(model), batch), np.asarray(model(batch)), atol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("read_twice", [False, True])
def test_joined_maps_are_not_joined_to_be_convolved(groups, read_twice):
    inputs = keras.Input((None, None, 2))
    parts = [layers.Conv2D(n, 1)(inputs) for n in (1, 5, 2)]
    joined = layers.Concatenate()(parts)
    outputs = layers.Conv2D(4, 3, padding="same", groups=groups)(joined)
    if read_twice:
        pooled = layers.UpSampling2D(1)(joined)
        outputs = layers.Concatenate()([outputs, pooled])
    model = keras.Model(inputs, outputs)
    fill_weights(model)
    proto = to_onnx(model)
    batch = generator("joined").random((2, 6, 9, 2), "float32")
    np.testing.assert_allclose(
        on_onnx_runtime(proto, batch), np.asarray(model(batch)), atol=1e-5
    )
    copies = sum(node.op_type == "Concat" for node in proto.graph.node)
    assert copies == (groups == 2 or read_twice) + read_twice


def test_weights_and_nodes_keep_the_names_of_the_layers(v2):
    graph = to_onnx(v2).graph
    assert any(node.name.startswith("down1_a_conv/Conv") for node in graph.node)
    assert v2.get_layer("up0_b_conv").kernel.path in {w.name for w in graph.initializer}
    assert [node.name for node in graph.node] == list(
        dict.fromkeys(node.name for node in graph.node)
    )


def test_an_unknown_layer_is_named():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.LayerNormalization(name="odd")(inputs))
    with pytest.raises(InputError, match="'odd', a LayerNormalization, cannot be"):
        to_onnx(model)
    tanh = keras.Model(inputs, layers.Conv2D(1, 1, activation="tanh", name="c")(inputs))
    with pytest.raises(InputError, match="activation 'tanh' of 'c'"):
        to_onnx(tanh)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.ReLU(max_value=6), "a ReLU with max_value=6"),
        (layers.ReLU(negative_slope=0.1), "negative_slope=0.1"),
        (layers.UpSampling2D(interpolation="bicubic"), "interpolation='bicubic'"),
        (layers.Conv2DTranspose(4, 3), "padding='valid'"),
        (layers.Conv2DTranspose(4, 2, strides=3, padding="same"), "padding='same'"),
        (layers.MaxPooling2D(3, strides=1, padding="same"), "padding='same'"),
        (layers.BatchNormalization(scale=False), "scale=False"),
        (layers.BatchNormalization(center=False), "center=False"),
        (layers.Conv2D(4, 3, activation=layers.LeakyReLU()), "activation=LeakyReLU"),
    ],
)
def test_what_is_not_written_is_refused_and_left_to_keras(layer, message):
    """Written as if the option were not there, the maps would be others in silence."""
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    model = keras.Model(inputs, layers.Conv2D(1, 1)(layer(x)))
    with pytest.raises(InputError, match=f"{message}.* cannot be exported"):
        to_onnx(model)
    assert make_engine(model, "auto").name == "keras"


def test_layers_that_are_called_twice_are_refused():
    inputs = keras.Input((None, None, 3))
    layer = layers.Conv2D(3, 3, padding="same")
    with pytest.raises(InputError, match="is called more than once"):
        to_onnx(keras.Model(inputs, layer(layer(inputs))))
    other = keras.Input((None, None, 3))
    with pytest.raises(InputError, match="or in another network, too"):
        to_onnx(keras.Model(other, layer(other)))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_network_of_one_size_is_written_and_checked(tmp_path, file_format):
    inputs = keras.Input((48, 64, 3))
    x = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    segmenter = Segmenter(keras.Model(inputs, x), engine="keras")
    path = tmp_path / {"openvino": "a.xml", "litert": "a.tflite"}.get(
        file_format, "a.onnx" if file_format == "onnx" else "a"
    )
    export(segmenter.model, path, file_format)
    batch = picture(1, 48, 64)
    expected = KerasEngine(segmenter.model)(batch)
    np.testing.assert_allclose(open_exported(path)(batch), expected, atol=1e-5)


def test_five_outputs_are_refused():
    with pytest.raises(InputError, match="5 outputs"):
        to_onnx(build_model("ag_net", outputs="all"))


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_takes_any_size(tmp_path, monkeypatch, capfd, v2, file_format):
    if file_format == "litert":
        pytest.importorskip("ai_edge_litert")
    path = tmp_path / f"network{FORMATS[file_format]}"
    export(v2, path, file_format)
    engine = open_exported(path)
    capfd.readouterr()
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    for size in ((1, 32, 48), (2, 64, 32)):
        batch = picture(*size)
        vessels = engine(batch)
        assert capfd.readouterr() == ("", "")
        np.testing.assert_allclose(vessels, KerasEngine(v2)(batch), atol=1e-4)
    expected = {path.name} | ({"network.bin"} if file_format == "openvino" else set())
    assert {p.name for p in tmp_path.iterdir()} == expected


def test_an_onnx_file_needs_nothing_of_ours(tmp_path, v2):
    export(v2, tmp_path / "v2.onnx", "onnx")
    np.save(tmp_path / "batch.npy", picture(1, 32, 32))
    code = """if True:
        import sys
        sys.modules.update(saunet=None, keras=None, tensorflow=None)
        import numpy, onnxruntime
        session = onnxruntime.InferenceSession("v2.onnx")
        image = numpy.load("batch.npy")
        numpy.save("vessels.npy", session.run(["vessels"], {"image": image})[0])
    """
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = np.asarray(v2(picture(1, 32, 32)))
    np.testing.assert_allclose(np.load(tmp_path / "vessels.npy"), expected, atol=1e-4)


def test_a_saved_model_needs_nothing_of_ours(tmp_path, v2):
    export(v2, tmp_path / "v2", "saved_model")
    np.save(tmp_path / "batch.npy", picture(1, 32, 32))
    code = """if True:
        import sys
        sys.modules.update(saunet=None, keras=None)
        import numpy, tensorflow
        model = tensorflow.saved_model.load("v2")
        numpy.save("vessels.npy", model.serve(numpy.load("batch.npy")).numpy())
    """
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = np.asarray(v2(picture(1, 32, 32)))
    np.testing.assert_allclose(np.load(tmp_path / "vessels.npy"), expected, atol=1e-5)


def test_a_segmenter_comes_back_from_its_onnx_file(tmp_path, v2):
    padding = {"placement": "bottom_right", "multiple": 8, "square": False}
    segmenter = Segmenter(v2, threshold=0.3, padding=padding, name="mine")
    path = tmp_path / "mine.onnx"
    assert export_segmenter(segmenter, path, "onnx") < 1e-4
    assert read_metadata(path)["model"] == "sa_unet_v2"
    back = load_segmenter(path)
    assert (back.name, back.threshold, back.padding) == ("mine", 0.3, padding)
    image = synthetic_fundus(1).image[:60, :75]
    np.testing.assert_allclose(back.predict(image), segmenter.predict(image), atol=1e-4)
    with pytest.raises(InputError, match="holds a sa_unet_v2, not a rsan"):
        load_segmenter(path, "rsan")
    with pytest.raises(InputError, match="exported network already"):
        export_segmenter(back, tmp_path / "again.onnx", "onnx")


@pytest.mark.parametrize(
    ("verb", "name"), [("convert", "again.weights.h5"), ("export", "again.onnx")]
)
def test_an_exported_network_has_no_weights_to_write(tmp_path, capsys, v2, verb, name):
    path, out = tmp_path / "mine.onnx", tmp_path / name
    export_segmenter(Segmenter(v2), path, "onnx", seen=["im0001"])
    assert read_metadata(path)["seen"] == ["im0001"]
    assert main([verb, "--weights", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "is an exported network already: give the weights" in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_a_foreign_onnx_file_does_not_say_its_padding(tmp_path, v2):
    export(v2, tmp_path / "bare.onnx", "onnx", properties={"other": "words"})
    with pytest.raises(InputError, match="does not say how its images were padded"):
        load_segmenter(tmp_path / "bare.onnx")


NOTE = {
    "name": "mine",
    "model": "sa_unet_v2",
    "threshold": 0.5,
    "padding": {"placement": "centered", "multiple": 16, "square": True},
}


@pytest.mark.parametrize(
    "note",
    [
        "{}",
        "x",
        "[]",
        "[" * 100_000,
        json.dumps({**NOTE, "name": 3}),
        json.dumps({**NOTE, "threshold": "a"}),
        json.dumps({**NOTE, "threshold": 2}),
        json.dumps({**NOTE, "padding": 3}),
        json.dumps({**NOTE, "padding": {**NOTE["padding"], "multiple": 0}}),
        *(
            json.dumps({**NOTE, "fov_diameter": value})
            for value in (-546, 0, [], [540], [1600, 540], True)
        ),
    ],
)
def test_a_note_that_makes_no_sense_is_one_line(tmp_path, note):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.Conv2D(1, 1)(inputs))
    export(model, tmp_path / "a.onnx", "onnx", properties={METADATA: note})
    with pytest.raises(InputError, match=r"a\.onnx: its note .* export the") as caught:
        load_segmenter(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [InputError, MissingPackageError])
def test_only_what_is_not_installed_checks_nothing(tmp_path, monkeypatch, v2, error):
    def failing(path):
        raise error("a.onnx: cannot be read as onnx")

    monkeypatch.setattr(inference, "open_exported", failing)
    if error is MissingPackageError:
        assert export_segmenter(Segmenter(v2), tmp_path / "a.onnx", "onnx") is None
    else:
        with pytest.raises(InputError, match="cannot be read as onnx"):
            export_segmenter(Segmenter(v2), tmp_path / "a.onnx", "onnx")


def test_integers_stay_near_floats_and_keep_the_metadata(tmp_path, v2):
    batches = [picture(1, 64, 64) for _ in range(2)]
    path = tmp_path / "int8.onnx"
    export(
        v2, path, "onnx", properties={METADATA: json.dumps(NOTE)}, calibration=batches
    )
    assert read_metadata(path) == NOTE
    expected, ours = KerasEngine(v2)(batches[0]), open_exported(path)(batches[0])
    assert 0 < np.abs(ours - expected).mean() < 0.02
    import onnx

    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("QuantizeLinear") >= kinds.count("Conv") > 10


@pytest.mark.parametrize(
    ("path", "file_format", "message"),
    [
        ("a.onnx", "flax", "format 'flax': expected onnx, openvino"),
        ("a.tflite", "onnx", "expected .onnx for onnx"),
        ("a.h5", "saved_model", "expected a folder's name"),
        ("nowhere/a.onnx", "onnx", "is not a folder: make it"),
    ],
)
def test_a_wrong_wish_is_one_line(tmp_path, v2, path, file_format, message):
    with pytest.raises(InputError, match=message):
        export(v2, tmp_path / path, file_format)
    assert not list(tmp_path.iterdir())


def test_the_ending_says_the_format():
    assert {format_of(f"v2{suffix}"): suffix for suffix in FORMATS.values()} == FORMATS
    with pytest.raises(InputError, match=r"v2\.xyz: expected a name that"):
        format_of("v2.xyz")


def test_nothing_is_read_before_the_name_is_checked(tmp_path, v2):
    segmenter = Segmenter(v2)
    with pytest.raises(InputError, match="8-bit integers are written as onnx"):
        export_segmenter(
            segmenter, tmp_path / "a.xml", "openvino", calibration=["nowhere"]
        )


def test_nothing_saved_is_lost(tmp_path, v2, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists: give the name of a new folder"):
        export(v2, tmp_path / "there", "saved_model")
    (tmp_path / "net.xml").write_text("old")
    (tmp_path / "net.bin").write_text("old")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(InputError, match=r"net\.xml: cannot be written \(No space"):
        export(v2, tmp_path / "net.xml", "openvino")
    assert (tmp_path / "net.xml").read_text() == "old"
    assert (tmp_path / "net.bin").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "net.xml").unlink()
    with pytest.raises(InputError, match=r"net\.bin exists, and no net\.xml beside it"):
        export(v2, tmp_path / "net.xml", "openvino")
    (tmp_path / "net.xml").mkdir()
    with pytest.raises(InputError, match=r"net\.xml is a folder"):
        export(v2, tmp_path / "net.xml", "openvino")
    assert (tmp_path / "net.bin").read_text() == "old"


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.tflite"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    if name == "a.tflite":
        pytest.importorskip("ai_edge_litert")
    with pytest.raises(InputError, match="expected an exported network"):
        open_exported(tmp_path / name)
    for path in (tmp_path / name, (tmp_path / name.upper()).with_name(name.upper())):
        path.write_bytes(b"not a network")
        with pytest.raises(InputError, match="cannot be read as") as caught:
            open_exported(path)
        assert "\n" not in str(caught.value)


@pytest.mark.data
def test_formats_and_engines_on_a_real_photograph(tmp_path, shared):
    from saunet.data.datasets import load_dataset
    from saunet.evaluation import evaluate
    from saunet.inference import load_pretrained

    samples = load_dataset("drive", shared("data/DRIVE"), "test")[:1]
    segmenter = load_pretrained("sa_unet_v2_drive", engine="keras")

    def f1(run):
        maps = [run.predict(samples[0].image)]
        return evaluate(maps, samples, region="frame", pooling="pooled")["f1"]

    expected = segmenter.predict(samples[0].image)
    for file_format, suffix in FORMATS.items():
        path = tmp_path / f"v2{suffix}"
        export_segmenter(segmenter, path, file_format)
        exported = Segmenter(None, name="exported", engine=open_exported(path))
        difference = np.abs(exported.predict(samples[0].image) - expected).max()
        assert difference < (5e-3 if file_format == "litert" else 1e-4)
        assert round(f1(exported), 4) == pytest.approx(
            round(f1(segmenter), 4), abs=1e-4
        )
