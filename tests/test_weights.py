"""Weights files of every kind, each way they can be wrong, and cards."""

import json
import resource
import shutil

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from saunet import inference, weights
from saunet.data import images
from saunet.errors import InputError
from saunet.layers import CrossScaleSpatialAttention, DropBlock2D, SpatialAttention
from saunet.models import build_model, list_models
from saunet.weights import (
    find_pretrained,
    list_pretrained,
    load_weights,
    read_card,
    render_readme,
    save_weights,
    sha256_of,
    write_card,
)

# Keras 3 converts a variable to NumPy in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def small_model(filters=4, *, normalise=True, seed=0):
    """A branch, a random state, inner layers, and non-trainable weights."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3), name="image")
    skip = layers.Conv2D(filters, 3, padding="same", name="down_conv")(inputs)
    x = DropBlock2D(0.1, name="down_drop")(skip)
    if normalise:
        x = layers.BatchNormalization(name="down_bn")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = SpatialAttention(name="attention")(x)
    x = layers.Conv2DTranspose(filters, 3, 2, padding="same", name="up")(x)
    skip = CrossScaleSpatialAttention(name="gate")([skip, x])
    x = layers.Concatenate(name="concat")([x, skip])
    return keras.Model(inputs, layers.Conv2D(1, 1, name="logits")(x), name="small")


def randomise(model, seed=1):
    random = np.random.default_rng(seed)
    drawn = [random.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    model.set_weights([values.astype("float32") for values in drawn])
    return model


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def name_of(file_format):
    return "model.weights.h5" if file_format == "keras" else "model.h5"


def refuses(model, path):
    """The message of the refusal; the weights are proven unchanged by it."""
    before = model.get_weights()
    with pytest.raises(InputError) as error:
        load_weights(model, path)
    assert_same(model.get_weights(), before)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_what_is_saved_is_loaded(file_format, tmp_path):
    model = randomise(small_model())
    path = tmp_path / name_of(file_format)
    save_weights(model, path, file_format=file_format)
    other = small_model(seed=2)
    states = [v.numpy() for v in other.variables if "seed_generator" in v.path]
    load_weights(other, path)
    assert_same(other.get_weights(), model.get_weights())
    # the random state of DropBlock stays the reader's own
    assert_same(
        [v.numpy() for v in other.variables if "seed_generator" in v.path], states
    )
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
@pytest.mark.parametrize("name", list_models())
def test_every_network_comes_back(name, file_format, tmp_path):
    model = build_model(name, **({"filters": 8} if name == "unet_32" else {}))
    path = tmp_path / name_of(file_format)
    save_weights(model, path, file_format=file_format)
    before = model.get_weights()
    randomise(model)
    load_weights(model, path)
    assert_same(model.get_weights(), before)


def test_keras_itself_reads_both_formats(tmp_path):
    model = randomise(small_model())
    save_weights(model, tmp_path / "model.weights.h5")
    other = small_model()
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other.get_weights(), model.get_weights())

    save_weights(model, tmp_path / "model.h5", file_format="legacy")
    other = small_model()
    other.load_weights(tmp_path / "model.h5")  # Keras's reader of Keras 2 files
    assert_same(other.get_weights(), model.get_weights())


def test_a_file_of_a_compiled_model_is_read_without_its_optimizer(tmp_path):
    model = randomise(small_model())
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "keras.weights.h5")
    other = small_model()
    load_weights(other, tmp_path / "keras.weights.h5")
    assert_same(other.get_weights(), model.get_weights())

    save_weights(model, tmp_path / "ours.weights.h5")
    with h5py.File(tmp_path / "ours.weights.h5") as file:
        assert list(file) == ["layers", "vars"]


class Noisy(keras.layers.Layer):
    """Own weights, an inner layer, and a random state each."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop = layers.Dropout(0.5)
        self.conv = layers.Conv2D(2, 1)
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), name="scale")
        self.conv.build(input_shape)

    def call(self, inputs):
        return self.conv(self.drop(inputs)) * self.scale

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_random_states_inside_a_layer_are_not_weights(file_format, tmp_path):
    inputs = keras.Input((4, 4, 1))
    model = randomise(keras.Model(inputs, Noisy()(inputs)))
    path = tmp_path / name_of(file_format)
    save_weights(model, path, file_format=file_format)
    if file_format == "keras":  # Keras 3.8 to 3.15 write none; a file may hold one
        with h5py.File(path, "a") as file:
            file["layers/noisy/drop/seed_generator/vars/0"] = np.zeros(2, "uint32")
    expected = model.get_weights()
    assert [w.shape for w in expected] == [(), (1, 1, 1, 2), (2,)]
    randomise(model, seed=2)
    load_weights(model, path)
    assert_same(model.get_weights(), expected)


