"""Augmentation: thirteen fixed copies, and random views with their labels."""

import itertools

import cv2
import numpy as np
import pytest
from helpers import fundus_like

from saunet.data import augmentation
from saunet.data.augmentation import random_view, thirteen_copies
from saunet.data.padding import pad

ARRAYS = ("image", "vessels", "fov")


@pytest.fixture(scope="module")
def sample():
    return fundus_like(40, 56, seed=3, name="21")


@pytest.fixture(scope="module")
def copies(sample):
    return thirteen_copies(sample, seed=5)


def same(ours, theirs):
    return ours.name == theirs.name and all(
        np.array_equal(getattr(ours, a), getattr(theirs, a)) for a in ARRAYS
    )


def test_thirteen_copies_by_name(copies):
    kinds = ("flip", "rotation", "colour", "noise")
    expected = ["21"] + [f"21_{kind}{i}" for kind in kinds for i in range(3)]
    assert [c.name for c in copies] == expected


def test_twenty_images_become_260():
    samples = [fundus_like(8, 8, seed=i, name=str(i)) for i in range(20)]
    copies = [c for s in samples for c in thirteen_copies(s, 0)]
    assert len(copies) == len({c.name for c in copies}) == 260


def test_a_seed_and_a_name_decide_the_copies(sample, copies):
    assert all(map(same, copies, thirteen_copies(sample, seed=5)))
    for other in (
        thirteen_copies(sample, seed=6),
        thirteen_copies(fundus_like(40, 56, seed=3, name="22"), seed=5),
    ):
        differs = [
            not np.array_equal(a.image, b.image)
            for a, b in zip(copies, other, strict=True)
        ]
        # the original and its flips have nothing random
        assert differs == [False] * 4 + [True] * 9


def test_copies_do_not_depend_on_what_was_augmented_before(sample, copies):
    thirteen_copies(fundus_like(9, 9, name="other"), seed=5)
    np.random.default_rng(0).random(100)
    assert all(map(same, copies, thirteen_copies(sample, seed=5)))


def test_types_sizes_and_binary_labels(sample, copies):
    for copy in copies:
        assert copy.image.shape == sample.image.shape
        assert copy.vessels.shape == copy.fov.shape == sample.vessels.shape
        for array in ARRAYS:
            assert getattr(copy, array).dtype == np.uint8
            assert getattr(copy, array).flags.c_contiguous
        for labels in (copy.vessels, copy.fov):
            assert set(np.unique(labels)) <= {0, 1}
        assert copy.vessels.any()


def test_the_original_is_untouched(sample, copies):
    assert same(copies[0], fundus_like(40, 56, seed=3, name="21"))
    assert same(sample, fundus_like(40, 56, seed=3, name="21"))


@pytest.mark.parametrize(("i", "axes"), [(1, (1,)), (2, (0,)), (3, (0, 1))])
def test_flips_are_horizontal_vertical_and_both(sample, copies, i, axes):
    for array in ARRAYS:
        flipped = np.flip(getattr(sample, array), axes)
        np.testing.assert_array_equal(getattr(copies[i], array), flipped)


def test_rotations_move_image_and_labels_alike():
    """The image's red is the label: after any rotation it still says so."""
    coloured = fundus_like(64, 80, seed=1)
    coloured.image[:] = 0
    coloured.image[..., 0] = 255 * coloured.vessels
    for copy in thirteen_copies(coloured, 2)[4:7]:
        red, labels = copy.image[..., 0].astype(int), copy.vessels
        sure = (red < 20) | (red > 235)
        assert sure.mean() > 0.7
        agree = (red > 127) == labels
        # bicubic and nearest differ at edges alone
        assert agree[sure].mean() > 0.995
        assert agree.mean() > 0.97
        assert not np.array_equal(labels, coloured.vessels)
        # what comes in from outside is black and outside the field of view
        assert not red[copy.fov == 0].any()
        assert not copy.fov.all()


def test_rotations_draw_whole_degrees_from_1_to_359(sample, monkeypatch):
    seen = []

    def record(array, degrees, resampling):
        seen.append(degrees)
        return array

    monkeypatch.setattr(augmentation, "_rotate", record)
    for seed in range(300):
        thirteen_copies(sample, seed)
    assert {type(d) for d in seen} == {int}
    assert 1 <= min(seen) < 8
    assert 352 < max(seen) <= 359


def test_colour_and_noise_leave_the_geometry(sample, copies):
    for copy in copies[7:]:
        assert not np.array_equal(copy.image, sample.image)
        np.testing.assert_array_equal(copy.vessels, sample.vessels)
        np.testing.assert_array_equal(copy.fov, sample.fov)


def test_noise_is_that_of_the_authors_code():
    """N(0.2, 0.3) is added into whole grey values, which cuts what is past them."""
    grey = fundus_like(200, 200)
    grey.image[:] = 100
    grey.image[0] = 0
    grey.image[1] = 255
    for copy in thirteen_copies(grey, 0)[10:]:
        change = copy.image[2:].astype(int) - 100
        # P(noise < 0) and P(noise >= 1)
        assert abs((change == -1).mean() - 0.2525) < 0.005
        assert abs((change == 1).mean() - 0.0038) < 0.001
        assert set(np.unique(change)) <= {-2, -1, 0, 1}
        assert copy.image[0].max() <= 1
        assert copy.image[1].min() >= 253


