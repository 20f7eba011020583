"""The field of view of drawn discs, whose diameter is known, and scaling by it."""

import numpy as np
import pytest

from saunet.data.datasets import load_dataset
from saunet.data.field import (
    TOLERATED,
    field_of_view,
    resize,
    scale_factor,
    scaled_size,
    trained_diameter,
)
from saunet.errors import InputError
from saunet.inference import Segmenter
from saunet.weights import find_pretrained, read_card


def disc(height, width, diameter, centre=None):
    """Returns an orange disc on black."""
    y, x = np.mgrid[:height, :width]
    row, column = centre or ((height - 1) / 2, (width - 1) / 2)
    inside = np.hypot(y - row, x - column) <= diameter / 2
    return (inside[..., None] * np.array([200, 110, 60])).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "diameter", "centre"),
    [
        ((300, 300), 240, None),
        ((300, 400), 240, (140, 190)),
        ((200, 300), 270, None),  # cut off above and below
        ((1500, 2200), 1400, None),  # found in a smaller copy
    ],
)
def test_the_diameter_of_a_disc(size, diameter, centre):
    image = disc(*size, diameter, centre)
    mask, found = field_of_view(image)
    assert found == pytest.approx(diameter, rel=0.015)
    truth = image[..., 0] > 0
    assert mask.shape == truth.shape
    assert np.mean(mask != truth) < 0.01


def test_without_a_dark_surround_the_frame_is_the_field():
    mask, diameter = field_of_view(np.full((300, 400, 3), 120, np.uint8))
    assert mask.all()
    assert diameter == pytest.approx(500, rel=0.01)  # 3-4-5


def test_a_field_that_is_near_is_left_as_it_is():
    assert scale_factor(546, 546) == 1
    assert scale_factor(546 * TOLERATED * 0.99, 546) == 1
    assert scale_factor(546 / TOLERATED * 1.01, 546) == 1
    assert scale_factor(1092, 546) == 0.5
    assert scale_factor(273, 546) == 2


def test_resizing_keeps_type_range_and_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    assert resize(image, (60, 80)) is image
    half = resize(image, (30, 40))
    expected = image.reshape(30, 2, 40, 2, 3).mean((1, 3))
    np.testing.assert_allclose(half, expected, atol=0.51)
    steps = (rng.random((40, 40)) > 0.5).astype(np.float32)
    twice = resize(steps, (80, 80))
    assert (twice.shape, twice.dtype) == ((80, 80), np.float32)
    assert (twice.min(), twice.max()) == (0, 1)
    # An edge: linear, from the centres of the pixels.
    edge = resize(np.float32([[0, 1]] * 2), (4, 4))
    np.testing.assert_allclose(edge, [[0, 0.25, 0.75, 1]] * 4)
    picture = resize(np.repeat(steps[..., None], 3, axis=2), (80, 80))
    assert (picture.min(), picture.max()) == (0, 1)  # cubic curves overshoot
    assert resize(steps.astype(np.float64)[::-1], (20, 20)).dtype == np.float32
    assert scaled_size((100, 50, 3), 0.001) == (1, 1)
    with pytest.raises(InputError, match="at most 179 megapixels"):
        scaled_size((1000, 1000, 3), 14)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def segmenter(seen):
    """A segmenter that calls green what is not black, and notes what it was given."""

    def engine(batch):
        seen.append(batch.shape[1:3])
        return (batch[..., 1:2] > 0.2).astype(np.float32)

    return Segmenter(None, name="notes", engine=engine, fov_diameter=120)


def test_the_network_sees_the_field_at_the_trained_size(segmenter, seen):
    image = disc(300, 340, 240)
    result = segmenter.predict(image, scale="auto")
    assert seen == [(176, 176)]  # 340 / 2, padded
    assert (result.shape, result.dtype) == ((300, 340), np.float32)
    # Scaled back to where it was, but for the rim.
    assert np.mean((result > 0.5) != (image[..., 1] > 0)) < 0.01
    seen.clear()
    segmenter.predict(image, scale=0.25)
    segmenter.predict(image, scale=2, tile="whole")
    segmenter.predict(image)
    assert seen == [(96, 96), (688, 688), (352, 352)]


def test_a_picture_like_the_training_images_is_untouched(segmenter):
    image = disc(150, 150, 124)
    np.testing.assert_array_equal(
        segmenter.predict(image, scale="auto"), segmenter.predict(image)
    )


def test_photographs_between_those_of_several_cameras_are_left_as_they_are():
    small, large = [540] * 10, [1600] * 11
    assert trained_diameter([*small, 541, 539]) == 540
    assert trained_diameter([*small, *large]) == [540, 1600]
    for others in (small, [*small, *small], [540] * 3):  # one found wrong
        assert trained_diameter([*others, 100]) == 540
    factors = {d: scale_factor(d, [540, 1600]) for d in (270, 500, 900, 1900, 3200)}
    assert factors == {270: 2, 500: 1, 900: 1, 1900: 1, 3200: 0.5}


def test_zero_outside_the_field():
    segmenter = Segmenter(
        None, name="one", engine=lambda batch: np.ones_like(batch[..., :1])
    )
    image = disc(200, 200, 150)
    result = segmenter.predict(image, zero_outside=True)
    assert np.mean(result != (image[..., 1] > 0)) < 0.01
    assert (result[0, 0], result[100, 100]) == (0, 1)
    floats = segmenter.predict(image / np.float32(255), zero_outside=True)
    np.testing.assert_array_equal(floats, result)
    assert segmenter.predict(image).all()


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), "none"])
def test_senseless_scales_are_refused(segmenter, scale):
    with pytest.raises(InputError, match="scale"):
        segmenter.predict(disc(64, 64, 50), scale=scale)


def test_scaling_by_the_field_needs_the_trained_diameter():
    segmenter = Segmenter(None, name="x", engine=lambda batch: batch[..., :1])
    with pytest.raises(InputError, match="x does not say"):
        segmenter.predict(disc(64, 64, 50), scale="auto")


@pytest.mark.data
def test_drives_photographs_are_left_as_they_are(shared):
    samples = load_dataset("drive", shared("data"), "train")
    diameters = [field_of_view(sample.image)[1] for sample in samples]
    card = read_card(find_pretrained("sa_unet_v2_drive"))
    trained = card["preprocessing"]["fov_diameter"]
    assert np.median(diameters) == pytest.approx(trained, abs=1)
    assert {scale_factor(diameter, trained) for diameter in diameters} == {1}
