"""Pictures: the right pixels, colours anybody can tell apart, whole files."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from saunet import viz
from saunet.data import images
from saunet.errors import InputError

MASK = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)


def _photograph(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# ---------------------------------------------------------------- overlay


def test_overlay_mixes_the_tint_at_vessels_only():
    image = np.full((2, 3, 3), 100, np.uint8)
    picture = viz.overlay(image, MASK, colour=(0, 200, 255), alpha=0.25)
    assert picture.dtype == np.uint8
    assert picture[MASK == 0].tolist() == [[100, 100, 100]] * 3
    # .75 * 100 + .25 * (0, 200, 255) = 75, 125, 138.75
    assert picture[MASK == 1].tolist() == [[75, 125, 139]] * 3
    assert (image == 100).all()


@pytest.mark.parametrize("kind", [bool, np.float32, np.uint8])
def test_overlay_takes_any_mask(kind):
    image = _photograph(2, 3)
    mask = MASK.astype(kind) if kind is not np.uint8 else MASK * np.uint8(255)
    np.testing.assert_array_equal(viz.overlay(image, mask), viz.overlay(image, MASK))


@pytest.mark.parametrize("alpha", [0, 1])
def test_overlay_at_the_ends(alpha):
    image = _photograph(2, 3)
    picture = viz.overlay(image, MASK, colour=(1, 2, 3), alpha=alpha)
    expected = image.copy()
    if alpha:
        expected[MASK == 1] = (1, 2, 3)
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize(
    "image", [_photograph(3, 3), _photograph(2, 3)[..., 0], _photograph(2, 3) / 255]
)
def test_overlay_refuses_what_does_not_fit(image):
    with pytest.raises(InputError, match=r"expected uint8 RGB|at one size"):
        viz.overlay(image, MASK)


# ---------------------------------------------------------------- error map


def test_error_map_colours_each_outcome():
    prediction = np.array([[1, 1, 0, 0, 1]])
    truth = np.array([[1, 0, 1, 0, 1]])
    fov = np.array([[1, 1, 1, 1, 0]])
    found, invented, missed, nothing, outside = viz.error_map(prediction, truth, fov)[
        0
    ].tolist()
    assert tuple(found) == viz.TRUE_POSITIVE == viz.LEGEND["vessel found (TP)"]
    assert tuple(invented) == viz.FALSE_POSITIVE == viz.LEGEND["false vessel (FP)"]
    assert tuple(missed) == viz.FALSE_NEGATIVE == viz.LEGEND["missed vessel (FN)"]
    assert tuple(nothing) == viz.BACKGROUND
    assert tuple(outside) == viz.OUTSIDE


@pytest.mark.parametrize("wrong", ["prediction", "fov"])
def test_error_map_names_the_array_of_another_size(wrong):
    arrays = {
        "prediction": np.zeros((4, 5)),
        "truth": np.zeros((4, 5)),
        "fov": np.ones((4, 5)),
    }
    arrays[wrong] = arrays[wrong][:3]
    with pytest.raises(InputError, match=rf"{wrong} is \(3, 5\).*truth \(4, 5\)"):
        viz.error_map(**arrays)


# Linear RGB as people without one kind of cone see it (Machado et al. 2009, severity
# 1, https://doi.org/10.1109/TVCG.2009.113).
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_legend_is_told_apart_with_any_sight(sight):
    colours = [*viz.LEGEND.values(), viz.BACKGROUND]
    linear = (np.array(colours, np.float32) / 255) ** 2.2
    seen = np.clip(linear @ np.array(SIGHT[sight], np.float32).T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    # 2.3 is just noticeable; thin lines need far more.
    assert distance[~np.eye(len(lab), dtype=bool)].min() > 30


# ---------------------------------------------------------------- figures


def _read(path):
    picture = cv2.imread(str(path))
    assert picture is not None
    assert [entry.name for entry in path.parent.glob("*.p*")] == [path.name]
    return picture[..., ::-1].astype(int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not a readable training log"),
        ("", "0 rows"),
        ("epoch,loss\n", "0 rows"),
        ("step,loss\n1,2\n", "expected at least one row with epoch and loss"),
        ("epoch,loss\n1,high\n", "high.*expected numbers"),
    ],
)
def test_other_files_are_no_log(tmp_path, text, message):
    log = tmp_path / "log.csv"
    if text is not None:
        log.write_text(text)
    with pytest.raises(InputError, match=message):
        viz.read_log(log)


def test_panel_has_a_cell_for_each_picture(tmp_path):
    out = tmp_path / "panel.png"
    red, half = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 0.5)
    red[..., 0] = 255
    viz.panel([[red, half], [half, half]], ["photograph", "probability"], out)
    picture = _read(out)
    grey = np.abs(picture - 128).max(axis=2) < 4
    height, width = grey.shape
    assert (picture == [255, 0, 0]).all(axis=2)[
        : height // 2, : width // 2
    ].mean() > 0.5
    for quarter in (
        grey[: height // 2, width // 2 :],
        grey[height // 2 :, : width // 2],
        grey[height // 2 :, width // 2 :],
    ):
        assert quarter.mean() > 0.5


@pytest.mark.parametrize(
    ("rows", "titles"),
    [([], ["a"]), ([[MASK]], ["a", "b"]), ([[MASK], [MASK, MASK]], ["a"]), ([[]], [])],
)
def test_panel_refuses_a_ragged_grid(tmp_path, rows, titles):
    with pytest.raises(InputError, match="one title a column"):
        viz.panel(rows, titles, tmp_path / "panel.png")


def test_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    out = tmp_path / "panel.png"
    out.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        viz.panel([[MASK]], ["mask"], out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_unwritable_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing.*cannot be written"):
        viz.panel([[MASK]], ["mask"], tmp_path / "missing" / "panel.png")


def test_matplotlib_waits_and_pyplot_is_never_used(tmp_path):
    code = (
        "import sys, numpy as np; from saunet import viz\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"viz.panel([[np.eye(4)]], ['eye'], {str(tmp_path / 'eye.png')!r})\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
