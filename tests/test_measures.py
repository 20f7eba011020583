"""Measures of vessels: shapes whose answers are known by hand."""

import csv
import errno
import json
import math
import os
import re
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import circle_perimeter, line
from skimage.morphology import skeletonize

from saunet import cli, measures
from saunet.data import images
from saunet.data.images import read_mask, write_png
from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError
from saunet.folders import predict_files
from saunet.inference import Segmenter
from saunet.measures import (
    box_dimension,
    find_masks,
    local_calibre,
    measure_files,
    measure_vessels,
)

ROOT = Path(__file__).resolve().parents[1]
KEYS = list(measure_vessels(np.zeros((2, 2), bool)))
SIDE = 81
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - SIDE // 2
UNDEFINED_WITHOUT_VESSELS = [
    key for key in KEYS if key.startswith(("calibre", "fractal"))
] + ["tortuosity", "skeleton_length_um", "micrometres_per_pixel"]


def drawn(*lines, side=SIDE):
    """Returns lines (row, column, row, column) of one pixel's width."""
    mask = np.zeros((side, side), bool)
    for ends in lines:
        mask[line(*ends)] = True
    return mask


def thick(mask):
    return ndimage.binary_dilation(mask, np.ones((3, 3)))


def bar(width, angle=0, shift=(0.0, 0.0), length=60):
    """Returns a bar through the middle, a pixel being in it if its centre is."""
    angle = math.radians(angle)
    rows, columns = ROWS - shift[0], COLUMNS - shift[1]
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    return (abs(along) <= length / 2) & (abs(across) < width / 2)


RING = abs(np.hypot(ROWS, COLUMNS) - 20) < 1.5
CROSS = drawn((40, 10, 40, 70), (10, 40, 70, 40))
SALTIRE = drawn((10, 10, 70, 70), (10, 70, 70, 10))
TEE = drawn((40, 10, 40, 70), (40, 40, 70, 40))
WYE = drawn((40, 40, 20, 20), (40, 40, 20, 60), (40, 40, 70, 40))
# Two tails side by side: their two branch pixels touch, and are one branch point.
SIDE_BY_SIDE = drawn((40, 10, 40, 70), (10, 40, 40, 40), (40, 41, 70, 41))


@pytest.mark.parametrize(
    ("mask", "branches", "ends", "length"),
    [
        (drawn((40, 10, 40, 70)), 0, 2, 60),
        (drawn((10, 10, 70, 70)), 0, 2, 60 * math.sqrt(2)),
        (drawn((40, 10, 40, 10)), 0, 0, 0),
        (drawn((40, 10, 40, 11)), 0, 2, 1),
        (drawn((40, 10, 40, 30), (40, 50, 40, 70)), 0, 4, 40),
        (CROSS, 1, 4, 120),
        (SALTIRE, 1, 4, 120 * math.sqrt(2)),
        # Thinning cuts the corners of a T: two steps of it become diagonal.
        (TEE, 1, 3, 87 + 2 * math.sqrt(2)),
        (WYE, 1, 3, 40 * math.sqrt(2) + 30),
        (SIDE_BY_SIDE, 1, 4, 117 + 2 * math.sqrt(2)),
        (drawn((0, 40, 80, 40)), 0, 2, 80),
    ],
)
def test_a_drawing_has_the_points_and_length_it_was_drawn_with(
    mask, branches, ends, length
):
    found = measure_vessels(mask)
    assert (found["branch_points"], found["end_points"]) == (branches, ends)
    assert found["skeleton_length_px"] == pytest.approx(length)


@pytest.mark.parametrize(
    ("mask", "branches", "ends"),
    [(CROSS, 1, 4), (SALTIRE, 1, 4), (TEE, 1, 3), (WYE, 1, 3), (RING, 0, 0)],
)
def test_thicker_lines_have_the_same_points(mask, branches, ends):
    found = measure_vessels(thick(mask))
    assert (found["branch_points"], found["end_points"]) == (branches, ends)


def test_a_ring_with_two_tails():
    tails = drawn((40, 60, 40, 78), (40, 2, 40, 20))
    found = measure_vessels(RING | thick(tails))
    assert (found["branch_points"], found["end_points"]) == (2, 2)
    # The two halves of the ring are as long as wide of pi / 2, but for the steps.
    assert found["tortuosity_segments"] == 4


def test_a_ring_is_as_long_as_its_circle_but_for_the_steps():
    length = measure_vessels(RING)["skeleton_length_px"]
    # A chain of 8 directions is at most 1.0824 times the line, at 22.5 degrees.
    assert 1 < length / (40 * math.pi) < 1.0824


