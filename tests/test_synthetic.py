"""Synthetic fundus photographs: repeatable, exact, and like a retina."""

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize

from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError

SIZES = [(64, 64), (96, 131), (300, 217), (584, 565)]


@pytest.fixture(scope="module")
def eyes():
    return [synthetic_fundus(seed) for seed in range(3)]


def _inside(sample, margin=21):
    """Returns the pixels of the FOV that are not at its rim."""
    return cv2.erode(sample.fov, np.ones((margin, margin), np.uint8)) > 0


def _disc(sample):
    """Returns (x, y) of the optic disc: the largest bright spot in green."""
    green = cv2.GaussianBlur(sample.image[..., 1], (0, 0), sample.fov.shape[0] / 48)
    return np.array(cv2.minMaxLoc(green)[3])


@pytest.mark.parametrize("size", SIZES)
def test_same_seed_same_bytes(size):
    height, width = size
    first = synthetic_fundus(7, height=height, width=width)
    again = synthetic_fundus(7, height=height, width=width)
    for field in ("image", "vessels", "fov"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))


def test_global_random_state_is_left_alone():
    before = np.random.get_state()
    synthetic_fundus(0, height=64, width=64)
    after = np.random.get_state()
    np.testing.assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]


def test_other_seed_other_eye(eyes):
    for one, other in ((0, 1), (1, 2), (0, 2)):
        both = eyes[one].vessels & eyes[other].vessels
        assert both.sum() < 0.5 * eyes[one].vessels.sum()


def test_left_and_right_eyes_are_drawn():
    sides = {
        bool(_disc(synthetic_fundus(seed, height=128, width=128))[0] > 64)
        for seed in range(12)
    }
    assert sides == {True, False}


@pytest.mark.parametrize("size", SIZES)
def test_sample_has_the_promised_arrays(size):
    height, width = size
    sample = synthetic_fundus(3, height=height, width=width)
    assert sample.name == "synthetic_3"
    assert sample.fov_source == "official"
    assert sample.second_observer is None
    assert sample.image.shape == (*size, 3)
    assert sample.vessels.shape == sample.fov.shape == size
    for array in (sample.image, sample.vessels, sample.fov):
        assert array.dtype == np.uint8
    assert set(np.unique(sample.vessels)) == {0, 1}
    assert set(np.unique(sample.fov)) == {0, 1}
    assert not np.any(sample.vessels & (1 - sample.fov))


@pytest.mark.parametrize("size", SIZES)
def test_fov_is_a_bright_circle_on_black(size):
    sample = synthetic_fundus(3, height=size[0], width=size[1])
    diameter = 2 * np.sqrt(sample.fov.sum() / np.pi)
    assert diameter == pytest.approx(0.955 * min(size), rel=0.02)
    outside = cv2.dilate(sample.fov, np.ones((9, 9), np.uint8)) == 0
    assert sample.image[outside].mean() < 10
    assert sample.image[sample.fov > 0].mean() > 60


@pytest.mark.parametrize(
    ("size", "low", "high"),
    # A human marks 9 to 17 % of the field of view in DRIVE's training part.
    [((584, 565), 0.09, 0.15), ((256, 256), 0.08, 0.15), ((64, 64), 0.04, 0.15)],
)
def test_share_of_vessels(size, low, high):
    for seed in range(4):
        sample = synthetic_fundus(seed, height=size[0], width=size[1])
        assert low < sample.vessels[sample.fov > 0].mean() < high


def test_colours_are_a_retina(eyes):
    for sample in eyes:
        red, green, blue = sample.image[sample.fov > 0].mean(axis=0)
        assert 120 < red < 240
        assert 0.35 < green / red < 0.65
        assert 0.35 < blue / green < 0.8