def test_colour_jitter_draws_the_authors_tenths(sample, monkeypatch):
    """Theirs are `randint(0, 31) / 10` and `randint(10, 21) / 10`, without the end."""
    drawn = {}

    def recording(enhancer):
        def of(picture):
            class Recorder:
                def enhance(self, factor):
                    drawn.setdefault(enhancer.__name__, set()).add(float(factor))
                    return picture

            return Recorder()

        return of

    jitter = [(recording(e), *rest) for e, *rest in augmentation.COLOUR_JITTER]
    monkeypatch.setattr(augmentation, "COLOUR_JITTER", jitter)
    for seed in range(100):
        thirteen_copies(sample, seed)
    wide, narrow = ({n / 10 for n in range(*ends)} for ends in ((0, 31), (10, 21)))
    assert list(drawn) == ["Color", "Brightness", "Contrast", "Sharpness"]
    assert list(drawn.values()) == [wide, narrow, narrow, wide]


# ----------------------------------------------------------------- random views


def view_of(seed, image, vessels, size=(48, 32), **kwargs):
    return random_view(image, vessels, size, np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [(48, 32), (32, 48), (96, 96)])
def test_views_have_the_size_and_types_asked_for(size, whole):
    s = fundus_like(64, 80)
    image, vessels = view_of(0, s.image, s.vessels, size, whole=whole)
    assert image.shape == (*size, 3)
    assert vessels.shape == size
    assert image.dtype == vessels.dtype == np.uint8
    assert set(np.unique(vessels)) == {0, 1}


@pytest.mark.parametrize("whole", [False, True])
def test_views_keep_labels_on_their_vessels(monkeypatch, whole):
    """Without colour noise, an image whose red is the label still is it."""
    monkeypatch.setattr(augmentation, "_random_colour", lambda view, rng: view)
    s = fundus_like(90, 70, seed=2)
    image = np.repeat(255 * s.vessels[..., None], 3, axis=-1)
    places = set()
    for seed in range(20):
        red, labels = view_of(seed, image, s.vessels, whole=whole)
        np.testing.assert_array_equal(red[..., 0] > 127, labels)
        places.add(labels.tobytes())
    assert len(places) == 20


def affines(n=400, source=(90, 70), target=(48, 32), whole=False, **options):
    return np.stack(
        [
            augmentation._random_affine(
                source, target, np.random.default_rng(i), whole, **options
            )
            for i in range(n)
        ]
    )


@pytest.mark.parametrize(("whole", "limit"), [(False, 4 / 3), (True, 1.1)])
def test_views_turn_flip_and_scale_within_bounds(whole, limit):
    matrices = affines(whole=whole)
    linear = matrices[:, :, :2]
    determinant = np.linalg.det(linear)
    scale = 1 / np.sqrt(np.abs(determinant))
    assert 1 / limit <= scale.min() < 1 / limit + 0.05
    assert limit - 0.05 < scale.max() <= limit
    # a turn, perhaps mirrored: columns of one length at right angles
    gram = np.einsum("nij,nik->njk", linear, linear) * scale[:, None, None] ** 2
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-9)
    assert 0.4 < (determinant > 0).mean() < 0.6
    angle = np.arctan2(linear[:, 1, 1], -linear[:, 0, 1])
    assert np.histogram(angle, 4, (-np.pi, np.pi))[0].min() > 60


def test_views_are_centred_where_a_crop_fits():
    source, target = np.array([90, 70]), np.array([48, 32])
    middle = (target[::-1] - 1) / 2
    centres = affines() @ [*middle, 1]
    reach = (source - target)[::-1] / 2
    assert np.all(np.abs(centres - source[::-1] / 2) <= reach + 0.51)
    assert np.all(np.ptp(centres, axis=0) > 1.8 * reach)
    whole = affines(whole=True) @ [*middle, 1]
    np.testing.assert_allclose(whole - source[::-1] / 2, 0, atol=0.51)


@pytest.mark.parametrize("whole", [False, True])
def test_upright_views_hold_the_pixels_of_the_photograph(monkeypatch, whole):
    """Each is one of eight orientations; no pixel is a mean of its neighbours."""
    monkeypatch.setattr(augmentation, "_random_colour", lambda view, rng: view)
    image = np.arange(61 * 74 * 3, dtype=np.uint32).reshape(61, 74, 3)
    image = (image * 2654435761 >> 13).astype(np.uint8)  # neighbours differ
    vessels = (image[..., 0] > 127).astype(np.uint8)
    size = (80, 80) if whole else (48, 32)
    padded = pad(image, (300, 300), "centered")
    found = set()
    for seed in range(60):
        view, labels = view_of(seed, image, vessels, size, whole=whole, upright=1)
        for turns, mirrored in itertools.product(range(4), (False, True)):
            turned = np.rot90(view[:, ::-1] if mirrored else view, turns)
            if contains(padded, turned):
                found.add((turns, mirrored))
                break
        else:
            pytest.fail(f"view {seed} is nowhere in the photograph")
        inside = view.any(axis=-1)
        np.testing.assert_array_equal(labels[inside], view[inside][:, 0] > 127)
    assert len(found) == 8