def test_ends_are_the_pixels_with_one_neighbour():
    vessels = synthetic_fundus(0).vessels
    skeleton = skeletonize(vessels.astype(bool), method="lee") > 0
    padded = np.pad(skeleton, 1)
    ends = [
        (row, column)
        for row, column in np.argwhere(padded)
        if padded[row - 1 : row + 2, column - 1 : column + 2].sum() == 2
    ]
    found = measure_vessels(vessels)
    assert found["end_points"] == len(ends)
    assert found["branch_points"] > 5


@pytest.mark.parametrize("width", range(1, 13))
@pytest.mark.parametrize("across", [False, True])
def test_an_upright_bar_is_as_wide_as_it_is(width, across):
    mask = np.zeros((60, 70), bool)
    mask[20 : 20 + width, 5:65] = True
    found = measure_vessels(mask.T if across else mask)
    sides = {key: found[f"calibre_{key}_px"] for key in ("median", "p25", "p75", "p95")}
    assert sides == dict.fromkeys(sides, width)


@pytest.mark.parametrize("angle", [10, 22.5, 30, 45, 60, 80, 135])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 10])
def test_a_slanted_bar_is_nearly_as_wide_as_it_is(width, angle):
    shifts = [(0, 0), (0.3, 0.1), (-0.2, 0.4), (0.45, -0.35)]
    found = [
        measure_vessels(bar(width, angle, shift))["calibre_median_px"]
        for shift in shifts
    ]
    # What docs/measures.md promises.
    assert statistics.fmean(found) == pytest.approx(width, abs=0.7)


def test_calibre_is_twice_the_way_to_the_nearest_background():
    rng = np.random.default_rng(0)
    mask, fov = rng.random((9, 12)) < 0.8, rng.random((9, 12)) < 0.8
    calibre = local_calibre(mask & fov, fov, mask & fov)
    halves = np.argwhere((fov & ~mask).repeat(2, 0).repeat(2, 1))
    for (row, column), found in zip(np.argwhere(mask & fov), calibre, strict=True):
        quarters = [(2 * row + i, 2 * column + j) for i in (0, 1) for j in (0, 1)]
        ways = [np.hypot(*(halves - quarter).T).min() for quarter in quarters]
        assert found == pytest.approx(max(ways))


def test_vessels_do_not_taper_where_the_image_or_the_fov_ends():
    mask = np.zeros((60, 70), bool)
    mask[20:27] = True
    fov = np.zeros_like(mask)
    fov[:, 15:50] = True
    for inside in (None, fov):
        found = measure_vessels(mask, inside)
        assert found["calibre_mean_px"] == 7
        assert found["calibre_std_px"] == 0


def test_the_distribution_of_calibre_is_that_of_the_skeletons_pixels():
    vessels, fov = synthetic_fundus(0).vessels > 0, synthetic_fundus(0).fov > 0
    skeleton = skeletonize(vessels & fov, method="lee") > 0
    values = local_calibre(vessels & fov, fov, skeleton).tolist()
    found = measure_vessels(vessels, fov)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "median": statistics.median(values),
        **{f"p{q:02}": cuts[q - 1] for q in (5, 25, 75, 95)},
    }
    assert len({*expected.values()}) > 5  # else keys could be swapped unseen
    for name, value in expected.items():
        assert found[f"calibre_{name}_px"] == pytest.approx(value), name


CORNER = drawn((60, 10, 40, 30), (40, 30, 60, 50))  # arc 40 sqrt(2), chord 40
STRAIGHT = drawn((5, 5, 5, 75))  # arc 70


@pytest.mark.parametrize(
    ("mask", "tortuosity", "segments"),
    [
        (STRAIGHT, 1, 1),
        (drawn((10, 10, 70, 70)), 1, 1),
        (CORNER, math.sqrt(2), 1),
        (CORNER | STRAIGHT, (70 + 80) / (70 + 40 * math.sqrt(2)), 2),
        (CROSS, 1, 4),
        (drawn((5, 5, 5, 15)), 1, 1),
        (drawn((5, 5, 5, 14)), None, 0),
        (CORNER | drawn((5, 5, 5, 14)), math.sqrt(2), 1),
        (RING, None, 0),
    ],
)
def test_tortuosity_is_arc_over_chord_weighted_by_arc(mask, tortuosity, segments):
    found = measure_vessels(mask)
    assert found["tortuosity"] == pytest.approx(tortuosity)
    assert found["tortuosity_segments"] == segments


def test_a_half_circle_winds_by_half_of_pi_but_for_the_steps():
    half = np.zeros_like(RING)
    half[circle_perimeter(40, 40, 30)] = True
    half[41:] = False
    found = measure_vessels(half)
    assert 1 < found["tortuosity"] / (math.pi / 2) < 1.0824


