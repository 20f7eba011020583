"""Segmenter and files: an image comes back at its own size, whatever surrounds it.

Most tests use networks of one convolution, whose result is known by hand.
"""

import json
import tracemalloc

import cv2
import keras
import numpy as np
import pytest
from keras import layers

from saunet import inference, weights
from saunet.data.images import read_image, write_png
from saunet.errors import InputError
from saunet.folders import predict_files
from saunet.inference import PADDING, Segmenter, load_pretrained, load_segmenter
from saunet.models import build_model


def one_convolution(kernel):
    """Returns a network of one bias-free convolution with this (k, k, 3) kernel."""
    inputs = keras.Input((None, None, 3))
    conv = layers.Conv2D(1, kernel.shape[0], padding="same", use_bias=False)
    model = keras.Model(inputs, conv(inputs), name="one_convolution")
    conv.set_weights([kernel[..., np.newaxis]])
    return model


@pytest.fixture(scope="module")
def green():
    """A segmenter whose probability is the green channel."""
    return Segmenter(one_convolution(np.float32([[[0, 1, 0]]])))


@pytest.fixture(scope="module")
def lopsided():
    """A segmenter that no flip and no rotation leaves alone."""
    kernel = np.random.default_rng(0).random((3, 3, 3), np.float32)
    return Segmenter(one_convolution(kernel / kernel.sum()))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(584, 565), (33, 70), (70, 33), (64, 64), (1, 1)])
@pytest.mark.parametrize("placement", ["centered", "bottom_right"])
@pytest.mark.parametrize("square", [True, False])
def test_every_pixel_keeps_its_place(green, size, placement, square):
    padding = {"placement": placement, "multiple": 16, "square": square}
    image = random_image(*size)
    probability = Segmenter(green.model, padding=padding).predict(image)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, image[..., 1] / 255, atol=1e-6)


def test_network_sees_the_padded_size(green):
    seen = []

    def run(batch):
        seen.append((batch.shape, batch.dtype))
        return batch[..., :1]

    segmenter = Segmenter(green.model, engine=run)
    segmenter.predict(random_image(584, 565))
    assert seen == [((1, 592, 592, 3), np.float32)]


def test_a_name_is_no_network():
    with pytest.raises(InputError, match=r"load_pretrained\('sa_unet_drive'\)"):
        Segmenter("sa_unet_drive")


def test_several_outputs_are_no_map(green):
    model = green.model
    with pytest.raises(InputError, match="has 2 outputs, expected one map"):
        Segmenter(keras.Model(model.input, [model.output, model.output]))


def test_a_run_of_ag_net_is_used_by_the_output_that_its_authors_test(
    tmp_path, monkeypatch, green
):
    asked = []

    def build(name, **options):
        asked.append((name, options))
        return green.model

    monkeypatch.setattr(inference, "build_model", build)
    recipe = {"model": "ag_net", "model_kwargs": {"outputs": "all"}}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}))
    weights.save_weights(green.model, tmp_path / "last.weights.h5")
    load_segmenter(tmp_path)
    assert asked == [("ag_net", {"outputs": "side_8"})]


def test_where_tiles_join_no_probability_is_above_one():
    inputs = keras.Input((None, None, 3))
    ones = layers.Lambda(lambda x: x[..., :1] * 0 + 1)(inputs)
    segmenter = Segmenter(keras.Model(inputs, ones), engine="keras")
    probability = segmenter.predict(random_image(700, 700), tile=592)
    assert probability.max() == 1
    assert probability.min() > 1 - 1e-6


def test_bytes_and_floats_agree(green):
    image = random_image(32, 40)
    np.testing.assert_array_equal(
        green.predict(image), green.predict(image.astype(np.float32) / 255)
    )
    np.testing.assert_allclose(green.predict(image / 255), green.predict(image), 1e-6)


def test_mask_is_strictly_above_the_threshold(green):
    image = np.zeros((32, 32, 3), np.float32)
    image[0, :3, 1] = 0.5, 0.75, 0.25
    mask = Segmenter(green.model, threshold=0.5).mask(image)
    assert mask.dtype == np.uint8
    assert mask[0, :3].tolist() == [0, 1, 0]
    assert mask.sum() == 1


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_the_mean_over_symmetries(lopsided, views):
    image = random_image(40, 56)
    turns = [0, 2] if views == 4 else [0, 1, 2, 3]
    expected = np.mean(
        [
            np.rot90(back(lopsided.predict(there(np.rot90(image, k)))), -k)
            for k in turns
            for there, back in ((np.asarray, np.asarray), (np.fliplr, np.fliplr))
        ],
        axis=0,
    )
    result = lopsided.predict(image, views=views)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert np.abs(result - lopsided.predict(image)).max() > 0.01


