import itertools
import json
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from saunet import evaluation
from saunet.data import images, pairing
from saunet.data.datasets import Sample, load_dataset
from saunet.data.folder import check_folder
from saunet.data.images import write_png
from saunet.data.pairing import pair_files
from saunet.errors import InputError
from saunet.evaluation import (
    POOLINGS,
    REGIONS,
    SCORES,
    evaluate,
    read_probability,
    score_folders,
    summarise,
    summarise_all,
    to_json,
)
from saunet.metrics import METRICS, Counts, pr_auc, roc_auc

KEYS = (
    *("region", "pooling", "threshold", "images", "sensitivity", "specificity"),
    *("accuracy", "precision", "f1", "jaccard", "mcc", "auc", "pr_auc", "cldice"),
    "per_image",
)


def make(seed, vessels=0.3):
    """Returns (name, probability, truth, fov); images differ in size and quality."""
    rng = np.random.default_rng(seed)
    shape = (50 + 4 * seed, 60)
    blurred = cv2.GaussianBlur(rng.random(shape), (0, 0), 2)
    truth = (blurred > np.quantile(blurred, 1 - vessels)).astype(np.uint8)
    probability = np.clip(0.4 * truth + (0.5 + 0.2 * seed) * rng.random(shape), 0, 1)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    fov = np.hypot(rows - shape[0] / 2, columns - 30) < 20 + 2 * seed
    # Quantised as a file would be, so that folders and arrays agree exactly.
    probability = np.round(probability * 255).astype(np.uint8)
    return (f"{seed:02d}", probability / np.float32(255), truth, fov.astype(np.uint8))


ITEMS = [make(seed) for seed in range(3)]


def sample(name, truth, fov):
    image = np.zeros((*fov.shape, 3), np.uint8)
    return Sample(name, image, truth, fov, "official")


def chosen(item, region):
    _, probability, truth, fov = item
    inside = fov > 0 if region == "fov" else np.ones(fov.shape, bool)
    return probability[inside], truth[inside] > 0


def counts_of(probability, truth):
    guess = probability > 0.5
    return Counts(
        int((guess & truth).sum()),
        int((guess & ~truth).sum()),
        int((~guess & truth).sum()),
        int((~guess & ~truth).sum()),
    )


def scores_of(probability, truth):
    counts = counts_of(probability, truth)
    return {
        **{name: metric(counts) for name, metric in METRICS.items()},
        "auc": roc_auc(probability, truth),
        "pr_auc": pr_auc(probability, truth),
    }


@pytest.mark.parametrize("region", REGIONS)
def test_pooled_is_one_count_over_all_pixels(region):
    result = summarise(ITEMS, region=region, pooling="pooled")
    parts = [chosen(item, region) for item in ITEMS]
    probability, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    expected = scores_of(probability, truth)
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("region", REGIONS)
def test_mean_is_the_mean_of_each_metric(region):
    result = summarise(ITEMS, region=region, pooling="mean")
    rows = [scores_of(*chosen(item, region)) for item in ITEMS]
    expected = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert result["cldice"] == pytest.approx(
        np.mean([row["cldice"] for row in result["per_image"]])
    )


def test_the_four_protocols_differ():
    results = [
        summarise(ITEMS, region=region, pooling=pooling)
        for region, pooling in itertools.product(REGIONS, POOLINGS)
    ]
    for key in SCORES:
        assert len({round(result[key], 9) for result in results}) == 4, key


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rows_are_kept_whatever_the_pooling(pooling):
    result = summarise(ITEMS, region="fov", pooling=pooling)
    assert tuple(result) == KEYS
    assert result["images"] == 3
    for item, row in zip(ITEMS, result["per_image"], strict=True):
        probability, truth = chosen(item, "fov")
        counts = counts_of(probability, truth)
        assert row["name"] == item[0]
        assert row["pixels"] == truth.size
        assert Counts(row["tp"], row["fp"], row["fn"], row["tn"]) == counts
        assert row["f1"] == METRICS["f1"](counts)