def test_a_loop_that_returns_to_its_branch_point_has_no_tortuosity():
    tail = thick(drawn((40, 60, 40, 78)))
    found = measure_vessels(RING | tail)
    assert (found["branch_points"], found["end_points"]) == (1, 1)
    assert found["tortuosity"] == pytest.approx(1, abs=0.03)
    assert found["tortuosity_segments"] == 1


def test_a_loop_that_returns_beside_where_it_began_has_no_tortuosity():
    """Its two ends are different pixels of one branch point, 1.4 pixels apart."""
    mask = np.zeros((60, 60), np.uint8)
    cv2.circle(mask, (20, 27), 12, 1, 2)
    cv2.line(mask, (24, 30), (36, 50), 1, 2)
    assert measure_vessels(mask)["tortuosity"] == pytest.approx(1.07, abs=0.01)


def test_a_pixel_of_its_own_is_no_end():
    found = measure_vessels(drawn((10, 10, 10, 40), (60, 60, 60, 60)))
    assert (found["end_points"], found["skeleton_length_px"]) == (2, 30)


def carpet(order):
    """Returns Sierpinski's carpet, 3**order pixels a side."""
    mask, hole = np.ones((1, 1), bool), np.ones((3, 3), bool)
    hole[1, 1] = False
    for _ in range(order):
        mask = np.kron(mask, hole)
    return mask


@pytest.mark.parametrize(
    ("mask", "dimension"),
    [
        (np.ones((1, 512), bool), 1),
        (np.eye(256, dtype=bool), 1),
        (np.ones((256, 256), bool), 2),
    ],
)
def test_lines_are_of_dimension_one_and_squares_of_two(mask, dimension):
    assert box_dimension(mask) == pytest.approx(dimension)


def test_sierpinskis_carpet():
    exact = math.log(8) / math.log(3)  # 1.8928
    assert box_dimension(carpet(5), [1, 3, 9, 27, 81]) == pytest.approx(exact)
    # Boxes of powers of two do not fit it.
    assert box_dimension(carpet(6)) == pytest.approx(exact, abs=0.03)


def test_a_shift_or_a_margin_changes_no_dimension():
    vessels = synthetic_fundus(0).vessels > 0
    moved = np.pad(vessels, ((3, 40), (17, 1)))
    assert box_dimension(moved) == box_dimension(vessels)


def test_too_small_a_shape_has_no_dimension():
    assert box_dimension(np.ones((31, 31), bool)) is None
    assert box_dimension(np.ones((32, 3), bool)) is not None


def test_both_dimensions_are_those_of_what_they_name():
    found = measure_vessels(np.ones((64, 64), bool) & (abs(np.arange(64) - 30) < 20))
    assert found["fractal_dimension"] > 1.8
    mask = bar(9, length=70)
    found = measure_vessels(mask)
    skeleton = skeletonize(mask, method="lee") > 0
    assert found["fractal_dimension"] == box_dimension(mask)
    assert found["fractal_dimension_skeleton"] == box_dimension(skeleton)
    assert found["fractal_dimension"] > found["fractal_dimension_skeleton"]


def test_what_lies_outside_the_fov_changes_nothing():
    sample = synthetic_fundus(1)
    fov = sample.fov > 0
    noise = np.random.default_rng(0).random(fov.shape) < 0.5
    inside = measure_vessels(sample.vessels, fov)
    assert measure_vessels(np.where(fov, sample.vessels, noise), fov) == inside
    assert inside["fov_pixels"] == fov.sum()
    assert inside["vessel_density"] == (sample.vessels[fov] > 0).mean()


def test_density_is_of_the_frame_without_a_fov():
    mask = np.zeros((10, 20), bool)
    mask[2:4, 3:13] = True
    assert measure_vessels(mask)["vessel_density"] == 0.1
    assert measure_vessels(mask)["fov_pixels"] == 200


def test_any_binary_array_will_do():
    mask = CROSS
    expected = measure_vessels(mask)
    for same in (mask.astype(np.uint8) * 255, mask.astype(float), mask.tolist()):
        assert measure_vessels(same) == expected


NOTHING = np.zeros((40, 40), bool)
DOT = drawn((0, 39, 0, 39), side=40)