def test_views_are_summed_as_they_come():
    """Eight maps are not held at once, and the sum has the bits of their mean."""
    maps = []

    def engine(batch):
        maps.append(batch[0, ..., 1] ** 3)
        return maps[-1][np.newaxis, ..., np.newaxis]

    def peak(views):
        maps.clear()
        tracemalloc.start()
        result = Segmenter(None, name="x", engine=engine).predict(image, views=views)
        high = tracemalloc.get_traced_memory()[1] - views * map_bytes
        tracemalloc.stop()
        return result, high

    image = random_image(512, 512)
    map_bytes = 512 * 512 * 4
    once, (result, high) = peak(1)[1], peak(8)
    assert high - once < 3 * map_bytes
    turned = [
        np.flip(one, axes).T if i > 3 else np.flip(one, axes)
        for i, (one, axes) in enumerate(zip(maps, inference.FLIPS * 2, strict=True))
    ]
    np.testing.assert_array_equal(result, np.mean(turned, axis=0, dtype=np.float32))


def test_eight_views_commute_with_a_turn(lopsided):
    image = random_image(40, 56)
    np.testing.assert_allclose(
        lopsided.predict(np.rot90(image), views=8),
        np.rot90(lopsided.predict(image, views=8)),
        atol=1e-6,
    )


def test_whole_network_ignores_the_size_of_earlier_images(seed):
    # A second size makes Keras trace again, with free height and width.
    segmenter = Segmenter(build_model("sa_unet_v2"))
    image = random_image(64, 64)
    first = segmenter.predict(image)
    segmenter.predict(random_image(80, 96))
    np.testing.assert_allclose(segmenter.predict(image), first, atol=1e-6)
    assert first.std() > 1e-3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32), np.uint8), r"shape \(32, 32\)"),
        (np.zeros((32, 32, 4), np.uint8), r"\(height, width, 3\)"),
        (np.zeros((1, 32, 32, 3), np.uint8), "shape"),
        (np.zeros((0, 32, 3), np.uint8), "shape"),
        (np.zeros((32, 32, 3), np.uint16), "uint16"),
        (np.full((32, 32, 3), 1.01), "divide 8-bit values by 255"),
        (np.full((32, 32, 3), -0.01), r"from -0.01 to"),
        (np.full((32, 32, 3), np.nan), "nan"),
    ],
)
def test_wrong_images_are_refused(green, image, message):
    with pytest.raises(InputError, match=message):
        green.predict(image)


def test_a_large_image_is_tiled_and_refused_as_a_whole(green):
    image = random_image(10, 6000)  # a square of 36 megapixels, padded
    probability = green.predict(image)
    np.testing.assert_allclose(probability, image[..., 1] / 255, atol=1e-6)
    with pytest.raises(InputError, match="6000x10 pixels, padded to 6000x6000"):
        green.predict(image, tile="whole")
    with pytest.raises(InputError, match="a tile of 6000x6000"):
        green.predict(random_image(10, 7000), tile=6000)


@pytest.mark.parametrize("tile", [0, 288, 600, -1024, 1024.0, "all", True])
def test_senseless_tiles_are_refused(green, tile):
    with pytest.raises(InputError, match="tile"):
        green.predict(random_image(32, 32), tile=tile)


def test_wrong_options_are_refused(green):
    with pytest.raises(InputError, match="views"):
        green.predict(random_image(32, 32), views=2)
    with pytest.raises(InputError, match="threshold 50"):
        Segmenter(green.model, threshold=50)
    with pytest.raises(InputError, match="threshold nan"):
        Segmenter(green.model, threshold=float("nan"))
    for padding in ({"placement": "centered"}, {**inference.PADDING, "multiple": 0}):
        with pytest.raises(InputError, match=r"padding .* makes no sense"):
            Segmenter(green.model, padding=padding)


@pytest.fixture
def card_folder(tmp_path, seed):
    """A folder as shipped: a random U-Net of 8 filters, odd threshold and padding."""
    model = build_model("unet_32", filters=8)
    weights.save_weights(model, tmp_path / "model.weights.h5")
    card = {
        "name": "tiny",
        "model": "unet_32",
        "model_kwargs": {"filters": 8},
        "weights": "model.weights.h5",
        "sha256": weights.sha256_of(tmp_path / "model.weights.h5"),
        "preprocessing": {
            "scale": "divide by 255",
            "padding": {"placement": "bottom_right", "multiple": 32, "square": False},
        },
        "threshold": {"value": 0.25, "chosen_on": "a coin"},
        "data": {"dataset": "none", "split": "none", "images": []},
        "scores": [],
        "training": dict.fromkeys(("recipe", "seed", "device", "versions", "hours")),
        "licence": "Apache-2.0",
        "limits": "random",
    }
    weights.write_card(tmp_path, card)
    return tmp_path, model


