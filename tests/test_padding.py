import numpy as np
import pytest

from saunet.data.padding import checked_padding, pad, padded_size, unpad
from saunet.errors import InputError


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (584, 565, (592, 592)),  # DRIVE, SA-UNet and SA-UNetv2
        (960, 999, (1008, 1008)),  # CHASE_DB1, SA-UNet
        (605, 700, (704, 704)),  # STARE, SA-UNetv2
        (64, 64, (64, 64)),
    ],
)
def test_padded_size_is_the_papers(height, width, expected):
    assert padded_size(height, width) == expected


def test_padded_size_keeps_the_shape_where_asked():
    assert padded_size(584, 565, square=False) == (592, 576)
    assert padded_size(30, 33, multiple=8, square=False) == (32, 40)


def test_centered_padding_lies_as_in_sa_unet():
    padded = pad(np.ones((584, 565), np.uint8), (592, 592), "centered")
    rows, columns = np.nonzero(padded)
    assert (rows.min(), columns.min()) == (4, 13)
    assert (rows.max(), columns.max()) == (4 + 583, 13 + 564)
    assert pad(np.ones((1, 1)), (4, 4)).argmax() == 1 * 4 + 1


def test_bottom_right_padding_starts_at_the_origin():
    padded = pad(np.ones((5, 4, 3), np.float32), (8, 8), "bottom_right")
    assert padded.dtype == np.float32
    assert padded[:5, :4].all()
    assert padded.sum() == 5 * 4 * 3


@pytest.mark.parametrize("placement", ["centered", "bottom_right"])
@pytest.mark.parametrize("shape", [(33, 47), (48, 33, 3), (1, 48, 1), (48, 48)])
def test_unpad_inverts_pad(shape, placement):
    array = np.random.default_rng(0).integers(1, 255, shape, np.uint8)
    padded = pad(array, (48, 48), placement)
    assert padded.shape == (48, 48, *shape[2:])
    assert padded.dtype == array.dtype
    np.testing.assert_array_equal(unpad(padded, shape[:2], placement), array)
    assert int(padded.sum()) == int(array.sum())


def test_a_size_too_small_names_both():
    with pytest.raises(InputError, match=r"20x10 .* 16x16"):
        pad(np.ones((20, 10)), (16, 16))
    with pytest.raises(InputError, match=r"20x10 .* 16x16"):
        unpad(np.ones((16, 16)), (20, 10))


PADDING = {"placement": "centered", "multiple": 16, "square": True}


@pytest.mark.parametrize(
    "padding",
    [
        3,
        [*PADDING],
        {},
        {**PADDING, "colour": "black"},
        {**PADDING, "placement": "top"},
        {**PADDING, "placement": ["centered"]},
        {**PADDING, "multiple": 0},
        {**PADDING, "multiple": 16.0},
        {**PADDING, "multiple": True},
        {**PADDING, "square": 1},
    ],
)
def test_a_padding_that_makes_no_sense_is_refused(padding):
    assert checked_padding(PADDING) == PADDING
    with pytest.raises(InputError, match="makes no sense: expected placement"):
        checked_padding(padding)


def test_an_unknown_placement_names_the_known():
    with pytest.raises(InputError, match=r"'middle' .*centered, bottom_right"):
        pad(np.ones((2, 2)), (4, 4), "middle")