@pytest.mark.parametrize(
    ("mask", "fov", "density", "undefined"),
    [
        (NOTHING, None, 0, UNDEFINED_WITHOUT_VESSELS),
        (NOTHING, NOTHING, None, [*UNDEFINED_WITHOUT_VESSELS, "vessel_density"]),
        (DOT, ~DOT, 0, UNDEFINED_WITHOUT_VESSELS),
        (DOT, NOTHING, None, [*UNDEFINED_WITHOUT_VESSELS, "vessel_density"]),
    ],
)
def test_without_vessels_what_is_undefined_is_none(mask, fov, density, undefined):
    found = measure_vessels(mask, fov)
    assert list(found) == KEYS
    assert found["vessel_density"] == density
    without = {key for key in KEYS if found[key] is None}
    assert without - {k for k in KEYS if k.endswith("_um")} == {
        key for key in undefined if not key.endswith("_um")
    }
    assert found["skeleton_length_px"] == 0
    assert found["branch_points"] == found["end_points"] == 0


def test_one_pixel_is_a_vessel_of_calibre_one_and_no_length():
    found = measure_vessels(drawn((20, 20, 20, 20)))
    assert found["vessel_pixels"] == 1
    assert found["calibre_mean_px"] == found["calibre_p95_px"] == 1
    assert (found["skeleton_length_px"], found["end_points"]) == (0, 0)
    assert found["tortuosity"] is found["fractal_dimension"] is None


def test_calibre_is_undefined_where_all_is_vessel():
    found = measure_vessels(~NOTHING)
    assert found["vessel_density"] == 1
    assert found["calibre_mean_px"] is None
    assert found["fractal_dimension"] == pytest.approx(2, abs=0.05)


def test_micrometres_are_pixels_times_the_scale():
    found = measure_vessels(CROSS, micrometres_per_pixel=7)
    lengths = [key for key in KEYS if key.endswith("_um")]
    assert len(lengths) == 8
    for key in lengths:
        assert found[key] == 7 * found[key.replace("_um", "_px")]
    assert found["micrometres_per_pixel"] == 7
    without = measure_vessels(CROSS)
    assert {without[key] for key in lengths} == {None}
    for key in set(KEYS) - {*lengths, "micrometres_per_pixel"}:
        assert without[key] == found[key]


def test_the_result_is_plain_json():
    for mask in (CROSS, NOTHING):
        found = measure_vessels(mask)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert {type(value) for value in found.values()} <= {int, float, type(None)}


@pytest.mark.parametrize(
    ("mask", "fov", "scale", "message"),
    [
        (np.zeros((4, 4, 3)), None, None, r"shape \(4, 4, 3\)"),
        (np.zeros((0, 4)), None, None, r"shape \(0, 4\)"),
        ([[0, 1, 2]], None, None, "more than two values"),
        ([[0.0, np.nan]], None, None, "more than two values"),
        ([[0, -1]], None, None, "more than two values"),
        (NOTHING, np.ones((40, 41)), None, "40x40 and the FOV 41x40"),
        (NOTHING, None, 0, "0 micrometres per pixel"),
        (NOTHING, None, -2.0, "-2.0 micrometres"),
        (NOTHING, None, math.nan, "nan micrometres"),
        (NOTHING, None, math.inf, "inf micrometres"),
    ],
)
def test_bad_input_ends_with_one_line(mask, fov, scale, message):
    with pytest.raises(InputError, match=message) as error:
        measure_vessels(mask, fov, micrometres_per_pixel=scale)
    assert "\n" not in str(error.value)


def test_without_skan_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "skan", None)
    save(tmp_path / "a_mask.png", CROSS)
    with pytest.raises(InputError, match=r"pip install 'saunet\[measures\]'"):
        measure_vessels(CROSS)
    # Said at once, not of each file.
    with pytest.raises(InputError, match=r"^this needs the package skan"):
        measure_files([tmp_path], tmp_path / "m.csv")


# Files.


def save(path, mask):
    path.parent.mkdir(exist_ok=True)
    write_png(path, mask.astype(np.uint8) * 255)


@pytest.fixture
def folder(tmp_path):
    """What `saunet predict` writes for two photographs, and their FOVs."""
    for stem, mask in (("01_test", CROSS), ("02_test", thick(WYE))):
        save(tmp_path / "maps" / f"{stem}_mask.png", mask)
        save(tmp_path / "maps" / f"{stem}_prob.png", NOTHING)
        save(tmp_path / "fov" / f"{stem}_mask.png", COLUMNS <= 0)
    return tmp_path


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(capsys, *argv):
    status = cli.main(["measure", *map(str, argv)])
    return status, *capsys.readouterr()