def test_a_keras_2_whole_model_file_is_read_and_its_config_is_not(tmp_path):
    model = randomise(small_model())
    save_weights(model, tmp_path / "model.h5", file_format="legacy")
    with (
        h5py.File(tmp_path / "model.h5") as old,
        h5py.File(tmp_path / "w.h5", "w") as new,
    ):
        old.copy(old, new, "model_weights")
        new.attrs["model_config"] = "not even JSON"
        new.create_group("optimizer_weights")
    other = small_model()
    load_weights(other, tmp_path / "w.h5")
    assert_same(other.get_weights(), model.get_weights())


def test_a_keras_2_file_by_hand(tmp_path):
    """Bytes or str, cut attributes, float64 arrays, names that mean nothing to us."""
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(
        inputs, layers.BatchNormalization()(layers.Conv2D(1, 1)(inputs))
    )
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names0"] = np.array([b"input_1", b"conv2d_7"])
        file.attrs["layer_names1"] = ["batch_normalization_9"]
        file.create_group("input_1").attrs["weight_names"] = []
        conv = file.create_group("conv2d_7")
        conv.attrs["weight_names"] = [b"conv2d_7/kernel:0", b"conv2d_7/bias:0"]
        conv["conv2d_7/kernel:0"] = np.array([[[[1.0], [2.0]]]])
        conv["conv2d_7/bias:0"] = np.array([3.0])
        norm = file.create_group("batch_normalization_9")
        norm.attrs["weight_names"] = ["g", "b", "m", "v"]
        for value, name in enumerate("gbmv", start=4):
            norm[name] = np.array([float(value)])
    load_weights(model, tmp_path / "w.h5")
    assert [w.ravel().tolist() for w in model.get_weights()] == (
        [[1.0, 2.0], [3.0], [4.0], [5.0], [6.0], [7.0]]
    )


# ------------------------------------------------------------------ refusing


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_another_width_names_the_layer_and_both_shapes(file_format, tmp_path):
    path = tmp_path / name_of(file_format)
    save_weights(small_model(filters=6), path, file_format=file_format)
    message = refuses(small_model(filters=4), path)
    theirs = "conv2d" if file_format == "keras" else "down_conv"
    assert (
        f"does not fit 'small': at layer 1 the file has '{theirs}' (3, 3, 3, 6) (6,), "
        "the network 'down_conv' (3, 3, 3, 4) (4,); build the network it was saved "
        "from, with the same options"
    ) in message


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_a_layer_too_few_or_too_many_is_refused(file_format, tmp_path):
    path = tmp_path / name_of(file_format)
    save_weights(small_model(normalise=False), path, file_format=file_format)
    message = refuses(small_model(), path)
    assert "the network 'down_bn' (4,) (4,) (4,) (4,)" in message

    save_weights(small_model(), path, file_format=file_format)
    message = refuses(small_model(normalise=False), path)
    theirs = "batch_normalization" if file_format == "keras" else "down_bn"
    assert f"the file has '{theirs}' (4,) (4,) (4,) (4,)" in message


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_a_file_of_another_network_names_that_network(file_format, tmp_path):
    path = tmp_path / name_of(file_format)
    save_weights(build_model("sa_unet"), path, file_format=file_format)
    message = refuses(build_model("sa_unet_v2"), path)
    assert message.endswith("the file has as many weights as sa_unet: build that")


def test_an_array_too_many_in_a_layer_is_refused(tmp_path):
    save_weights(small_model(), tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        file["layers/conv2d_1/vars/2"] = np.zeros(5)
    assert "'conv2d_1' (1, 1, 8, 1) (1,) (5,)" in refuses(
        small_model(), tmp_path / "model.weights.h5"
    )


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.95])
def test_a_file_cut_short_is_refused(file_format, kept, tmp_path):
    path = tmp_path / name_of(file_format)
    save_weights(small_model(), path, file_format=file_format)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    message = refuses(small_model(), path)
    state = "damaged or cut short" if kept else "not an HDF5 file"
    assert f"is {state} ({int(kept * len(whole))} bytes)" in message
    assert message.endswith("copy or download the file again")