@pytest.mark.parametrize("most", [0, 5000, 10**9])
def test_many_pixels_are_pooled_by_levels(monkeypatch, most):
    """Maps of 8 and 16 bits lose nothing by it."""
    monkeypatch.setattr(evaluation, "EXACT_PIXELS", most)
    result = summarise(ITEMS, region="frame", pooling="pooled")
    pixels = [np.concatenate([np.ravel(i[k]) for i in ITEMS]) for k in (1, 2)]
    assert result["auc"] == pytest.approx(roc_auc(*pixels), abs=1e-12)
    assert result["pr_auc"] == pytest.approx(pr_auc(*pixels), abs=1e-12)
    black = [(n, p, np.zeros_like(t), f) for n, p, t, f in ITEMS]
    assert math.isnan(summarise(black, region="frame", pooling="pooled")["auc"])


def test_a_map_in_colours_is_none_whatever_its_name(tmp_path):
    heat = cv2.applyColorMap(np.arange(2000, dtype=np.uint8).reshape(40, 50), 2)
    write_png(tmp_path / "1_prob.png", heat)
    with pytest.raises(InputError, match="a colour picture, expected a grey"):
        evaluation.read_map(tmp_path / "1_prob.png")


def test_pooled_cldice_adds_skeleton_pixels():
    line = np.zeros((40, 40), np.uint8)
    line[10, 5:35] = 1  # 30 skeleton pixels, all found
    short = np.zeros((40, 40), np.uint8)
    short[10, 5:15] = 1  # 10 skeleton pixels, none found
    wrong = np.zeros((40, 40), np.uint8)
    wrong[30, 5:35] = 1
    items = [("1", line * 1.0, line, None), ("2", wrong * 1.0, short, None)]
    pooled = summarise(items, region="frame", pooling="pooled")["cldice"]
    mean = summarise(items, region="frame", pooling="mean")["cldice"]
    assert mean == 0.5  # 1 and 0
    assert pooled == pytest.approx(2 * (30 / 60) * (30 / 40) / (30 / 60 + 30 / 40))


def test_outside_the_field_nothing_counts():
    name, probability, truth, fov = ITEMS[0]
    outside = fov == 0
    other = [
        (name, np.where(outside, 1, probability), np.where(outside, 0, truth), fov)
    ]
    for pooling in POOLINGS:
        ours = summarise(ITEMS[:1], region="fov", pooling=pooling)
        assert summarise(other, region="fov", pooling=pooling) == ours


def test_a_probability_at_the_threshold_is_no_vessel():
    probability = np.array([[0.3, 0.3, 0.31, 0.29]], np.float32)
    truth = np.array([[1, 0, 1, 0]], np.uint8)
    items = [("1", probability, truth, None)]
    row = summarise(items, region="frame", pooling="mean", threshold=0.3)
    assert row["per_image"][0]["tp"] == 1
    assert row["per_image"][0]["fn"] == 1
    assert row["threshold"] == 0.3


def test_undefined_is_null_in_json():
    empty = np.zeros((40, 40), np.uint8)
    items = [("1", empty * 1.0, empty, None), *[(*i[:3], None) for i in ITEMS]]
    mean = summarise(items, region="frame", pooling="mean")
    assert math.isnan(mean["sensitivity"])
    assert not math.isnan(mean["accuracy"])
    read = json.loads(to_json(mean))
    assert tuple(read) == KEYS
    assert read["sensitivity"] is None
    assert read["per_image"][0]["auc"] is None
    assert read["per_image"][1]["auc"] == mean["per_image"][1]["auc"]
    pooled = summarise(items, region="frame", pooling="pooled")
    assert not math.isnan(pooled["sensitivity"])


def test_evaluate_is_summarise_on_samples():
    samples = [sample(name, truth, fov) for name, _, truth, fov in ITEMS]
    maps = (item[1] for item in ITEMS)
    result = evaluate(maps, samples, region="fov", pooling="pooled")
    assert result == summarise(ITEMS, region="fov", pooling="pooled")


def test_all_protocols_are_each_of_the_four():
    results = summarise_all(lambda: ITEMS, threshold=0.3)
    assert list(results) == [(r, p) for r in REGIONS for p in ("pooled", "mean")]
    for (region, pooling), result in results.items():
        alone = summarise(ITEMS, region=region, pooling=pooling, threshold=0.3)
        assert list(result) == list(alone)
        assert result == alone
    assert list(summarise_all(lambda: ITEMS, regions=["frame"])) == list(results)[2:]