def test_a_folder_becomes_a_table(capsys, folder):
    out = folder / "m.csv"
    status, said, complaint = run(capsys, folder / "maps", "--out", out, "--scale", 5)
    assert (status, said, complaint) == (0, f"2 masks measured into {out}\n", "")
    rows = read_rows(out)
    assert list(rows[0]) == ["file", *KEYS]
    for row, mask in zip(rows, (CROSS, thick(WYE)), strict=True):
        expected = measure_vessels(mask, micrometres_per_pixel=5)
        assert {key: float(row[key]) for key in KEYS} == expected
    assert rows[1]["file"] == str(folder / "maps" / "02_test_mask.png")


def test_json_is_printed_and_says_the_same(capsys, folder):
    out = folder / "m.csv"
    status, said, _ = run(capsys, folder / "maps", "--out", out, "--json")
    result = json.loads(said)
    assert (status, result["skipped"]) == (0, {})
    rows = read_rows(out)
    for row, image in zip(rows, result["images"], strict=True):
        # None is an empty cell.
        assert row == {k: "" if v is None else str(v) for k, v in image.items()}


def test_each_mask_is_measured_in_its_own_fov(capsys, folder):
    save(folder / "fov" / "02_test_mask.png", ROWS <= 0)
    args = (folder / "maps", "--fov", folder / "fov", "--out", folder / "m.csv")
    assert run(capsys, *args)[0] == 0
    first, second = read_rows(folder / "m.csv")
    assert (
        int(first["end_points"]) == measure_vessels(CROSS, COLUMNS <= 0)["end_points"]
    )
    expected = measure_vessels(thick(WYE), ROWS <= 0)["skeleton_length_px"]
    assert float(second["skeleton_length_px"]) == expected


def test_the_same_names_in_two_folders_share_the_fovs(folder):
    save(folder / "others" / "01_test_mask.png", WYE)
    inputs = [folder / "maps", folder / "others"]
    result = measure_files(inputs, folder / "m.csv", folder / "fov")
    assert len(result["images"]) == 3


def test_a_tree_is_measured_folder_by_folder(folder):
    for name in ("maps", "fov"):
        (folder / name / "left").mkdir()
        (folder / name / "left" / "deep").mkdir()
    for place, mask in (("left", WYE), ("left/deep", CROSS)):
        save(folder / "maps" / place / "01_test_mask.png", mask)
        save(folder / "maps" / place / "01_test_prob.png", NOTHING)
        save(folder / "fov" / place / "01.png", ROWS <= 0)
    result = measure_files([folder / "maps"], folder / "m.csv", folder / "fov")
    rows = {row.pop("file"): row for row in result["images"]}
    assert len(rows) == 4
    for place, expected in (
        (".", measure_vessels(CROSS, COLUMNS <= 0)),
        ("left", measure_vessels(WYE, ROWS <= 0)),
        ("left/deep", measure_vessels(CROSS, ROWS <= 0)),
    ):
        assert rows[str(folder / "maps" / place / "01_test_mask.png")] == expected
    (folder / "fov" / "left" / "deep" / "01.png").unlink()
    with pytest.raises(InputError, match="left/deep: holds no picture"):
        measure_files([folder / "maps"], folder / "m.csv", folder / "fov")


def test_a_mask_asked_for_by_name_is_measured_in_its_fov(folder):
    mask = folder / "maps" / "01_test_mask.png"
    result = measure_files([mask], folder / "m.csv", folder / "fov")
    expected = measure_vessels(CROSS, COLUMNS <= 0)
    assert result["images"] == [{"file": str(mask), **expected}]


def test_a_mask_of_one_negative_value_is_none():
    with pytest.raises(InputError, match="expected 0 and one other"):
        measure_vessels(np.full((40, 40), -1))