def test_a_damaged_file_is_refused_whatever_the_damage(tmp_path):
    path = tmp_path / "model.h5"
    save_weights(small_model(), path, file_format="legacy")
    whole = path.read_bytes()
    model = small_model(seed=3)
    before = model.get_weights()
    refused = []
    for start in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:start] + b"\xff" * 64 + whole[start + 64 :])
        try:
            load_weights(model, path)
        except InputError as error:
            refused.append(str(error))
            assert_same(model.get_weights(), before)
        else:  # the damage fell on free space
            model.set_weights(before)
    assert len(refused) > 10
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an HDF5 file (0 bytes): expected Keras weights"),
        (b"epoch,loss\n1,0.5\n", "is not an HDF5 file (17 bytes): expected Keras"),
        (b"PK\x03\x04 a zip", "is not an HDF5 file (10 bytes): expected Keras"),
    ],
)
def test_what_is_not_hdf5_is_refused(content, message, tmp_path):
    (tmp_path / "w.h5").write_bytes(content)
    assert message in refuses(small_model(), tmp_path / "w.h5")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    assert "is not a file: expected" in refuses(small_model(), tmp_path / "none.h5")
    assert "is not a file: expected" in refuses(small_model(), tmp_path)


def test_hdf5_that_is_not_keras_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["images"] = np.zeros(3)
    message = refuses(small_model(), tmp_path / "w.h5")
    assert "is HDF5 but not Keras weights (it has images)" in message


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(file_format, value, tmp_path):
    model = small_model()
    model.get_layer("logits").bias.assign([value])
    path = tmp_path / name_of(file_format)
    save_weights(model, path, file_format=file_format)
    place = "conv2d_1/vars/1" if file_format == "keras" else "logits/bias:0"
    message = refuses(small_model(), path)
    assert f"{place}' holds numbers that are not finite" in message


def legacy_file(tmp_path, change):
    """A sound Keras 2 file, then `change(group of the last layer)`."""
    path = tmp_path / "model.h5"
    save_weights(small_model(), path, file_format="legacy")
    with h5py.File(path, "a") as file:
        change(file["logits"])
    return path


def test_integers_are_refused(tmp_path):
    def change(layer):
        del layer["logits/bias:0"]
        layer["logits/bias:0"] = np.array([1])

    message = refuses(small_model(), legacy_file(tmp_path, change))
    assert "is not an array of floating-point numbers in this file but int64" in message


@pytest.mark.parametrize("link", [h5py.SoftLink("/x"), h5py.ExternalLink("x.h5", "/")])
def test_links_are_not_followed(link, tmp_path):
    def change(layer):
        del layer["logits/bias:0"]
        layer["logits/bias:0"] = link

    message = refuses(small_model(), legacy_file(tmp_path, change))
    assert "has no 'logits/bias:0' in '/logits' itself" in message


def test_arrays_that_lie_in_another_file_are_refused(tmp_path):
    def outside(layer):
        del layer["logits/bias:0"]
        file = tmp_path / "raw"
        layer.create_dataset(
            "logits/bias:0", (1,), "float32", external=[(str(file), 0, 4)]
        )

    message = refuses(small_model(), legacy_file(tmp_path, outside))
    assert "is not an array of floating-point numbers in this file" in message


def test_a_giant_array_is_refused_before_it_is_read(tmp_path):
    def change(layer):
        del layer["logits/bias:0"]  # 4 TB that take no room on disk
        layer.create_dataset("logits/bias:0", (10**12,), "float32", chunks=(1024,))

    message = refuses(small_model(), legacy_file(tmp_path, change))
    assert "(1, 1, 8, 1) (1000000000000,), the network 'logits'" in message


@pytest.mark.parametrize("names", [5, h5py.Empty("S1")])
def test_a_list_of_names_that_is_none_is_refused(names, tmp_path):
    def change(layer):
        layer.file.attrs["layer_names"] = names

    message = refuses(small_model(), legacy_file(tmp_path, change))
    assert "is damaged or cut short" in message