@pytest.mark.parametrize("kind", [bool, np.uint8, float])
@pytest.mark.parametrize("region", REGIONS)
def test_a_truth_of_any_type_is_binary(kind, region):
    items = [(name, *two, truth.astype(kind), fov) for name, *two, truth, fov in ITEMS]
    expected = summarise(ITEMS, region=region, pooling="pooled")
    assert summarise(items, region=region, pooling="pooled") == expected


def test_evaluate_says_that_drives_test_labels_are_withheld():
    samples = [sample("01", None, ITEMS[0][3])]
    with pytest.raises(InputError, match=r"01: DRIVE's test labels are not in today's"):
        evaluate([ITEMS[0][1]], samples, region="fov", pooling="mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region": "disc"}, "region 'disc' is unknown: use fov or frame"),
        ({"pooling": "median"}, "pooling 'median' is unknown: use pooled or mean"),
        ({"threshold": 128}, "threshold 128 is not a probability"),
        ({"threshold": math.nan}, "threshold nan is not a probability"),
        ({"items": []}, "nothing to score"),
        (
            {"items": [("7", np.zeros((5, 6)), np.zeros((5, 7)), None)]},
            "7: the prediction is 6x5 and the truth 7x5 pixels",
        ),
        (
            {
                "items": [("7", np.zeros((5, 6)), np.zeros((5, 6)), np.zeros((4, 6)))],
                "region": "fov",
            },
            "7: the prediction is 6x5 and the FOV 6x4 pixels",
        ),
        (
            {"items": [("7", np.full((5, 6), 255.0), np.zeros((5, 6)), None)]},
            "7: probabilities from 255.0 to 255.0, expected 0 to 1",
        ),
        (
            {"items": [("7", np.full((5, 6), np.nan), np.zeros((5, 6)), None)]},
            "7: probabilities from nan to nan, expected 0 to 1",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    arguments = {"items": ITEMS, "region": "frame", "pooling": "mean", **change}
    with pytest.raises(InputError, match=message):
        summarise(**arguments)


@pytest.fixture
def folders(tmp_path):
    """Returns three folders named as DRIVE names its files."""
    for name, probability, truth, fov in ITEMS:
        for folder, file, array in (
            ("maps", f"{name}_test.png", np.round(probability * 255)),
            ("truth", f"{name}_manual1.png", truth * 255),
            ("fov", f"{name}_test_mask.png", fov * 255),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_png(tmp_path / folder / file, array.astype(np.uint8))
    return tmp_path


def score(folder, region="fov", **options):
    fov = folder / "fov" if region == "fov" else None
    return score_folders(
        *(folder / "maps", folder / "truth", fov),
        **{"region": region, "pooling": "pooled", **options},
    )


def test_a_file_is_decoded_once(folders, monkeypatch):
    decoded, decode = Counter(), images._decode

    def counted(path, **options):
        decoded[path.relative_to(folders)] += 1
        return decode(path, **options)

    monkeypatch.setattr(images, "_decode", counted)
    score(folders)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 3 * len(ITEMS)


@pytest.mark.parametrize("region", REGIONS)
def test_folders_score_as_arrays_do(folders, region):
    (folders / "maps" / "notes.txt").write_text("not a picture")
    (folders / "maps" / ".hidden.png").write_text("not a picture")
    expected = summarise(ITEMS, region=region, pooling="pooled")
    assert score(folders, region) == expected


def test_predicted_folders_count_only_the_probabilities(folders):
    for path in list((folders / "maps").iterdir()):
        stem = path.stem
        path.rename(path.with_name(f"{stem}_prob.png"))
        write_png(path.with_name(f"{stem}_mask.png"), np.zeros((9, 9), np.uint8))
        write_png(path.with_name(f"{stem}_overlay.png"), np.zeros((9, 9, 3), np.uint8))
    expected = summarise(ITEMS, region="fov", pooling="mean")
    assert score(folders, pooling="mean") == expected


@pytest.fixture
def trees(folders):
    """The same three images as `saunet predict` writes trees: two named alike."""
    for folder in ("maps", "truth", "fov"):
        root = folders / folder
        for old, new in (("00", "b"), ("01", "left/a"), ("02", "right/a")):
            (path,) = root.glob(f"{old}_*.png")
            suffix = "_prob" if folder == "maps" else ""
            (root / new).parent.mkdir(exist_ok=True)
            path.rename(root / f"{new}{suffix}.png")
    return folders


@pytest.mark.parametrize("region", REGIONS)
def test_trees_score_as_flat_folders_do(trees, region):
    write_png(trees / "maps" / "left" / "a_mask.png", np.zeros((9, 9), np.uint8))
    expected = summarise(ITEMS, region=region, pooling="pooled")
    found = score(trees, region)
    rows = found.pop("per_image")
    assert [row["name"] for row in rows] == ["b", "left/a", "right/a"]
    for row, flat in zip(rows, expected.pop("per_image"), strict=True):
        assert {**row, "name": flat["name"]} == flat
    assert found == expected


def test_a_tree_of_another_method_is_scored_too(trees):
    for path in (trees / "maps").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_prob", "")))
    (trees / "maps" / "b.png").unlink()
    (trees / "truth" / "b.png").unlink()
    assert score(trees)["images"] == 2


def test_pictures_beside_a_flat_folder_stay_out(folders):
    for folder in ("maps", "truth"):
        (folders / folder / "old").mkdir()
        write_png(folders / folder / "old" / "9.png", np.zeros((9, 9), np.uint8))
    assert score(folders) == summarise(ITEMS, region="fov", pooling="pooled")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("truth/left/a.png", r"truth/left: holds no picture"),
        ("fov/right/a.png", r"fov/right: holds no picture"),
        ("maps/right/a_prob.png", r"truth: no prediction for right/a.png"),
        ("maps/b_prob.png", r"truth: no prediction for b.png"),
    ],
)
def test_an_unpaired_file_of_a_tree_is_named(trees, lost, message):
    (trees / lost).unlink()
    with pytest.raises(InputError, match=message):
        score(trees)


