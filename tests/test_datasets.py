import gzip

import cv2
import numpy as np
import pytest
from PIL import Image

from saunet.data.datasets import (
    DATASETS,
    check_dataset,
    find_fov,
    load_dataset,
    short_list,
    split_names,
)
from saunet.errors import InputError

EVERY = list(DATASETS)
LENGTHS = {"drive": (20, 20), "chase_db1": (20, 8), "stare": (16, 4)}


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        plain = path.with_suffix("")
        Image.fromarray(array).save(plain)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    else:
        Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Returns a folder that holds each dataset in its official layout, but small.

    The pixels tell their file, so that a swapped one is found out.
    """
    folder = tmp_path_factory.mktemp("data")
    for dataset in DATASETS.values():
        for index, name in enumerate(split_names(key_of(dataset), "all")):
            for kind, path in official_paths(dataset, folder, name).items():
                if kind == "image":
                    put(path, np.full((40, 48, 3), 3 * index, np.uint8))
                else:
                    put(path, label(kind, index))
    return folder


def key_of(dataset):
    return next(key for key in DATASETS if DATASETS[key] is dataset)


def official_paths(dataset, folder, name):
    root = folder / dataset.folder
    part = "training" if name in dataset.train else "test"
    paths = {"image": dataset.image, "vessels": dataset.vessels, "fov": dataset.fov}
    if dataset.title != "DRIVE" or part == "test":
        paths["second_observer"] = dataset.second_observer
    gz = ".gz" if dataset.title == "STARE" else ""
    return {
        kind: root / (template.format(name=name, part=part) + gz)
        for kind, template in paths.items()
        if template
    }


def label(kind, index):
    mask = np.zeros((40, 48), np.uint8)
    if kind == "fov":
        mask[8:, : index + 9] = 255
    else:
        mask[{"vessels": 0, "second_observer": 2}[kind], : index + 1] = 255
    return mask


@pytest.mark.parametrize("name", EVERY)
def test_splits_are_disjoint_and_of_the_published_size(name):
    train, test = split_names(name, "train"), split_names(name, "test")
    assert (len(train), len(test)) == LENGTHS[name]
    assert not set(train) & set(test)
    assert sorted(train + test) == list(split_names(name, "all"))


def test_splits_are_the_official_ones():
    assert split_names("drive", "train")[0] == "21"
    assert split_names("drive", "test")[-1] == "20"
    assert split_names("chase_db1", "test") == (
        *("11L", "11R", "12L", "12R"),
        *("13L", "13R", "14L", "14R"),
    )
    assert split_names("stare", "test") == ("im0255", "im0291", "im0319", "im0324")


def test_stare_folds_test_each_image_once_in_sorted_order():
    tested = [n for k in range(5) for n in split_names("stare", "test", fold=k)]
    assert tested == sorted(set(tested))
    assert len(tested) == 20
    for fold in range(5):
        train = split_names("stare", "train", fold=fold)
        assert not set(train) & set(split_names("stare", "test", fold=fold))
        assert list(train) == sorted(train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "hrf"}, "'hrf' is unknown: use one of drive, chase_db1, stare"),
        ({"name": "drive", "split": "val"}, "'val' is unknown: use train, test or all"),
        ({"name": "drive", "fold": 1}, "DRIVE has one official split and no fold 1"),
        ({"name": "stare", "fold": 5}, "STARE has no fold 5: use 0 to 4"),
    ],
)
def test_a_wrong_name_split_or_fold_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        split_names(**arguments)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("inside", [True, False], ids=["its folder", "the parent"])
def test_each_file_lands_in_its_field(small, name, inside):
    dataset = DATASETS[name]
    folder = small / dataset.folder if inside else small
    samples = load_dataset(name, folder, "all")
    assert [sample.name for sample in samples] == list(split_names(name, "all"))
    for index, sample in enumerate(samples):
        assert (sample.image == 3 * index).all()
        np.testing.assert_array_equal(sample.vessels, label("vessels", index) > 0)
        assert sample.vessels.dtype == np.uint8
        if dataset.fov:
            assert sample.fov_source == "official"
            np.testing.assert_array_equal(sample.fov, label("fov", index) > 0)
        else:
            assert sample.fov_source == "estimated"
            assert sample.fov.shape == (40, 48)
        if name == "drive" and sample.name in dataset.train:
            assert sample.second_observer is None
        else:
            second = label("second_observer", index) > 0
            np.testing.assert_array_equal(sample.second_observer, second)


def copy_one(small, tmp_path, name):
    """Links a dataset file by file, so that a test may change its own."""
    root = tmp_path / DATASETS[name].folder
    for path in (small / DATASETS[name].folder).rglob("*.*"):
        target = root / path.relative_to(small / DATASETS[name].folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return root


def replace(path, array):
    path.unlink()
    put(path, array)


def test_todays_drive_has_no_test_labels(small, tmp_path):
    root = copy_one(small, tmp_path, "drive")
    for part in ("1st_manual", "2nd_manual"):
        for path in (root / "test" / part).iterdir():
            path.unlink()
        (root / "test" / part).rmdir()
    samples = load_dataset("drive", root, "test")
    assert len(samples) == 20
    assert all(s.vessels is None and s.second_observer is None for s in samples)
    problems = [p for p in check_dataset("drive", root) if "expected 565" not in p]
    assert len(problems) == 1
    assert "DRIVE's test labels are not in today's download" in problems[0]


def test_stare_reads_unpacked_files(small, tmp_path):
    root = copy_one(small, tmp_path, "stare")
    for path in list(root.rglob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load_dataset("stare", root, "test")[0].image[0, 0, 0] == 3 * 16


@pytest.mark.parametrize("name", EVERY)
def test_a_missing_file_is_named_with_the_layout(small, tmp_path, name):
    root = copy_one(small, tmp_path, name)
    lost = official_paths(DATASETS[name], tmp_path, split_names(name)[1])["vessels"]
    lost.unlink()
    with pytest.raises(InputError, match="missing in") as caught:
        load_dataset(name, root)
    relative = str(lost.relative_to(root)).removesuffix(".gz")
    assert relative in str(caught.value)
    assert str(root) in str(caught.value)
    assert DATASETS[name].layout in str(caught.value)
    assert f"{relative}: missing" in check_dataset(name, root)


def test_a_missing_folder_is_named_with_the_layout(tmp_path):
    with pytest.raises(InputError, match=r"absent: no such folder.*Image_01L_1stHO"):
        load_dataset("chase_db1", tmp_path / "absent")


def test_labels_of_another_size_are_refused(small, tmp_path):
    root = copy_one(small, tmp_path, "chase_db1")
    replace(root / "Image_01R_1stHO.png", np.zeros((40, 47), np.uint8))
    with pytest.raises(InputError, match="47x40 pixels, but its photograph is 48x40"):
        load_dataset("chase_db1", root)


def test_the_doctor_finds_what_is_wrong(small, tmp_path):
    root = copy_one(small, tmp_path, "drive")
    healthy = check_dataset("drive", root)
    # The small images are all wrong in size, once a file; nothing else is.
    assert len(healthy) == 40 * 3 + 20
    assert all("48x40 pixels, expected 565x584" in problem for problem in healthy)
    training = root / "training"
    gray = np.arange(40 * 48, dtype=np.uint8).reshape(40, 48)
    replace(training / "1st_manual" / "25_manual1.gif", gray)
    image = np.zeros((40, 48, 3), np.uint8) + 3 * 21  # the picture of 22
    replace(training / "images" / "30_training.tif", image)
    (training / "mask" / "31_training_mask.gif").unlink()
    (training / "mask" / "31_training_mask.gif").write_text("not a mask")
    (training / "images" / "33_training.tif").unlink()
    (root / "test" / "2nd_manual" / "03_manual2.gif").unlink()
    found = [p for p in check_dataset("drive", root) if p not in healthy]
    assert len(found) == 5
    patterns = (
        "25_manual1.gif: 256 different values, expected a mask's 2",
        "30_training.tif: the same pixels as training/images/22_training.tif",
        "31_training_mask.gif: not a picture",
        "33_training.tif: missing",
        "2nd_manual/03_manual2.gif: missing",
    )
    for pattern in patterns:
        assert any(pattern in problem for problem in found)


@pytest.mark.parametrize("name", EVERY)
def test_a_wrong_folder_is_one_problem(tmp_path, name):
    (tmp_path / "holiday.jpg").touch()
    (problem,) = check_dataset(name, tmp_path)
    title, layout = DATASETS[name].title, DATASETS[name].layout
    assert problem.startswith(f"{tmp_path}: no file of {title}: expected")
    assert layout in problem


def test_problems_of_one_kind_are_one_line():
    problems = [f"{n}.png: missing" for n in range(3)] + ["a.png: 2: b", "no colon"]
    assert sorted(short_list(problems)) == sorted(problems)
    problems += [f"{n}.png: missing" for n in range(3, 60)]
    assert short_list(problems) == [
        "0.png, 1.png, 2.png and 57 more: missing",
        "a.png: 2: b",
        "no colon",
    ]
    assert short_list([]) == []


def fundus(height=300, width=320, *, surround=10, level=150):
    """Returns a disc with a darker rim, cut by a dark vessel, and its mask."""
    rows, columns = np.mgrid[:height, :width]
    centre = (height / 2, width / 2)
    distance = np.hypot(rows - centre[0], columns - centre[1])
    inside = distance < 0.45 * height
    red = np.where(inside, level - 0.5 * distance, surround).clip(0, 255)
    vessel = (np.abs(columns - width // 2) < 3) & (rows < height / 2)
    red[inside & vessel] = surround + 5
    image = np.stack([red, red / 2, red / 4], axis=-1).astype(np.uint8)
    return image, inside.astype(np.uint8)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(("surround", "level"), [(0, 150), (10, 250), (25, 140)])
def test_find_fov_finds_the_disc(surround, level):
    image, inside = fundus(surround=surround, level=level)
    image[:8, :8] = 255  # a date stamp
    found = find_fov(image)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1}
    assert overlap(found, inside) > 0.98


def test_find_fov_cuts_off_the_notch():
    image, inside = fundus()
    cv2.line(image, (240, 80), (275, 45), (160, 80, 40), 9)
    assert overlap(find_fov(image), inside) > 0.98


@pytest.mark.parametrize("level", [0, 128, 255])
def test_find_fov_without_a_surround_is_everything(level):
    assert find_fov(np.full((60, 70, 3), level, np.uint8)).all()


def test_find_fov_ignores_what_the_green_surround_of_stare_looks_like():
    image, inside = fundus(surround=15, level=120)
    image[inside == 0, 1] = 70
    assert overlap(find_fov(image), inside) > 0.98


@pytest.mark.data
@pytest.mark.parametrize("name", EVERY)
def test_the_real_datasets_are_healthy(shared, name):
    assert check_dataset(name, shared("data")) == []


@pytest.mark.data
def test_drive_has_the_published_numbers_of_pixels(shared):
    samples = load_dataset("drive", shared("data"), "test")
    inside = sum(int(s.fov.sum()) for s in samples)
    vessels = sum(int((s.fov & s.vessels).sum()) for s in samples)
    assert (inside, vessels) == (4_538_143, 577_649)
    assert sum(s.vessels.size for s in samples) == 6_599_200
    assert sum(int(s.vessels.sum()) for s in samples) == 577_945


@pytest.mark.data
def test_find_fov_agrees_with_the_official_masks(shared):
    samples = load_dataset("drive", shared("data"), "all")
    overlaps = [overlap(find_fov(s.image), s.fov) for s in samples]
    assert min(overlaps) > 0.98  # .985 measured; .995 on average


@pytest.mark.data
@pytest.mark.parametrize(("name", "share"), [("chase_db1", 0.99), ("stare", 0.99)])
def test_find_fov_holds_the_vessels(shared, name, share):
    for sample in load_dataset(name, shared("data"), "test"):
        assert 0.6 < sample.fov.mean() < 0.82
        assert (sample.vessels & sample.fov).sum() > share * sample.vessels.sum()