# ------------------------------------------------------------------ writing


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_the_same_weights_give_the_same_bytes(file_format, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        model = randomise(small_model())
        save_weights(
            model, tmp_path / folder / name_of(file_format), file_format=file_format
        )
    first, second = (sha256_of(tmp_path / f / name_of(file_format)) for f in "ab")
    assert first == second


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save_weights(small_model(), path, file_format="legacy")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["model.h5"]


def refuses_to_write(path, file_format, reason):
    with pytest.raises(InputError) as error:
        save_weights(small_model(), path, file_format=file_format)
    assert str(error.value) == (
        f"{path}: cannot be written ({reason}): give an existing, writable folder with "
        "free space"
    )


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_a_full_disk_is_told_before_hdf5_meets_it(file_format, tmp_path, monkeypatch):
    """A limit of the system on the size of a file stands in for the disk."""

    def crash(*args):
        raise AssertionError("HDF5 met a full disk")

    path = tmp_path / name_of(file_format)
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "save_weights", crash)
            patch.setattr(weights, "_write_legacy", crash)
            refuses_to_write(path, file_format, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    save_weights(small_model(), path, file_format=file_format)
    # room was made for more than the file takes
    pages = 4096 * sum(1 + len(layer.weights) for layer in small_model().layers)
    assert path.stat().st_size < pages


@pytest.mark.parametrize("file_format", ["keras", "legacy"])
def test_a_folder_that_is_none_is_told_without_our_part_s_name(file_format, tmp_path):
    (tmp_path / "file").touch()
    name = name_of(file_format)
    missing, inside = tmp_path / "none" / name, tmp_path / "file" / name
    refuses_to_write(missing, file_format, "No such file or directory")
    refuses_to_write(inside, file_format, "Not a directory")


def test_what_hdf5_cannot_write_is_refused(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("Can't decrement id ref count\n(disk full)")

    monkeypatch.setattr(weights, "_write_legacy", broken)
    reason = "Can't decrement id ref count (disk full)"
    refuses_to_write(tmp_path / "model.h5", "legacy", reason)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "file_format", "message"),
    [
        ("model.h5", "keras", "names end in '.weights.h5'"),
        ("model.weights.h5", "legacy", "names end in '.h5' alone"),
        ("model.hdf5", "legacy", "names end in '.h5' alone"),
        ("model.h5", "torch", "unknown weights format 'torch'"),
    ],
)
def test_a_name_that_hides_the_format_is_refused(name, file_format, message, tmp_path):
    with pytest.raises(InputError, match=message):
        save_weights(small_model(), tmp_path / name, file_format=file_format)
    assert not list(tmp_path.iterdir())


def test_long_attributes_are_cut_as_keras_2_cuts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ATTRIBUTE_BYTES", 30)
    model = randomise(small_model())
    save_weights(model, tmp_path / "model.h5", file_format="legacy")
    with h5py.File(tmp_path / "model.h5") as file:
        assert "layer_names" not in file.attrs
        assert len(file.attrs["layer_names0"]) == 3  # of at most 9 bytes each
    for load in (load_weights, keras.Model.load_weights):
        other = small_model()
        load(other, tmp_path / "model.h5")
        assert_same(other.get_weights(), model.get_weights())


# ------------------------------------------------------------------ cards


def card_of(folder):
    """A complete card for a file of five bytes."""
    (folder / "model.weights.h5").write_bytes(b"bytes")
    return {
        "name": "sa_unet_v2_drive",
        "model": "sa_unet_v2",
        "model_kwargs": {"rate": 0.1},
        "weights": "model.weights.h5",
        "sha256": sha256_of(folder / "model.weights.h5"),
        "preprocessing": {
            "scale": "divide by 255",
            "padding": {"placement": "bottom_right", "multiple": 16, "square": True},
        },
        "threshold": {"value": 0.5, "chosen_on": "fixed by the paper"},
        "data": {"dataset": "DRIVE", "split": "train", "images": ["21", "22"]},
        "scores": [
            {
                "dataset": "DRIVE",
                "split": "test",
                "region": "frame",
                "pooling": "pooled",
                "threshold": 0.5,
                "f1": 0.82345,
                "auc": None,
            }
        ],
        "training": {
            "recipe": {"loss": "bce_mcc", "steps": 2700},
            "seed": 0,
            "device": "CPU",
            "versions": {"keras": "3.15.0"},
            "hours": 1.5,
        },
        "licence": "CC BY 4.0",
        "limits": "One camera only.",
    }


def test_a_card_comes_back_with_its_readme(tmp_path):
    card = card_of(tmp_path)
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == render_readme(card)
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {"card.json", "README.md", "model.weights.h5"}