def test_the_field_of_view_has_to_be_given(folders):
    with pytest.raises(InputError, match="pass their folder with --fov"):
        score_folders(
            folders / "maps", folders / "truth", region="fov", pooling="pooled"
        )


def test_a_photograph_is_not_taken_for_a_label(folders):
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, ITEMS[1][2].shape, np.uint8)
    write_png(folders / "truth" / "01_manual1.png", photograph)
    with pytest.raises(InputError, match=r"01_manual1.png: .*expected a label"):
        score(folders)


def test_a_label_saved_as_jpeg_stays_binary(folders):
    path = folders / "truth" / "01_manual1.png"
    Image.open(path).save(path.with_suffix(".jpg"), quality=90)
    path.unlink()
    expected = summarise(ITEMS, region="fov", pooling="pooled")["f1"]
    assert score(folders)["f1"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("folder", "lost", "message"),
    [
        ("truth", "01_manual1.png", r"01_test.png has no partner in .*truth"),
        ("fov", "02_test_mask.png", r"02_test.png has no partner in .*fov"),
        ("maps", "00_test.png", r"truth: no prediction for 00_manual1.png"),
    ],
)
def test_an_unpaired_file_is_named(folders, folder, lost, message):
    (folders / folder / lost).unlink()
    with pytest.raises(InputError, match=message):
        score(folders)


def test_an_empty_or_missing_folder_is_named(folders):
    for path in (folders / "truth").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="truth: holds no picture"):
        score(folders)
    (folders / "truth").rmdir()
    with pytest.raises(InputError, match="truth: no such folder"):
        score(folders)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("01_test.png", "01_manual1.gif"),
        ("1.png", "01_manual1.gif"),
        ("21_training_prob.png", "21_manual1.gif"),
        ("Image_11L.png", "Image_11L_1stHO.png"),
        ("Image_11L_prob.png", "Image_11L_1stHO.png"),
        ("im0001.ppm", "im0001.ah.ppm.gz"),
        ("im0001_prob.png", "im0001.ah.ppm.gz"),
        ("left eye.png", "left eye.gif"),
        ("2024_03_a.png", "2024_03_a_label.png"),
        ("2024_03_a.png", "2024_03_7_b.png"),
        ("2024_03_7_a.png", "2024_03_b.png"),
        ("p2_visit1_a.png", "p2_visit01_b.png"),
        ("12_L_dx_prob.png", "12_L_fov.png"),
        ("12_R_la_img.png", "12_R_gt.png"),
        ("1_gt1.png", "1_gt2.png"),
        ("1_Rater2.png", "1_rater1.png"),
        ("M\u00fcller_1.png", "Mu\u0308ller_1.png"),
        ("Foto 1.JPG", "foto 1.png"),
    ],
)
def test_files_of_one_image_find_each_other(first, second):
    others = [Path(second), Path("02_other.png"), Path("Image_11R_1stHO.png")]
    others.append(Path("2024_04_b_label.png"))
    assert pair_files([Path(first)], others) == {Path(first): Path(second)}