def test_a_mask_too_large_for_the_memory_is_left_out(folder, monkeypatch):
    whole, calls = measures.measure_vessels, []

    def measure(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return whole(*args, **options)

    monkeypatch.setattr(measures, "measure_vessels", measure)
    save(folder / "maps" / "02_test_mask.png", CROSS)
    result = measure_files([folder / "maps"], folder / "out.csv")
    assert len(result["images"]) == len(calls) - 1 > 0
    (reason,) = result["skipped"].values()
    assert reason.endswith("too large for the memory")


def test_pictures_that_are_not_named_mask_are_read_where_none_is(folder):
    assert len(find_masks([folder / "maps"])) == 2
    save(folder / "labels" / "01_manual1.png", CROSS)
    label = folder / "labels" / "01_manual1.png"
    assert list(find_masks([folder / "labels"])) == [label]
    one = folder / "maps" / "01_test_prob.png"
    assert list(find_masks([one, one])) == [one]


def test_what_cannot_be_read_is_skipped_and_listed(capsys, folder):
    broken = folder / "maps" / "03_test_mask.png"
    broken.write_bytes(b"no picture")
    gray = np.tile(np.arange(80, dtype=np.uint8), (80, 1)) + 60
    write_png(folder / "maps" / "04_test_mask.png", gray)
    out = folder / "m.csv"
    status, said, complaint = run(capsys, folder / "maps", "--out", out)
    assert (status, said) == (0, f"2 masks measured into {out}\n")
    assert len(complaint.splitlines()) == 2
    assert "03_test_mask.png" in complaint
    assert "04_test_mask.png" in complaint
    # Named by the user it is an error, the others are measured all the same.
    assert run(capsys, broken, folder / "maps", "--out", out)[0] == 2
    assert len(read_rows(out)) == 2


def test_a_map_of_probabilities_is_no_mask(folder):
    """`maps/*.png` names both; cut at one half it would be a second row."""
    mask, prob = (folder / "maps" / f"01_test_{kind}.png" for kind in ("mask", "prob"))
    prob.write_bytes(mask.read_bytes())
    result = measures.measure_files([mask, prob], folder / "out.csv")
    assert [row["file"] for row in result["images"]] == [str(mask)]
    (reason,) = result["skipped"].values()
    assert f"expected a mask: give {mask.name}" in reason


def test_a_fov_of_another_size_is_skipped(folder):
    save(folder / "fov" / "01_test_mask.png", np.ones_like(NOTHING))
    result = measure_files([folder / "maps"], folder / "m.csv", folder / "fov")
    (reason,) = result["skipped"].values()
    assert re.search(r"01_test_mask.png: .*81x81 and the FOV 40x40", reason)


def test_a_name_of_any_bytes_is_written_as_it_is(capsys, folder):
    name = b"maps/03_\xff_mask.png"
    save(folder / os.fsdecode(name), WYE)
    status, said, _ = run(capsys, folder / "maps", "--out", folder / "m.csv", "--json")
    assert status == 0
    assert len(json.loads(said)["images"]) == 3
    assert os.fsencode(folder) + b"/" + name in (folder / "m.csv").read_bytes()


def test_a_folder_that_cannot_be_written_to_is_said_at_once(monkeypatch, folder):
    def refused(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(images.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(measures, "measure_vessels", None)
    with pytest.raises(InputError, match=f"cannot write to {folder}: Read-only"):
        measure_files([folder / "maps"], folder / "m.csv")


def test_a_bar_shows_how_far_it_is(capsys, monkeypatch, folder):
    monkeypatch.setattr(cli, "_show_progress", lambda args: not args.quiet)
    words = (folder / "maps", "--out", folder / "m.csv")
    assert "measuring" in run(capsys, *words)[2]
    assert run(capsys, *words, "--quiet") == (0, "", "")


def test_processes_side_by_side_measure_the_same(monkeypatch, folder):
    masks = (CROSS, WYE, thick(CROSS), thick(WYE))
    for number in range(3, 53):
        save(folder / "maps" / f"{number:02}_test_mask.png", masks[number % 4])
    (folder / "maps" / "07_test_mask.png").write_bytes(b"no picture")
    inputs, alone, together = [folder / "maps"], folder / "a.csv", folder / "b.csv"
    expected = measure_files(inputs, alone)
    assert len(expected["images"]) == 51
    starts, real = [], measures.ProcessPoolExecutor
    monkeypatch.setattr(
        measures,
        "ProcessPoolExecutor",
        lambda workers, *args, **options: (
            starts.append(workers) or real(workers, *args, **options)
        ),
    )
    assert measure_files(inputs, together, workers=8) == expected
    assert starts == [2]  # one for 25 masks
    assert together.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (measures.BrokenProcessPool("abruptly"), "want of memory: measure with fewer"),
        (OSError(errno.EAGAIN, "Try again"), r"2 processes cannot .* \(Try again\)"),
    ],
)
def test_a_process_that_dies_is_one_line(monkeypatch, folder, error, message):
    def die(*args):
        raise error

    for number in range(3, 53):
        save(folder / "maps" / f"{number:02}_test_mask.png", WYE)
    monkeypatch.setattr(measures.ProcessPoolExecutor, "map", die)
    with pytest.raises(InputError, match=message):
        measure_files([folder / "maps"], folder / "m.csv", workers=2)


def test_a_name_of_two_lines_is_one_row(folder, tmp_path):
    name = folder / "maps" / "a\rb_mask.png"
    save(name, WYE)
    measure_files([folder / "maps"], tmp_path / "m.csv")
    assert str(name) in [row["file"] for row in read_rows(tmp_path / "m.csv")]


@pytest.fixture
def killed(monkeypatch, folder):
    """The file that a run leaves which is killed at the second of two masks."""
    part = folder / "m.csv.part"

    def second_time(*args, **options):
        if part.stat().st_size:
            raise KeyboardInterrupt
        return measure_vessels(*args, **options)

    (folder / "m.csv").write_text("file,fov_pixels\nold")
    with monkeypatch.context() as patch:
        patch.setattr(measures, "measure_vessels", second_time)
        with pytest.raises(KeyboardInterrupt):
            measure_files([folder / "maps"], folder / "m.csv")
    assert (folder / "m.csv").read_text() == "file,fov_pixels\nold"
    return part


@pytest.fixture
def measured(monkeypatch):
    """The list of masks that are measured from now on."""
    read, names = measures._read_mask, []

    def noted(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(measures, "_read_mask", noted)
    return names


def test_a_run_that_was_killed_goes_on(folder, killed, measured):
    rows = killed.read_bytes()
    killed.write_bytes(rows + rows[:99])  # half a row
    result = measure_files([folder / "maps"], folder / "m.csv")
    assert measured == ["02_test_mask.png"]
    assert not killed.exists()
    # Whatever was read back, it is what one run at a stretch gives.
    table = (folder / "m.csv").read_bytes()
    whole = measure_files([folder / "maps"], folder / "whole.csv")
    assert result == whole
    assert table == (folder / "whole.csv").read_bytes()


def test_what_changed_since_a_run_was_killed_is_measured_again(
    folder, killed, measured
):
    save(folder / "maps" / "01_test_mask.png", WYE)
    measure_files([folder / "maps"], folder / "m.csv")
    assert measured == ["01_test_mask.png", "02_test_mask.png"]


@pytest.mark.parametrize("option", ["scale", "fov"])
def test_with_other_settings_a_killed_run_begins_anew(folder, killed, measured, option):
    given = {"scale": {"micrometres_per_pixel": 4.0}, "fov": {"fov": folder / "fov"}}
    measure_files([folder / "maps"], folder / "m.csv", **given[option])
    assert measured == ["01_test_mask.png", "02_test_mask.png"]


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n",
        "[1, 2, 3]\n",
        "7\n",
        "\xff\n",
        "half a download",
        '{"a": 1, "b": 2}\n',
    ],
)
def test_another_programs_part_is_left_alone(folder, content):
    part = folder / "m.csv.part"
    part.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="move it away"):
        measure_files([folder / "maps"], folder / "m.csv")
    assert part.read_text(encoding="latin-1") == content