def test_the_readme_says_what_the_card_says(tmp_path):
    text = render_readme(card_of(tmp_path))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# sa_unet_v2_drive",
        "## Intended use",
        "## Data and split",
        "## Preprocessing",
        "## Scores",
        "## Training",
        "## Limits",
        "## Licence",
    ]
    for words in (
        "`sa_unet_v2` (rate=0.1)",
        "DRIVE, train: 2 images (21, 22).",
        "divide by 255; padded with zeros (bottom/right) to a square whose side is a "
        "multiple of 16 pixels, and cropped back",
        "probability > 0.5 (chosen on: fixed by the paper)",
        "| dataset | split | region | pooling | threshold | f1 | auc |",
        "| DRIVE | test | frame | pooled | 0.5 | 0.8235 | n/a |",
        "- loss: bce_mcc\n- steps: 2700\n- seed: 0\n- device: CPU, 1.5 hours",
        "One camera only.",
        "CC BY 4.0",
        "segmenter.predict(image)  # (H, W, 3) -> (H, W) in [0, 1]",
    ):
        assert words in text


def test_the_readme_says_what_a_card_may_say_besides(tmp_path):
    card = card_of(tmp_path)
    card["storage"] = "Kernels are stored in float16."
    card["preprocessing"]["fov_diameter"] = 540
    card["training"]["commit"] = "0123abc"
    card["training"]["recipe"]["start_from"] = "sa_unet_v2_drive"
    card["data"]["start_images"] = [23, 24]
    lines = render_readme(card).splitlines()
    sha256 = f"`model.weights.h5`, sha256 `{card['sha256']}`."
    assert lines[2:5] == [sha256, "Kernels are stored in float16.", ""]
    assert "- commit: 0123abc" in lines
    first = "the weights it began with (`sa_unet_v2_drive`): 2 images (23, 24)."
    assert any(line.endswith(first) for line in lines)
    call = next(line for line in lines if line.startswith("probability"))
    assert call.startswith('probability = segmenter.predict(image, scale="auto")  # (H')
    assert len(call) <= 88


@pytest.mark.parametrize(
    ("schedule", "rates", "words"),
    [
        ("steps", [[100, 1e-3], [50, 1e-4]], "100 epochs at 0.001, then 0.0001"),
        ("steps", [[1, 1e-3]], "0.001"),
        ("one_cycle", [[60, 2e-3]], "0.002 at most"),
        ("plateau", [[1, 1e-3]], "0.001 at most"),
    ],
)
def test_the_readme_lists_what_a_recipe_sets(schedule, rates, words, tmp_path):
    card = card_of(tmp_path)
    card["training"]["recipe"] = {
        "loss_kwargs": {},
        "batch_size": 8,
        "weight_decay": 0.0,
        "learning_rates": rates,
        "schedule": schedule,
        "plateau": [0.5, 10, 1e-6],
        "clip_norm": None,
        "validation": ["21", "22"],
        "seed": 0,
    }
    text = render_readme(card).split("## Training\n\n")[1].split("\n- device")[0]
    plateau = ["- plateau: 0.5, 10, 1e-06"] if schedule == "plateau" else []
    assert text.splitlines() == [
        "- batch_size: 8",
        f"- learning_rates: {words}",
        f"- schedule: {schedule}",
        *plateau,
        "- validation: 21, 22",
        "- seed: 0",
    ]


def test_weights_with_another_digest_are_refused(tmp_path):
    card = card_of(tmp_path)
    write_card(tmp_path, card)
    (tmp_path / "model.weights.h5").write_bytes(b"other")
    with pytest.raises(InputError) as error:
        read_card(tmp_path)
    message = str(error.value)
    assert card["sha256"] in message
    assert sha256_of(tmp_path / "model.weights.h5") in message
    assert "download the weights again" in message

    (tmp_path / "model.weights.h5").unlink()
    with pytest.raises(InputError, match=r"model\.weights\.h5 not found, which"):
        read_card(tmp_path)