def test_two_observers_are_of_one_image():
    first, second = Path("01_manual1.gif"), Path("01_manual2.gif")
    assert pair_files([second], [first]) == {second: first}
    first, second = Path("1_obs1.gif"), Path("1_Obs2.gif")
    assert pair_files([second], [first]) == {second: first}
    first, second = Path("1_02_a.gif"), Path("01_2_b.gif")
    assert pair_files([second], [first]) == {second: first}


def test_pairs_by_the_same_name_come_first():
    paths = [Path("01_dr.png"), Path("01_h.png"), Path("01_h_b.png")]
    others = [path.with_suffix(".tif") for path in paths]
    assert pair_files(paths, others) == dict(zip(paths, others, strict=True))


@pytest.mark.parametrize(
    ("paths", "others", "message"),
    [
        (["01.png"], ["01_a.gif", "01_b.gif"], "may be any of 01_a.gif, 01_b.gif"),
        (["01_a.png", "01_b.png"], ["01.gif"], "01_a.png, 01_b.png all belong to 01"),
        (["01.png"], ["011.gif"], "01.png has no partner"),
        (["11L.png"], ["11R_1stHO.png"], "11L.png has no partner"),
        (["12_L_prob.png"], ["12_R.png"], "but 12_R.png, of the other eye"),
        (["1_left.png"], ["1_right_manual.png"], "of the other eye"),
        (["1_OD.png"], ["1_OS.png", "1_os_b.png"], "of the other eye"),
        (["a.png"], ["ab.png"], "a.png has no partner"),
        (["p1_2019.png"], ["p1_2020.png"], "but p1_2020.png, .* by another number"),
        (["p1-2019.png"], ["p1-2020-label.png"], "or by another number"),
        (["p1_2019-03-01.png"], ["p1_2019-04-01.png"], "or by another number"),
        (["20190301_120000_01.png"], ["20190301_120000_02.png"], "another number"),
        (["1.2.840.113619.2.55.1.png"], ["1.2.840.113619.2.55.2.png"], "another num"),
        (["p2_visit1_mask.png"], ["p2_visit2.png"], "or by another number"),
        (["p2_V1.png"], ["p2_v2_label.png"], "or by another number"),
        (["p2_V1a.png"], ["p2_v2a_label.png"], "or by another number"),
        (["p1_s1_s2.png"], ["p1_s2_s2.png"], "or by another number"),
        (["p1_\u00e9tude2.png"], ["p1_\u00e9tude3.png"], "or by another number"),
        (["p1_20190301T1200.png"], ["p1_20200301T1200.png"], "by another number"),
        (["p2_visit1_a.png"], ["p2_h3.png"], "or by another number"),
        (["12_OI.png"], ["12_OD.png"], "of the other eye"),
        (["12_left_dx.png"], ["12_right_gt.png"], "of the other eye"),
        (["La_Paz_12_R_img.png"], ["La_Paz_12_L_gt.png"], "of the other eye"),
        (["12_OD.png"], ["12_OG.png"], "of the other eye"),
        (["4711_RA.png"], ["4711_LA.png"], "of the other eye"),
        (["Mu\u0308ller.png"], ["Mu.png"], "has no partner"),
    ],
)
def test_doubtful_pairs_are_refused(paths, others, message):
    with pytest.raises(InputError, match=message):
        pair_files([Path(path) for path in paths], [Path(other) for other in others])


def test_capitals_tell_names_apart_that_are_else_the_same():
    paths = [Path("aB3_img.png"), Path("Ab3_img.png")]
    others = [Path("aB3_gt.png"), Path("Ab3_gt.png")]
    assert pair_files(paths, others) == dict(zip(paths, others, strict=True))


def test_eyes_tell_files_of_one_number_apart():
    paths = [Path(f"12_{eye}.png") for eye in ("L", "R")]
    others = [Path(f"12_manual_{eye}.gif") for eye in ("L", "R")]
    assert pair_files(paths, others) == dict(zip(paths, others, strict=True))
    # Centred on the disc, "L": not the other eye of "OD".
    one, other = Path("12_OD_L.png"), Path("12_label_OD.png")
    assert pair_files([one], [other]) == {one: other}


