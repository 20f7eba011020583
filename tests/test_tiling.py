"""Tiles: they cover, they weigh 1 together, and they leave no seam."""

import itertools

import keras
import numpy as np
import pytest
from helpers import fill_weights
from keras import layers

from saunet import inference
from saunet.data.synthetic import synthetic_fundus
from saunet.data.tiling import predict_tiles, tile_starts, tile_window
from saunet.errors import InputError
from saunet.inference import Segmenter, load_pretrained
from saunet.models import build_model


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (100, 40, 10, [0, 30, 60]),  # ends at 100 exactly
        (101, 40, 10, [0, 30, 60, 61]),  # the last is flush
        (40, 40, 10, [0]),
        (40, 40, 40, [0]),  # one tile, which shares nothing
        (41, 40, 10, [0, 1]),
        (70, 40, 10, [0, 30]),
    ],
)
def test_tiles_start_where_counted_by_hand(length, tile, overlap, expected):
    assert tile_starts(length, tile, overlap) == expected


@pytest.mark.parametrize("length", range(48, 400, 16))
@pytest.mark.parametrize("step", [1, 16])
@pytest.mark.parametrize("overlap", [10, 16])
def test_tiles_overlap_enough_and_start_where_the_network_pools(length, step, overlap):
    starts = tile_starts(length, 48, overlap, step)
    assert starts[0] == 0
    assert starts[-1] == length - 48
    assert all(start % step == 0 for start in starts)
    steps = np.diff(starts)
    assert np.all((steps > 0) & (steps <= 48 - overlap))


def test_a_window_by_hand():
    left = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(tile_window(10, False, True, halo=2, ramp=3), left)
    np.testing.assert_allclose(tile_window(10, True, False, halo=2, ramp=3), left[::-1])
    both = np.minimum(left, left[::-1])
    np.testing.assert_allclose(tile_window(10, False, False, halo=2, ramp=3), both)
    np.testing.assert_array_equal(tile_window(10, True, True, halo=2, ramp=3), 1)