def test_upright_crops_reach_each_edge_of_the_photograph():
    found = affines(4000, (60, 50), (48, 48), upright=1)
    corners = found @ np.array([[0, 47, 0, 47], [0, 0, 47, 47], [1, 1, 1, 1]])
    np.testing.assert_array_equal(corners.min(axis=(0, 2)), [0, 0])
    np.testing.assert_array_equal(corners.max(axis=(0, 2)), [49, 59])


def contains(image, part):
    """Whether `part` is a piece of `image`, exactly."""
    difference = cv2.matchTemplate(
        image.astype(np.float32), part.astype(np.float32), cv2.TM_SQDIFF
    )
    row, column = np.unravel_index(difference.argmin(), difference.shape)
    height, width = part.shape[:2]
    piece = image[row : row + height, column : column + width]
    return np.array_equal(piece, part)


@pytest.mark.parametrize("size", [(64, 80), (65, 79), (64, 79), (65, 80)])
def test_a_whole_upright_view_lies_where_padding_puts_it(size):
    matrices = affines(200, size, (96, 96), whole=True, upright=1)
    unturned = matrices[(matrices[:, :, :2] == np.eye(2)).all(axis=(1, 2))]
    assert len(unturned) > 10
    image = np.full(size, 9, np.uint8)
    row, column = np.argwhere(pad(image, (96, 96), "centered"))[0]
    np.testing.assert_array_equal(unturned[:, :, 2], [[-column, -row]] * len(unturned))


def test_a_share_of_the_views_is_upright():
    upright = (np.abs(affines(upright=0.25)[:, :, :2]).max(axis=(1, 2)) == 1).mean()
    assert 0.18 < upright < 0.32
    # and without it a seed gives what it always gave
    always = [[0.744361, 0.865589], [0.865589, -0.744361]]
    np.testing.assert_allclose(affines(1)[0, :, :2], always, atol=1e-6)


def test_colour_changes_the_image_and_never_the_labels():
    s = fundus_like(64, 64)
    images, labels = [], []
    for seed in range(30):
        image, vessels = view_of(seed, s.image, s.vessels, (64, 64), whole=True)
        images.append(image)
        labels.append(vessels)
    means = np.array([i.mean(axis=(0, 1)) for i in images])
    assert np.all(means.std(axis=0) > 5)
    # the channels change apart too
    assert (means[:, 0] / means[:, 1]).std() > 0.03
    assert max(i.max() for i in images) <= 255


def test_each_channel_gets_a_gamma_of_its_own():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 200, 3))
    spread = []
    for seed in range(20):
        curves = augmentation._random_colour(ramp, np.random.default_rng(seed))
        dark, bright = curves.mean(axis=1)[[40, 120]]
        spread.append(np.ptp(np.log(bright / dark) / np.log(3)))
    # exponents differ by up to exp(0.2)
    assert 0.04 < np.mean(spread) < 0.25


def test_half_of_the_views_get_noise():
    grey = np.full((32, 32, 3), 100, np.uint8)
    noisy = [
        np.ptp(
            augmentation._random_colour(grey, np.random.default_rng(i)), (0, 1)
        ).any()
        for i in range(200)
    ]
    assert 70 < sum(noisy) < 130


def test_views_leave_their_source_alone():
    s = fundus_like(64, 64)
    image, vessels = s.image.copy(), s.vessels.copy()
    view_of(0, image, vessels)
    np.testing.assert_array_equal(image, s.image)
    np.testing.assert_array_equal(vessels, s.vessels)


def test_a_view_is_a_function_of_its_generator():
    s = fundus_like(64, 64)
    first, same_seed, other = (view_of(i, s.image, s.vessels) for i in (1, 1, 2))
    for a, b, c in zip(first, same_seed, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_threads_of_opencv_do_not_change_a_view():
    s = fundus_like(64, 64)
    threads = cv2.getNumThreads()
    try:
        views = []
        for n in (1, 2):
            cv2.setNumThreads(n)
            views.append(view_of(4, s.image, s.vessels)[0])
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(*views)


def test_noise_does_not_darken():
    grey = np.full((256, 256, 3), 128, np.uint8)
    views = [
        augmentation._random_colour(grey, np.random.default_rng(i)) for i in range(40)
    ]
    noisy = [v.astype(float) for v in views if np.ptp(v, (0, 1)).any()]
    plain = np.median([v.reshape(-1, 3) for v in noisy], axis=1)
    assert len(noisy) > 10
    # Rounded, the mean is the middle; cut off, it would be half a level below.
    means = np.array([v.mean((0, 1)) for v in noisy])
    assert abs((means - plain).mean()) < 0.2