def test_a_full_disk_is_one_line(capsys, monkeypatch, folder):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images.os, "replace", full)
    status, _, complaint = run(capsys, folder / "maps", "--out", folder / "m.csv")
    assert status == 2
    assert complaint.count("\n") == 1
    assert "cannot be written (No space left on device)" in complaint


def test_another_table_is_not_overwritten(capsys, folder):
    out = folder / "maps" / "manifest.csv"
    out.write_text("result,photograph\na,b\n")
    status, _, complaint = run(capsys, folder / "maps", "--out", out)
    assert status == 2
    assert "holds something else than measures" in complaint
    assert out.read_text() == "result,photograph\na,b\n"
    # An own one of before is replaced, also one that a spreadsheet has saved.
    out = folder / "m.csv"
    assert run(capsys, folder / "maps", "--out", out)[0] == 0
    text = out.read_text()
    for other in (text, "\ufeff" + text.replace(",", ";"), '"file","fov_pixels"\n'):
        out.write_text(other, encoding="utf-8")
        assert run(capsys, folder / "maps", "--out", out)[0] == 0
        assert out.read_text() == text
    out.write_text("file,\na,b\n")
    assert run(capsys, folder / "maps", "--out", out)[0] == 2


@pytest.mark.parametrize("mask", ["maps", "maps/01_test_mask.png"])
def test_masks_of_no_run_by_a_relative_path(capsys, monkeypatch, folder, mask):
    monkeypatch.chdir(folder)
    assert run(capsys, mask, "--out", "m.csv")[0] == 0
    first, *_ = read_rows(Path("m.csv"))
    assert Path(first["file"]).parent.name == "maps"


@pytest.fixture
def predicted(tmp_path):
    """Photographs, and a function that segments them by a network that sees green."""
    photograph = np.zeros((40, 40, 3), np.uint8)
    photograph[18:22, :, 1] = 200
    for name in ("a", "b", "sub/c"):
        path = tmp_path / "photographs" / f"{name}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        write_png(path, photograph)

    def predict(**options):
        network = Segmenter(
            None, name="green", engine=lambda x: x[..., 1:2], digest="1"
        )
        return predict_files(
            network, [tmp_path / "photographs"], tmp_path / "out", **options
        )

    return predict