SIZES = [(100, 70), (64, 130), (96, 96), (33, 200), (161, 48)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("placement", ["centered", "bottom_right"])
def test_every_pixel_keeps_its_place_and_its_value(size, placement):
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    side = -(-max(size) // 16) * 16
    result = predict_tiles(
        lambda tile: tile[..., 1],
        image,
        (side, side),
        (64, 64),
        placement=placement,
        step=16,
        halo=8,
        ramp=8,
    )
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image[..., 1], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_what_a_tile_says_of_its_halo_counts_nothing(size):
    """Each tile lies about the 8 pixels at its borders inside the picture."""
    side = -(-max(size) // 16) * 16

    def run(tile):
        seen.append(tile.shape)
        vessels = tile[..., 1].copy()
        # Padding is 0 and the picture is not: these are borders inside it.
        inner = [tile[0].any(), tile[-1].any(), tile[:, 0].any(), tile[:, -1].any()]
        edges = (
            np.s_[:8],
            np.s_[-8:],
            np.s_[:, :8],
            np.s_[:, -8:],
        )
        for lie, edge in zip(inner, edges, strict=True):
            if lie:
                vessels[edge] = 9
        return vessels

    seen = []
    image = np.ones((*size, 3), np.float32)
    # A frame of zeros, so that no border of the picture is an inner one.
    image[[0, -1]] = image[:, [0, -1]] = 0
    result = predict_tiles(
        run,
        image,
        (side, side),
        (64, 64),
        placement="centered",
        step=16,
        halo=8,
        ramp=8,
    )
    np.testing.assert_allclose(result, image[..., 1], atol=1e-6)
    assert len(seen) > 1
    assert set(seen) == {(64, 64, 3)}


def test_tiles_of_padding_alone_are_left_out():
    seen = []
    predict_tiles(
        lambda tile: seen.append(tile) or tile[..., 1],
        np.ones((40, 1000, 3), np.uint8),
        (1008, 1008),
        (112, 112),
        placement="centered",
        step=16,
        halo=16,
        ramp=16,
    )
    # One or two rows of tiles of the fourteen that the square has.
    assert len(seen) <= 2 * 15
    assert all(tile.any() for tile in seen)


def _network(name):
    model = build_model(name)
    fill_weights(model)
    return model


@pytest.mark.parametrize("name", ["sa_unet", "unet_18_sa"])
@pytest.mark.parametrize("padding", [(True, "centered"), (False, "bottom_right")])
def test_without_groupnorm_tiles_equal_the_whole_image(name, padding):
    square, placement = padding
    segmenter = Segmenter(
        _network(name),
        engine="keras",
        padding={"placement": placement, "multiple": 16, "square": square},
    )
    image = np.random.default_rng(0).integers(0, 256, (330, 500, 3), np.uint8)
    whole = segmenter.predict(image, tile="whole")
    tiled = segmenter.predict(image, tile=352)
    assert whole.std() > 0.05
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_where_tiles_disagree_the_map_goes_over_slowly():
    """Tiles of 0 and of 1: no two pixels side by side differ by more than 1 / 33."""
    disagreeing = itertools.cycle([0.0, 1.0])
    result = predict_tiles(
        lambda tile: np.full(tile.shape[:2], next(disagreeing), np.float32),
        np.zeros((96, 1600, 3), np.uint8),
        (96, 1600),
        (96, 352),
        placement="centered",
        step=16,
        halo=128,
        ramp=32,
    )
    across = result[0]
    assert (across.min(), across.max()) == (0, 1)
    assert np.abs(np.diff(across)).max() <= 1 / 33 + 1e-6
    np.testing.assert_array_equal(result, np.broadcast_to(across, result.shape))


def test_with_groupnorm_a_tile_has_its_own_statistics():
    segmenter = load_pretrained("sa_unet_v2_drive", engine="keras")
    image = synthetic_fundus(0).image[:400, :400]
    whole, tiled = (segmenter.predict(image, tile=t) for t in ("whole", 352))
    difference = np.abs(tiled - whole)
    assert difference.max() > 1e-3
    assert difference.mean() < 0.02


@pytest.mark.parametrize("views", [4, 8])
def test_views_and_tiles_go_together(views):
    kernel = np.random.default_rng(0).random((3, 3, 3, 1), np.float32)
    inputs = keras.Input((None, None, 3))
    conv = layers.Conv2D(1, 3, padding="same", use_bias=False)
    model = keras.Model(inputs, conv(inputs))
    conv.set_weights([kernel / kernel.sum()])
    segmenter = Segmenter(model, engine="keras")
    image = np.random.default_rng(0).integers(0, 256, (310, 400, 3), np.uint8)
    np.testing.assert_allclose(
        segmenter.predict(image, views=views, tile=320),
        segmenter.predict(image, views=views, tile="whole"),
        atol=1e-6,
    )


def test_what_the_engine_gets_at_once_is_bounded():
    """By default an image beyond the bound goes in tiles of one size."""
    seen = []

    def engine(batch):
        seen.append(batch.shape)
        return batch[..., :1]

    segmenter = Segmenter(None, name="x", engine=engine)
    side = int(inference.WHOLE_PIXELS**0.5)
    assert 1008 <= side <= 1024  # CHASE_DB1, padded, goes as it is
    segmenter.predict(np.zeros((side, side, 3), np.uint8))
    assert seen == [(1, side, side, 3)]
    seen.clear()
    segmenter.predict(np.zeros((side + 1, side, 3), np.uint8))
    assert set(seen) == {(1, inference.TILE, inference.TILE, 3)}
    assert len(seen) == 9
    seen.clear()
    segmenter.predict(np.zeros((1008, 1008, 3), np.uint8), tile=592)
    assert seen == [(1, 592, 592, 3)] * 9
    seen.clear()
    segmenter.predict(np.zeros((100, 100, 3), np.uint8), tile=592)
    assert seen == [(1, 112, 112, 3)]  # smaller than a tile: as it is


def test_an_image_as_narrow_as_what_tiles_share_is_cut_lengthwise():
    segmenter = Segmenter(
        None,
        name="x",
        engine=lambda batch: batch[..., :1],
        padding={"placement": "centered", "multiple": 16, "square": False},
    )
    image = np.random.default_rng(0).integers(0, 256, (280, 4000, 3), np.uint8)
    np.testing.assert_allclose(
        segmenter.predict(image), image[..., 0] / np.float32(255), atol=1e-6
    )


def test_a_tile_is_a_multiple_of_the_cards_multiple():
    segmenter = Segmenter(
        None,
        name="x",
        engine=lambda batch: batch[..., :1],
        padding={"placement": "centered", "multiple": 48, "square": False},
    )
    image = np.random.default_rng(0).integers(0, 256, (400, 900, 3), np.uint8)
    result = segmenter.predict(image, tile=384)
    np.testing.assert_allclose(result, image[..., 0] / np.float32(255), atol=1e-6)
    with pytest.raises(InputError, match="multiple of 48"):
        segmenter.predict(image, tile=400)