def test_card_decides_network_threshold_and_padding(card_folder):
    folder, model = card_folder
    image = random_image(50, 60)
    segmenter = load_pretrained(folder, engine="keras")
    assert (segmenter.name, segmenter.threshold) == ("tiny", 0.25)
    padded = np.zeros((1, 64, 64, 3), np.float32)
    padded[0, :50, :60] = image / np.float32(255)
    expected = model.predict_on_batch(padded)[0, :50, :60, 0]
    np.testing.assert_allclose(segmenter.predict(image), expected, atol=1e-6)
    same = load_segmenter(str(folder), "unet_32", engine="keras")
    np.testing.assert_array_equal(same.predict(image), segmenter.predict(image))


def test_tampered_weights_and_other_models_are_refused(card_folder):
    folder, _ = card_folder
    with pytest.raises(InputError, match="holds a unet_32, not a sa_unet_v2"):
        load_segmenter(folder, "sa_unet_v2")
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = "0" * 64
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="sha256"):
        load_pretrained(folder)


def test_options_that_the_network_has_not_are_one_line(card_folder):
    folder, _ = card_folder
    card = json.loads((folder / "card.json").read_text())
    for options, reason in (({"depth": 3}, "no network: "), (3, "`model_kwargs` is 3")):
        card["model_kwargs"] = options
        (folder / "card.json").write_text(json.dumps(card))
        with pytest.raises(InputError, match=rf"card\.json: {reason}"):
            load_pretrained(folder)


def test_bare_weights_need_a_model(tmp_path, seed):
    model = build_model("sa_unet_v2")
    weights.save_weights(model, tmp_path / "a.weights.h5")
    with pytest.raises(InputError, match=r"add --model with one that"):
        load_segmenter(tmp_path / "a.weights.h5")
    loaded = load_segmenter(tmp_path / "a.weights.h5", "sa_unet_v2")
    image = random_image(32, 32)
    np.testing.assert_array_equal(
        loaded.predict(image), Segmenter(model).predict(image)
    )
    with pytest.raises(InputError, match=r"b\.h5: no such file"):
        load_segmenter(tmp_path / "b.h5", "sa_unet_v2")


def test_bare_weights_are_padded_as_one_says(tmp_path, card_folder, seed):
    path = tmp_path / "a.h5"
    weights.save_weights(build_model("sa_unet_v2"), path, file_format="legacy")
    told = load_segmenter(path, "sa_unet_v2", placement="bottom_right")
    assert told.padding == {**PADDING, "placement": "bottom_right"}
    assert load_segmenter(path, "sa_unet_v2").padding == PADDING
    with pytest.raises(InputError, match="says itself how photographs are padded"):
        load_segmenter(card_folder[0], placement="bottom_right")


def test_three_pictures_a_photograph(tmp_path, green):
    image = random_image(40, 50)
    write_png(tmp_path / "eye.png", image)
    result = predict_files(green, [tmp_path / "eye.png"], tmp_path / "out")
    assert result == {
        "written": ["eye"],
        "unchanged": 0,
        "skipped": {},
        "ignored": 0,
    }
    probability = cv2.imread(str(tmp_path / "out/eye_prob.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(tmp_path / "out/eye_mask.png"), cv2.IMREAD_UNCHANGED)
    assert probability.dtype == np.uint16
    np.testing.assert_array_equal(probability, image[..., 1] * np.uint16(257))
    np.testing.assert_array_equal(mask, np.where(image[..., 1] > 127, 255, 0))
    assert read_image(tmp_path / "out/eye_overlay.png").shape == image.shape
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "eye_mask.png",
        "eye_overlay.png",
        "eye_prob.png",
        "manifest.csv",
    ]


def test_threshold_and_views_reach_the_pictures(tmp_path, lopsided):
    image = random_image(40, 50)
    write_png(tmp_path / "eye.png", image)
    predict_files(
        lopsided, [tmp_path / "eye.png"], tmp_path / "out", threshold=0.6, views=8
    )
    mask = cv2.imread(str(tmp_path / "out/eye_mask.png"), cv2.IMREAD_UNCHANGED)
    expected = lopsided.predict(image, views=8) > 0.6
    np.testing.assert_array_equal(mask > 0, expected)
    assert 0 < expected.mean() < 1


def test_same_stem_twice_is_refused_before_computing(tmp_path, green, monkeypatch):
    monkeypatch.setattr(Segmenter, "predict", None)
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / "eye.png", random_image(32, 32))
    with pytest.raises(InputError, match=r"left/eye\.png.*right/eye\.png.*rename"):
        predict_files(green, [tmp_path / "left", tmp_path / "right"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_public_names_come_from_here():
    import saunet

    assert saunet.Segmenter is inference.Segmenter
    assert saunet.load_pretrained is inference.load_pretrained