def test_masks_that_are_not_of_one_run_are_told(capsys, tmp_path, predicted):
    predicted()
    words = (tmp_path / "out", "--out", tmp_path / "m.csv")
    assert run(capsys, *words)[2] == ""
    (tmp_path / "photographs" / "sub" / "c.png").write_bytes(b"damaged")
    predicted()
    _, _, complaint = run(capsys, *words)
    (line,) = complaint.splitlines()
    assert "1 of 3 masks are of an earlier run" in line
    assert line.endswith("stopped: sub/c_mask.png")
    # Also of a folder below.
    assert "1 of 1 masks" in run(capsys, tmp_path / "out" / "sub", *words[1:])[2]
    predicted(threshold=0.3)
    result = measure_files([tmp_path / "out"], tmp_path / "m.csv")
    assert len(result["warnings"]) == 2
    assert "made with 2 different settings" in result["warnings"][1]
    # One that failed and has no result: what lies there is drawn by hand.
    (tmp_path / "photographs" / "new.png").write_bytes(b"damaged")
    predicted(threshold=0.3)
    drawn = tmp_path / "out" / "new_mask.png"
    drawn.write_bytes((tmp_path / "out" / "a_mask.png").read_bytes())
    assert measure_files([drawn], tmp_path / "m.csv")["warnings"] == []


def test_nothing_measured_leaves_the_old_table(capsys, folder):
    (folder / "bad").mkdir()
    for name in "ab":
        (folder / "bad" / f"{name}_mask.png").write_bytes(b"no picture")
    out = folder / "m.csv"
    out.write_text("file,fov_pixels\nold")
    status, _, complaint = run(capsys, folder / "bad", "--out", out)
    assert status == 2
    assert "(and 1 more like it)" in complaint
    assert len(complaint.splitlines()) == 1
    assert out.read_text() == "file,fov_pixels\nold"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["maps", "--out", "maps/01_test_mask.png"], "ending in .csv"),
        (["maps", "--out", "nowhere/m.csv"], "folder that exists"),
        (["maps", "--out", "m.csv", "--scale", "0"], "expected a positive number"),
        (["maps", "--out", "m.csv", "--scale", "x"], "invalid float"),
        (["absent", "--out", "m.csv"], "no such file or folder"),
        (["maps", "--out", "m.csv", "--fov", "absent"], "no such folder"),
        (["maps", "fov", "--out", "m.csv", "--fov", "one"], "has no partner"),
        (["empty", "--out", "m.csv"], "holds no picture"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    capsys, monkeypatch, folder, words, message
):
    (folder / "empty").mkdir()
    save(folder / "one" / "01_test.png", NOTHING)
    monkeypatch.chdir(folder)
    before = read_mask("maps/01_test_mask.png")
    status, said, complaint = run(capsys, *words)
    assert (status, said) == (2, "")
    assert message in complaint
    assert len(complaint.splitlines()) == 1
    assert not Path("m.csv").exists()
    assert (read_mask("maps/01_test_mask.png") == before).all()


@pytest.mark.data
def test_drives_density_is_that_of_its_labels(shared, tmp_path):
    test = shared("data") / "DRIVE" / "test"
    result = measure_files([test / "1st_manual"], tmp_path / "m.csv", test / "mask")
    rows = result["images"]
    assert len(rows) == 20
    assert sum(row["vessel_pixels"] for row in rows) == 577_649
    assert sum(row["fov_pixels"] for row in rows) == 4_538_143
    for row in rows:
        assert 2 < row["calibre_mean_px"] < 4
        assert 1.05 < row["tortuosity"] < 1.25


# The documentation.


def test_the_documentation_has_a_row_for_every_key():
    text = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in text.splitlines() if row.startswith("|")]
    documented = " ".join(row[2] for row in rows if len(row) > 4)
    assert re.findall(r"`(\w+)`", documented) == KEYS


def test_fields_of_view_without_a_mask_in_their_names(folder):
    for name, mask in (("pat", CROSS), ("pat_2", WYE)):
        save(folder / "m" / f"{name}_mask.png", mask)
        save(folder / "f" / f"{name}.png", ROWS > -99)
    result = measure_files([folder / "m"], folder / "m.csv", folder / "f")
    assert result["skipped"] == {}
    assert len(result["images"]) == 2


def test_a_picture_beside_the_tree_hides_no_mask(folder):
    save(folder / "t" / "stray.png", WYE)
    save(folder / "t" / "left" / "x_mask.png", CROSS)
    result = measure_files([folder / "t"], folder / "m.csv")
    assert [Path(row["file"]).name for row in result["images"]] == ["x_mask.png"]
