"""Engines: the same map from each, whatever sizes come, and clear refusals."""

import sys

import keras
import numpy as np
import pytest
from helpers import fill_weights, generator
from keras import layers

from saunet import engines, errors
from saunet.engines import (
    KerasEngine,
    OpenVINOEngine,
    check_engine,
    make_engine,
    open_exported,
)
from saunet.errors import InputError, MissingPackageError
from saunet.export import export
from saunet.inference import Segmenter
from saunet.layers import GroupNormalization
from saunet.models import build_model

pytest.importorskip("onnx")
INSTALLED = ["keras", *(e for e in ("openvino", "onnxruntime") if engines.find_spec(e))]


@pytest.fixture(scope="module")
def v2():
    model = build_model("sa_unet_v2")
    fill_weights(model)
    return model


def picture(n, height, width):
    return generator("engines", height, width).random((n, height, width, 3), "float32")


@pytest.mark.parametrize("name", INSTALLED)
def test_every_engine_takes_any_size_and_batch(v2, name):
    engine = make_engine(v2, name)
    assert (engine.name, engine.precision) == (name, "float32")
    for shape in ((1, 32, 48), (3, 32, 48), (1, 64, 16), (1, 64, 16), (1, 32, 48)):
        batch = picture(*shape)
        vessels = engine(batch)
        assert vessels.dtype == np.float32
        np.testing.assert_allclose(vessels, np.asarray(v2(batch)), atol=2e-5)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_result_survives_the_next_call(v2, name):
    engine = make_engine(v2, name, threads=1)
    first = engine(picture(1, 32, 32))
    kept = first.copy()
    engine(1 - picture(1, 32, 32))
    np.testing.assert_array_equal(first, kept)


def test_group_norm_is_exact_on_whole_photographs():
    # A mean of 350,464 numbers added one after the other loses three digits.
    inputs = keras.Input((None, None, 16))
    layer = GroupNormalization(8)
    model = keras.Model(inputs, layer(inputs))
    maps = generator("maps").normal(3, 1, (1, 592, 592, 16)).astype(np.float32)
    exact = maps.astype(np.float64).reshape(1, 592 * 592, 8, 2)
    mean, variance = exact.mean((1, 3)), exact.var((1, 3))
    exact -= mean[:, None, :, None]
    exact /= np.sqrt(variance + layer.epsilon)[:, None, :, None]
    exact = exact.reshape(maps.shape)
    for name in INSTALLED:
        difference = np.abs(make_engine(model, name)(maps) - exact).max()
        assert difference < (2e-5 if name == "keras" else 1e-4), name


def test_a_size_that_comes_once_compiles_no_graph_of_its_own(v2, monkeypatch):
    pytest.importorskip("openvino")
    compiled = []
    original = OpenVINOEngine._compile

    def counted(self, graph):
        compiled.append(str(graph.input(0).partial_shape))
        return original(self, graph)

    monkeypatch.setattr(OpenVINOEngine, "_compile", counted)
    engine = make_engine(v2, "openvino")
    sizes = [(16, 16), (16, 32), (16, 48), (16, 16), (16, 32), (16, 32)]
    for size in sizes:
        engine(picture(1, *size))
    assert compiled == ["[1,16,16,3]", "[?,?,?,3]", "[1,16,32,3]"]
    for width in (48, 64, 80, 96):
        for _ in range(2):
            engine(picture(1, 16, width))
    assert len(engine._compiled) == engine.kept
    assert (1, 16, 16, 3) not in engine._compiled
    # One that had to go is compiled again where it comes twice, not at once.
    before = len(compiled)
    engine(picture(1, 16, 48))
    assert len(compiled) == before or (1, 16, 48, 3) in engine._compiled
    engine(picture(1, 16, 32))
    assert len(compiled) == before
    engine(picture(1, 16, 32))
    assert compiled[before:] == ["[1,16,32,3]"]


@pytest.mark.parametrize("name", [e for e in INSTALLED if e != "onnxruntime"])
def test_bfloat16_is_near_and_is_not_float32(v2, name):
    if name == "openvino" and not has_bfloat16():
        pytest.skip("no bfloat16 in this processor")
    batch = picture(1, 64, 64)
    coarse = make_engine(v2, name, precision="bfloat16")
    assert (coarse.name, coarse.precision) == (name, "bfloat16")
    difference = np.abs(coarse(batch) - KerasEngine(v2)(batch))
    assert difference.mean() < 0.05
    assert difference.max() > 1e-4


def has_bfloat16():
    import openvino

    has = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in has