def change(card, dotted, value=None):
    """Sets a key of a card, or removes it."""
    *parents, key = dotted.split(".")
    for parent in parents:
        card = card[parent]
    if value is None:
        del card[key]
    else:
        card[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("licence", None, "has no 'licence'"),
        ("threshold.chosen_on", None, "has no 'threshold.chosen_on'"),
        ("preprocessing.padding.square", None, "no 'preprocessing.padding.square'"),
        ("data", "DRIVE", "has no 'data.dataset'"),
        ("threshold.value", 1.5, "`threshold.value` is 1.5, expected a number"),
        ("data.images", [21], r"`data.images` is \[21\], expected a list of names"),
        ("threshold.value", "0.5", "`threshold.value` is '0.5', expected a number"),
        ("weights", "../x.h5", "`weights` is '../x.h5', expected the plain name"),
        ("weights", "", "`weights` is '', expected the plain name"),
        ("weights", 5, "`weights` is 5, expected the plain name"),
        ("model", ["a"], r"`model` is \['a'\], expected the name of a network"),
        ("model_kwargs", [1], r"`model_kwargs` is \[1\], expected an object"),
        ("preprocessing.fov_diameter", float("inf"), "is inf, expected pixels"),
        ("preprocessing.fov_diameter", [900, 500], r"\[900, 500\], expected pixels"),
        ("preprocessing.padding.placement", "top", r"card\.json: padding .*'top'"),
        ("preprocessing.padding.multiple", 0, r"card\.json: padding .*multiple"),
        ("preprocessing.padding.multiple", "16", r"card\.json: padding .*multiple"),
        ("preprocessing.padding.square", "no", r"card\.json: padding .*square"),
    ],
)
def test_a_wrong_card_is_neither_written_nor_read(key, value, message, tmp_path):
    card = card_of(tmp_path)
    change(card, key, value)
    with pytest.raises(InputError, match=message):
        write_card(tmp_path, card)
    assert not (tmp_path / "card.json").exists()
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=message):
        read_card(tmp_path)


def test_no_card_or_no_json_is_refused(tmp_path):
    with pytest.raises(InputError, match="not found: give a folder that holds a card"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text("[]")
    with pytest.raises(InputError, match="has no 'name'"):
        read_card(tmp_path)


def test_shipped_weights_are_found_by_name_and_any_by_folder(tmp_path, monkeypatch):
    shipped = tmp_path / "weights"
    folder = shipped / "sa_unet_v2_drive"
    folder.mkdir(parents=True)
    (shipped / "unfinished").mkdir()
    write_card(folder, card_of(folder))
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "saunet" / "weights.py"))
    assert list_pretrained() == ["sa_unet_v2_drive"]
    assert find_pretrained("sa_unet_v2_drive") == folder
    assert find_pretrained(folder) == folder
    own = tmp_path / "work" / "sa_unet_v2_drive"
    shutil.copytree(folder, own)
    monkeypatch.chdir(own.parent)
    assert find_pretrained("sa_unet_v2_drive") == folder  # a copy of it
    card = card_of(own)
    (own / "model.weights.h5").write_bytes(b"others")
    write_card(own, card | {"sha256": sha256_of(own / "model.weights.h5")})
    with pytest.raises(InputError, match=r"write \./sa_unet_v2_drive for the folder"):
        find_pretrained("sa_unet_v2_drive")
    assert find_pretrained("./sa_unet_v2_drive").resolve() == own
    for unknown in ("sa_unet", shipped / "unfinished", tmp_path / "none"):
        with pytest.raises(InputError, match="shipped ones: sa_unet_v2_drive"):
            find_pretrained(unknown)

    # an installed wheel carries them inside the package
    inside = tmp_path / "saunet" / "_weights"
    inside.mkdir(parents=True)
    folder.rename(inside / "sa_unet_drive")
    assert list_pretrained() == ["sa_unet_drive"]


def test_a_run_under_the_name_of_shipped_weights_is_refused(tmp_path, monkeypatch):
    """Which is meant? Its weights were taken in silence."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / list_pretrained()[0]
    folder.mkdir()
    (folder / "run.json").write_text('{"recipe": {"model": "sa_unet"}}')
    (folder / "last.weights.h5").write_bytes(b"of a run")
    for find in (weights.find_weights, weights.seen_images, inference.load_segmenter):
        with pytest.raises(InputError, match=f"write ./{folder.name} for the folder"):
            find(folder.name)
    assert weights.find_weights(folder)[0] == folder / "last.weights.h5"


def test_each_shipped_weight_is_sound_and_fits_its_network():
    for name in list_pretrained():
        folder = find_pretrained(name)
        card = read_card(folder)
        assert card["name"] == name
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert text == render_readme(card)
        training = text.split("## Training\n\n")[1].split("\n\n")[0].splitlines()
        fields = dict(line.removeprefix("- ").split(": ", 1) for line in training)
        assert len(fields) == len(training)  # none stands there twice
        assert all(fields.values())
        assert fields["commit"] == card["training"]["commit"]
        model = build_model(card["model"], **card["model_kwargs"])
        load_weights(model, folder / card["weights"])