def test_vessels_are_darker_than_their_surroundings(eyes):
    """DRIVE's training part, same measure: -.11 for thin and -.33 for wide vessels."""
    for sample in eyes:
        vessel, inside = sample.vessels > 0, _inside(sample)
        green = sample.image[..., 1].astype(np.float32)
        clear = (~vessel & (sample.fov > 0)).astype(np.float32)
        around = cv2.GaussianBlur(green * clear, (0, 0), 8)
        around /= cv2.GaussianBlur(clear, (0, 0), 8) + 1e-6
        contrast = np.log(np.maximum(green, 1) / np.maximum(around, 1))
        calibre = 2 * cv2.distanceTransform(sample.vessels, cv2.DIST_L2, 5)
        axis = skeletonize(vessel) & inside
        assert -0.20 < contrast[axis & (calibre < 4.5)].mean() < -0.07
        assert -0.45 < contrast[axis & (calibre > 6)].mean() < -0.22
        # No capillary that nobody could see.
        assert np.mean(contrast[axis] < -0.03) > 0.9
        # The truth ends where the blood ends.
        edge = inside & ~vessel & (cv2.dilate(sample.vessels, np.ones((3, 3))) > 0)
        assert abs(contrast[edge].mean()) < 0.06


def test_trees_branch_and_end(eyes):
    for sample in eyes:
        axis = skeletonize(sample.vessels > 0).astype(np.uint8)
        kernel = np.ones((3, 3), np.float32)
        neighbours = cv2.filter2D(axis, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        neighbours = neighbours[(axis > 0) & _inside(sample)] - 1
        assert np.sum(neighbours >= 3) > 60
        assert np.sum(neighbours == 1) > 30
        assert axis.sum() > 5000  # DRIVE: 5,500 to 10,800


def test_vessels_taper_away_from_the_disc(eyes):
    for sample in eyes:
        calibre = 2 * cv2.distanceTransform(sample.vessels, cv2.DIST_L2, 5)
        y, x = np.nonzero(skeletonize(sample.vessels > 0) & _inside(sample))
        distance = np.hypot(*(np.stack([x, y]) - _disc(sample)[:, None]))
        rings = [(50, 120), (120, 240), (240, 420)]
        mean = [
            calibre[y, x][(distance >= low) & (distance < high)].mean()
            for low, high in rings
        ]
        assert mean[0] > mean[1] > mean[2]
        assert 6 < np.percentile(calibre[y, x], 99) < 12
        assert np.percentile(calibre[y, x], 10) <= 2.8


def test_fovea_is_dark_and_free_of_vessels(eyes):
    for sample in eyes:
        disc = _disc(sample)
        height, width = sample.fov.shape
        centre = np.array([width / 2, height / 2])
        y, x = np.mgrid[:height, :width]
        near = np.hypot(x - centre[0], y - centre[1]) < 60
        smooth = cv2.GaussianBlur(sample.image[..., 1].astype(np.float32), (0, 0), 6)
        lowest = np.argmin(np.where(near, smooth, 255))
        fovea = np.array([lowest % width, lowest // width])
        assert 150 < np.hypot(*(fovea - disc)) < 240
        around = np.hypot(x - fovea[0], y - fovea[1])
        assert smooth[around < 10].mean() < 0.9 * smooth[(around > 60) & near].mean()
        assert sample.vessels[around < 12].sum() == 0


def test_same_eye_at_twice_the_size():
    small = synthetic_fundus(5, height=584, width=565)
    large = synthetic_fundus(5, height=1168, width=1130)
    shrunk = cv2.resize(large.vessels, (565, 584), interpolation=cv2.INTER_AREA)
    overlap = np.sum(shrunk & small.vessels)
    assert 2 * overlap / (shrunk.sum() + small.vessels.sum()) > 0.85


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 0.5},
        {"seed": True},
        {"seed": 0, "height": 63},
        {"seed": 0, "width": 100_000},
        {"seed": 0, "width": "565"},
    ],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InputError, match=f"fundus {list(arguments)[-1]} .*expected"):
        synthetic_fundus(**arguments)