@pytest.mark.skipif("openvino" not in INSTALLED, reason="openvino is not installed")
def test_openvino_does_not_pass_off_float32_as_bfloat16(v2, tmp_path, monkeypatch):
    import openvino

    def only_avx2(core, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8"]

    monkeypatch.setattr(openvino.Core, "get_property", only_avx2)
    export(v2, tmp_path / "v2.onnx", "onnx")
    # What computes may be another machine, of a cluster.
    segmenter = Segmenter(v2, engine="openvino", precision="bfloat16")
    for asked in (
        lambda: segmenter.engine,
        lambda: make_engine(v2, "openvino", precision="bfloat16"),
        lambda: open_exported(tmp_path / "v2.onnx", precision="bfloat16"),
    ):
        with pytest.raises(InputError, match="this processor has no such instructions"):
            asked()
    assert make_engine(v2, "openvino").precision == "float32"


def test_keras_computes_a_copy_in_bfloat16(v2):
    coarse = make_engine(v2, "keras", precision="bfloat16")
    policies = {layer.name: layer.dtype_policy.name for layer in coarse.model.layers}
    assert policies.pop("vessels") == policies.pop("image") == "float32"
    assert set(policies.values()) == {"mixed_bfloat16"}
    assert {layer.dtype_policy.name for layer in v2.layers} == {"float32"}
    values = np.unique(coarse(picture(1, 64, 64)))
    assert len(values) > 256  # the sigmoid's result is not rounded to 8 bits


def test_auto_takes_openvino_where_it_is_and_no_gpu(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    assert check_engine("auto") == "openvino"
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    assert check_engine("auto") == "keras"
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert check_engine("auto") == "keras"


def test_somebodys_own_layer_runs_on_keras():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.LayerNormalization()(inputs))
    assert make_engine(model).name == "keras"
    if len(INSTALLED) > 1:
        with pytest.raises(InputError, match="cannot be exported"):
            make_engine(model, INSTALLED[1])


def test_a_segmenter_uses_the_weights_of_its_first_prediction():
    inputs = keras.Input((None, None, 3))
    conv = layers.Conv2D(1, 1, use_bias=False)
    model = keras.Model(inputs, conv(inputs))
    segmenter = Segmenter(model)
    conv.set_weights([np.float32([0, 1, 0]).reshape(1, 1, 3, 1)])
    image = (255 * picture(1, 20, 30)[0]).astype(np.uint8)
    np.testing.assert_allclose(segmenter.predict(image), image[..., 1] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("torch", "float32", "engine 'torch': expected auto, keras, openvino"),
        ("onnxruntime", "bfloat16", "on the engine onnxruntime: expected float32"),
        ("auto", "int4", "precision 'int4': expected bfloat16 or float32"),
    ],
)
def test_a_wrong_wish_is_one_line(engine, precision, message):
    with pytest.raises(InputError, match=message):
        check_engine(engine, precision)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    with pytest.raises(InputError, match=message):
        Segmenter(model, engine=engine, precision=precision)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_missing_package_is_named_with_its_command(monkeypatch, name):
    monkeypatch.setattr(errors, "find_spec", lambda package: None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'saunet\[{name}\]'"):
        check_engine(name)


@pytest.mark.parametrize(
    ("suffix", "engine", "precision", "message"),
    [
        (".onnx", "torch", "float32", "^engine 'torch': expected auto, keras, openvin"),
        (".onnx", "keras", "float32", "^engine 'keras': expected openvino or onnxrun"),
        (".onnx", "auto", "int4", "^precision 'int4': expected bfloat16 or float32"),
        (".onnx", "onnxruntime", "bfloat16", "on the engine onnxruntime: expected fl"),
        (".xml", "auto", "int4", "^precision 'int4': expected bfloat16 or float32"),
    ],
)
def test_a_wrong_wish_for_a_file_is_one_line(
    tmp_path, suffix, engine, precision, message
):
    path = tmp_path / f"net{suffix}"
    path.touch()
    with pytest.raises(InputError, match=message):
        open_exported(path, engine, precision=precision)


def test_a_saved_model_without_tensorflow_names_a_package_that_there_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "find_spec", lambda package: None)
    with pytest.raises(MissingPackageError, match=r"pip install tensorflow$"):
        open_exported(tmp_path)


def test_what_openvino_wrote_needs_no_other_package(v2, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    export(v2, tmp_path / "v2.xml", "openvino")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert open_exported(tmp_path / "v2.xml").name == "openvino"