def test_many_files_are_paired_by_looking_at_each_a_few_times(tmp_path, monkeypatch):
    """Of 3,000 names each was compared with all: minutes."""
    calls = []
    original = pairing.image_stem
    monkeypatch.setattr(
        pairing, "image_stem", lambda path: calls.append(path) or original(path)
    )
    paths = [Path(f"{i}_prob.png") for i in range(1000)]
    paths += [Path(f"eye{i}x_left.png") for i in range(1000)]
    paths += [Path(f"scan.{i}.png") for i in range(1000)]
    paths += [Path(f"cohort1_{i}_image.png") for i in range(500)]
    paths += [Path(f"cohort1_p{i}_image.png") for i in range(500)]
    others = [Path(f"{i:05}_manual1.gif") for i in range(1000)]
    others += [Path(f"eye{i}x.gif") for i in range(1000)]
    others += [Path(f"scan.{i}_1stHO.png") for i in range(1000)]
    others += [Path(f"cohort1_{i}_label.png") for i in range(500)]
    others += [Path(f"cohort1_p{i}_label.png") for i in range(500)]
    assert pair_files(paths, others) == dict(zip(paths, others, strict=True))
    assert len(calls) == 8_000
    for name in ("images", "vessels"):
        (tmp_path / name).mkdir()
        for i in range(50):
            (tmp_path / name / f"{i}.png").touch()
    calls.clear()
    assert len(check_folder(tmp_path)) == 50
    assert len(calls) == 100


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_probabilities_of_8_and_16_bits(tmp_path, dtype, full):
    levels = np.array([[0, 1, full // 2, full - 1, full]], dtype)
    write_png(tmp_path / "a.png", levels)
    read = read_probability(tmp_path / "a.png")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, levels / full, rtol=1e-6)
    assert (read.min(), read.max()) == (0, 1)


PUBLISHED = [
    ("lwnet", "fov", {"f1": 0.8273, "auc": 0.9810}),
    ("lwnet", "frame", {"f1": 0.8271, "auc": 0.9870}),
    ("second observer", "fov", {"f1": 0.7891}),
    ("second observer", "frame", {"f1": 0.7889}),
]


@pytest.mark.data
@pytest.mark.parametrize(("who", "region", "expected"), PUBLISHED)
def test_peers_on_drive_score_as_published(shared, who, region, expected):
    test = shared("data") / "DRIVE" / "test"
    maps = {
        "lwnet": shared("peer_predictions") / "lwnet_drive_test",
        "second observer": test / "2nd_manual",
    }
    result = score_folders(
        *(maps[who], test / "1st_manual", test / "mask" if region == "fov" else None),
        region=region,
        pooling="pooled",
    )
    assert {key: round(result[key], 4) for key in expected} == expected
    pixels = sum(row["pixels"] for row in result["per_image"])
    assert pixels == {"fov": 4_538_143, "frame": 6_599_200}[region]
    vessels = sum(row["tp"] + row["fn"] for row in result["per_image"])
    assert vessels == {"fov": 577_649, "frame": 577_945}[region]


@pytest.mark.data
@pytest.mark.parametrize(
    # CHASE_DB1: the eight test images. STARE: all twenty images, .vk against .ah.
    ("name", "split", "expected"),
    [("chase_db1", "test", 0.797), ("stare", "all", 0.742)],
)
def test_second_observers_score_as_published(shared, name, split, expected):
    samples = load_dataset(name, shared("data"), split)
    guesses = [s.second_observer.astype(np.float32) for s in samples]
    result = evaluate(guesses, samples, region="frame", pooling="pooled")
    assert round(result["f1"], 3) == expected


def test_a_map_of_zeros_and_ones_is_refused(tmp_path):
    write_png(tmp_path / "a.png", np.eye(40, dtype=np.uint8))
    with pytest.raises(InputError, match="holds only 0 and 1, of 255"):
        read_probability(tmp_path / "a.png")
    write_png(tmp_path / "b.png", np.eye(40, dtype=np.uint16))
    with pytest.raises(InputError, match="holds only 0 and 1, of 65535"):
        read_probability(tmp_path / "b.png")
    # `predict` writes so where 1.5e-5 was the largest.
    (tmp_path / "b.png").rename(tmp_path / "b_prob.png")
    assert read_probability(tmp_path / "b_prob.png").max() == np.float32(1 / 65535)
