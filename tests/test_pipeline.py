"""Batches: pure functions of seed and number; rounds that use each image once."""

from itertools import islice

import numpy as np
import pytest
from helpers import fundus_like

from saunet.data.padding import pad
from saunet.data.pipeline import fixed_batches, random_batches, to_arrays


@pytest.fixture(scope="module")
def samples():
    """Five images told apart by their blue, of three sizes."""
    made = [fundus_like(20 + 2 * (i % 3), 26, seed=i, name=str(i)) for i in range(5)]
    for i, sample in enumerate(made):
        sample.image[..., 2] = 10 + 10 * i
    return made


def batches(samples, kind, n, **options):
    make = {
        "crops": lambda **o: random_batches(samples, crop=16, **o),
        "whole": lambda **o: random_batches(samples, crop=None, **o),
        "fixed": lambda **o: fixed_batches(samples, **o),
    }[kind]
    return list(islice(make(**{"batch_size": 2, "seed": 1, **options}), n))


KINDS = ("crops", "whole", "fixed")


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_types_and_ranges(samples, kind):
    side = 16 if kind == "crops" else 32
    for x, y in batches(samples, kind, 2):
        assert x.shape == (2, side, side, 3)
        assert y.shape == (2, side, side, 1)
        assert x.dtype == y.dtype == np.float32
        assert x.min() >= 0
        assert 0.3 < x.max() <= 1
        assert set(np.unique(y)) == {0, 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_batch_is_a_function_of_the_seed_and_its_number(samples, kind, start):
    endless = batches(samples, kind, start + 4)
    later = batches(samples, kind, 4, start=start)
    for (x, y), (x_later, y_later) in zip(endless[start:], later, strict=True):
        np.testing.assert_array_equal(x, x_later)
        np.testing.assert_array_equal(y, y_later)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_numbers_differ(samples, kind):
    ours, theirs = (batches(samples, kind, 12, seed=s) for s in (1, 2))
    same = [
        a[0].shape == b[0].shape and np.array_equal(a[0], b[0])
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert sum(same) <= (0 if kind != "fixed" else 4)
    if kind != "fixed":
        assert len({x.tobytes() for x, _ in ours}) == 12


def which(images):
    """Which sample each image of a `fixed_batches` batch is, by its blue."""
    centre = images[:, 16, 16, 2] * 255
    return [round(float(c) / 10) - 1 for c in centre]


def test_a_round_of_fixed_batches_holds_each_image_once(samples):
    made = batches(samples, "fixed", 9)
    assert [len(x) for x, _ in made] == [2, 2, 1] * 3
    rounds = [
        [i for x, _ in made[start : start + 3] for i in which(x)] for start in (0, 3, 6)
    ]
    for one in rounds:
        assert sorted(one) == [0, 1, 2, 3, 4]
    assert len(set(map(tuple, rounds))) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 5, 8])
def test_rounds_add_up_for_any_batch_size(samples, batch_size):
    per_round = -(-5 // batch_size)
    made = batches(samples, "fixed", 2 * per_round, batch_size=batch_size)
    assert sum(len(x) for x, _ in made) == 10
    last = [i for x, _ in made[per_round:] for i in which(x)]
    assert sorted(last) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("placement", ["centered", "bottom_right"])
def test_fixed_batches_are_the_padded_photographs(samples, placement):
    for x, y in batches(samples, "fixed", 3, placement=placement):
        for image, labels in zip(x, y, strict=True):
            matches = [
                s
                for s in samples
                if np.array_equal(
                    image, pad(s.image, (32, 32), placement) / np.float32(255)
                )
            ]
            assert len(matches) == 1
            expected = pad(matches[0].vessels, (32, 32), placement)
            np.testing.assert_array_equal(labels[..., 0], expected)


def test_random_batches_use_each_image_as_often(samples, monkeypatch):
    from saunet.data import pipeline

    seen = []

    def record(image, vessels, size, rng, **options):
        seen.append(int(image[0, 0, 2]) // 10 - 1)
        blank = np.zeros((*size, 3), np.uint8)
        return blank, blank[..., 0]

    monkeypatch.setattr(pipeline, "random_view", record)
    batches(samples, "crops", 10)  # 20 views: four rounds over batch borders
    rounds = [seen[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_crops_and_whole_images_say_so_to_the_view(samples, monkeypatch):
    from saunet.data import pipeline

    asked = []

    def record(image, vessels, size, rng, *, whole, upright):
        asked.append((size, whole, upright))
        blank = np.zeros((*size, 3), np.uint8)
        return blank, blank[..., 0]

    monkeypatch.setattr(pipeline, "random_view", record)
    batches(samples, "crops", 1)
    batches(samples, "whole", 1, upright=0.5)
    # the whole ones are padded as the largest of all images
    assert asked == [((16, 16), False, 0.0)] * 2 + [((32, 32), True, 0.5)] * 2


def test_views_of_one_image_in_one_batch_differ(samples):
    for kind in ("crops", "whole"):
        ((x, _),) = batches(samples[:1], kind, 1)
        assert not np.array_equal(x[0], x[1])


def test_the_largest_height_and_width_decide_the_size():
    mixed = [fundus_like(20, 40, name="a"), fundus_like(50, 20, name="b")]
    for kind in ("whole", "fixed"):
        assert batches(mixed, kind, 1)[0][0].shape == (2, 64, 64, 3)


def test_arrays_are_scaled_by_255_and_labels_are_not():
    image = np.array([[[0, 51, 255]]], np.uint8)
    x, y = to_arrays([(image, np.array([[1]], np.uint8))])
    np.testing.assert_array_equal(x, np.float32([[[[0, 0.2, 1]]]]))
    np.testing.assert_array_equal(y, [[[[1]]]])
