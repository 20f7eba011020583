"""A folder of one's own: what belongs together, what is refused, and in which words."""

import json
import shutil

import numpy as np
import pytest
from helpers import fundus_like

from saunet import weights
from saunet.cli import main
from saunet.data.folder import FIELDS, LABELS, check_folder, load_folder
from saunet.data.images import read_image, write_png
from saunet.data.pipeline import random_batches
from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError
from saunet.inference import PADDING, load_pretrained, load_segmenter
from saunet.models import build_model

SIZES = {"eye1": (40, 50), "eye2": (36, 33), "eye10": (60, 44)}


def fill(part, names=SIZES, labels="vessels", suffix="_manual"):
    """Writes photographs and labels of several sizes; returns the samples."""
    made = {}
    for folder in ("images", labels):
        (part / folder).mkdir(parents=True)
    for seed, name in enumerate(names):
        made[name] = fundus_like(*SIZES.get(name, (40, 50)), seed=seed, name=name)
        write_png(part / "images" / f"{name}.png", made[name].image)
        vessels = made[name].vessels * np.uint8(255)
        write_png(part / labels / f"{name}{suffix}.png", vessels)
    return made


@pytest.mark.parametrize("labels", LABELS)
def test_photographs_meet_their_labels(tmp_path, labels):
    made = fill(tmp_path, labels=labels)
    samples = load_folder(tmp_path)
    assert [sample.name for sample in samples] == sorted(made)
    for sample in samples:
        np.testing.assert_array_equal(sample.image, made[sample.name].image)
        np.testing.assert_array_equal(sample.vessels, made[sample.name].vessels)
        assert sample.fov.shape == sample.vessels.shape
        assert sample.fov_source == "estimated"
    assert load_folder(tmp_path, "all")[0].name == samples[0].name
    assert check_folder(tmp_path) == []


@pytest.mark.parametrize("fields", FIELDS)
def test_masks_of_the_field_of_view_are_taken(tmp_path, fields):
    fill(tmp_path)
    (tmp_path / fields).mkdir()
    for name, size in SIZES.items():
        fov = np.zeros(size, np.uint8)
        fov[5:-5] = 255
        write_png(tmp_path / fields / f"{name}.png", fov)
    for sample in load_folder(tmp_path):
        assert sample.fov_source == "official"
        assert (sample.fov[5:-5] == 1).all()
        assert not sample.fov[:5].any()


def test_a_test_folder_is_kept_apart(tmp_path):
    fill(tmp_path / "training", ["eye1", "eye2"])
    fill(tmp_path / "test", ["eye10"])
    named = {
        part: [sample.name for sample in load_folder(tmp_path, part)]
        for part in ("train", "test", "all")
    }
    assert named["train"] == ["eye1", "eye2"]
    assert named["test"] == ["eye10"]
    assert named["all"] == ["eye1", "eye2", "eye10"]
    # The training part may also lie beside the folder "test".
    for folder in ("images", "vessels"):
        (tmp_path / "training" / folder).rename(tmp_path / folder)
    (tmp_path / "training").rmdir()
    assert [s.name for s in load_folder(tmp_path)] == ["eye1", "eye2"]


@pytest.mark.parametrize("crop", [None, 64])
def test_sizes_may_differ_and_be_smaller_than_a_crop(tmp_path, crop):
    fill(tmp_path)
    samples = load_folder(tmp_path)
    x, y = next(random_batches(samples, crop=crop, batch_size=3, seed=0))
    assert x.shape == (3, 64, 64, 3)
    assert y.sum(axis=(1, 2, 3)).all()  # each shows vessels
    assert (x == 0).all(axis=-1).any(axis=(1, 2)).all()  # and what surrounds it


# What is refused: a function that spoils a folder, and what is said.


def no_label(root):
    (root / "vessels" / "eye2_manual.png").unlink()
    return f"eye2.png has no partner in {root / 'vessels'}"


def no_photograph(root):
    (root / "images" / "eye2.png").unlink()
    return f"{root / 'vessels'}: no photograph for eye2_manual.png"


def another_size(root):
    write_png(root / "vessels" / "eye1_manual.png", np.zeros((40, 49), np.uint8))
    return "eye1_manual.png: 49x40 pixels, but its photograph is 50x40 pixels"


def many_values(root):
    gray = np.arange(2000, dtype=np.uint8).reshape(40, 50)
    write_png(root / "vessels" / "eye1_manual.png", gray)
    return "neither black nor white, expected a label"


def classes(root):
    write_png(root / "vessels" / "eye1_manual.png", np.eye(40, 50, dtype=np.uint8) * 2)
    return "eye1_manual.png: its brightest pixel is 2 of 255, expected a label"


def damaged(root):
    (root / "images" / "eye10.png").write_bytes(b"\x89PNG")
    return "eye10.png: not a picture"


def no_images(root):
    for path in (root / "images").iterdir():
        path.unlink()
    return f"{root / 'images'}: holds no picture"


def no_folder_of_images(root):
    (root / "images").rename(root / "pictures")
    return f"{root}: no folder images: expected photographs in images and their labels"


def no_folder_of_labels(root):
    (root / "vessels").rename(root / "truth")
    return f"{root}: no folder vessels"


def two_folders_of_labels(root):
    (root / "masks").mkdir()
    return f"{root}: holds vessels and masks: expected one of these folders"


def another_name_of_a_part(root):
    fill(root / "validation", ["eye3"])
    return f"{root / 'validation'}: is no folder that is read: move its photographs"


def a_link_to_a_folder(root):
    fill(root.parent / "clinic", ["eye3"])
    for part in ("images", "vessels"):
        (root / part / "clinic").symlink_to(root.parent / "clinic" / part)
    return f"{root / 'images' / 'clinic'}: holds pictures, too"


def a_link_to_nothing(root):
    (root / "images" / "eye4.png").symlink_to(root / "gone.png")
    return "eye4.png: links to nothing"


def inside_out(root):
    (root / "fov").mkdir()
    for name, size in SIZES.items():
        fov = np.full(size, 255, np.uint8)
        fov[4:-4, 4:-4] = 0 if name == "eye2" else 255
        write_png(root / "fov" / f"{name}.png", fov)
    return "eye2.png: most vessels of"


SPOILT = (
    another_name_of_a_part,
    a_link_to_a_folder,
    a_link_to_nothing,
    inside_out,
    no_label,
    no_photograph,
    another_size,
    many_values,
    classes,
    damaged,
    no_images,
    no_folder_of_images,
    no_folder_of_labels,
    two_folders_of_labels,
)


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_what_does_not_fit_is_one_line(tmp_path, capsys, spoil):
    fill(tmp_path / "mine")
    message = spoil(tmp_path / "mine")
    argv = ["--dataset", "folder", "--data-dir", str(tmp_path / "mine")]
    assert main(["train", *argv, "--out", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert message in err
    assert not (tmp_path / "run").exists()
    assert main(["doctor", *argv]) == 2
    out, err = capsys.readouterr()
    assert message in out
    assert (len(out.splitlines()), err) == (1, "")


def test_the_doctor_goes_on_after_a_problem(tmp_path):
    root = tmp_path
    fill(root / "training", [*SIZES, "eye11", "eye12"])
    fill(root / "test", ["eye3"])
    no_label(root / "training")
    damaged(root / "training")
    another_size(root / "training")
    black = root / "training" / "vessels" / "eye11_manual.png"
    write_png(black, 255 - read_image(black)[..., 0])
    twin = root / "training" / "images" / "eye12.png"
    write_png(root / "test" / "images" / "eye3.png", read_image(twin))
    problems = check_folder(root)
    assert len(problems) == 5, problems
    for words in (
        "eye2.png has no partner",
        "eye10.png: not a picture",
        "eye1_manual.png: 49x40 pixels",
        "% vessel, expected a label: white vessels on black: invert it",
        f"eye3.png: the same pixels as {twin}",
    ):
        assert any(words in problem for problem in problems), words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "test"), "no folder test: move the photographs"),
        (("--fold", "1"), "--fold 1: a folder has none"),
    ],
)
def test_parts_that_a_folder_has_not(tmp_path, capsys, run, options, message):
    fill(tmp_path / "mine")
    argv = ["evaluate", "--weights", run, "--dataset", "folder", *options]
    assert main([*map(str, argv), "--data-dir", str(tmp_path / "mine")]) == 2
    err = capsys.readouterr().err
    assert (len(err.splitlines()), message in err) == (1, True)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_folder(tmp_path / "nowhere")


def test_a_split_that_no_folder_has_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(InputError, match="split 'val' is unknown: use train, test"):
        load_folder(tmp_path, "val")


def test_two_photographs_of_one_name_are_refused(tmp_path):
    fill(tmp_path / "training", ["eye1"])
    fill(tmp_path / "test", ["eye1"])
    with pytest.raises(InputError, match="two photographs are named eye1"):
        load_folder(tmp_path, "all")


# A run folder is weights, too.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose network was padded below and to the right."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    recipe = {"model": "sa_unet_v2", "model_kwargs": {"rate": 0.25}}
    recipe["placement"] = "bottom_right"
    about = {"recipe": recipe, "fov_diameter": 300}
    (folder / "run.json").write_text(json.dumps(about))
    model = build_model("sa_unet_v2", **recipe["model_kwargs"])
    weights.save_weights(model, folder / "last.weights.h5")
    return folder


def test_load_pretrained_opens_a_run(run):
    assert load_pretrained(run, engine="keras").name == load_segmenter(run).name


def test_a_run_folder_is_weights(run):
    segmenter = load_segmenter(run, engine="keras")
    assert segmenter.padding == {**PADDING, "placement": "bottom_right"}
    assert segmenter.fov_diameter == 300
    assert segmenter.name == "sa_unet_v2 (mine/last.weights.h5)"
    assert 0.25 in {getattr(layer, "rate", None) for layer in segmenter.model.layers}
    model = build_model("sa_unet_v2")
    weights.load_weights(model, run / "last.weights.h5")
    for ours, theirs in zip(
        segmenter.model.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="holds a sa_unet_v2, not a unet"):
        load_segmenter(run, "unet")


def test_the_files_of_a_run_are_what_the_run_is(run, tmp_path):
    segmenter = load_segmenter(run / "last.weights.h5", engine="keras")
    assert segmenter.padding == {**PADDING, "placement": "bottom_right"}
    assert segmenter.fov_diameter == 300
    assert 0.25 in {getattr(layer, "rate", None) for layer in segmenter.model.layers}
    with pytest.raises(InputError, match="holds a sa_unet_v2, not a unet"):
        load_segmenter(run / "last.weights.h5", "unet")
    # Beside better ones it is still the one that was named.
    folder = tmp_path / "both"
    shutil.copytree(run, folder)
    shutil.copy(run / "last.weights.h5", folder / "best.weights.h5")
    named = {load_segmenter(path).name for path in (folder, folder / "last.weights.h5")}
    assert named == {
        f"sa_unet_v2 (both/{which}.weights.h5)" for which in ("best", "last")
    }


def test_a_test_on_images_trained_on_is_none(tmp_path, capsys, run):
    """Moved into the test part, and renamed."""
    fill(tmp_path / "test", ["eye1", "eye2"])
    (tmp_path / "images").mkdir()
    image = read_image(tmp_path / "test" / "images" / "eye2.png")
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    about = json.loads((folder / "run.json").read_text())
    about["seen_sha256"] = [weights.sha256_of_pixels(image)]
    (folder / "run.json").write_text(json.dumps(about))
    argv = ["evaluate", "--weights", str(folder), "--engine", "keras"]

    def complaint(*data):
        assert main([*argv, *data]) == 2
        return capsys.readouterr().err

    told = "trained or chosen on 1 of these {} images ({}), which are no test"
    error = complaint("--dataset", "folder", "--data-dir", str(tmp_path))
    assert told.format(2, "eye2") in error
    # Shipped weights know them by their card.
    card = weights.read_card(weights.find_pretrained("sa_unet_v2_drive"))
    known = weights.seen_pixels("sa_unet_v2_drive")
    assert known == set(card["data"]["seen_sha256"])
    assert len(known) == len(card["data"]["images"])
    # A folder may hold photographs of a data set: pixels are known under any name.
    drawn = synthetic_fundus(100)
    about["seen_sha256"] = [weights.sha256_of_pixels(drawn.image)]
    (folder / "run.json").write_text(json.dumps(about))
    assert told.format(3, drawn.name) in complaint("--dataset", "synthetic")


@pytest.mark.parametrize("part", ["images", "vessels"])
def test_pictures_in_folders_below_are_not_left_out_in_silence(tmp_path, part):
    fill(tmp_path, ["eye1"])
    (tmp_path / part / "site_b").mkdir()
    write_png(tmp_path / part / "site_b" / "eye2.png", np.zeros((40, 50), np.uint8))
    with pytest.raises(InputError, match="site_b: holds pictures, too"):
        load_folder(tmp_path)
    assert "site_b: holds pictures, too" in "\n".join(check_folder(tmp_path))


def test_own_images_are_evaluated_by_a_run(tmp_path, capsys, run):
    fill(tmp_path, ["eye1"])
    argv = ["evaluate", "--weights", run, "--dataset", "folder", "--split", "train"]
    argv += ["--data-dir", tmp_path, "--engine", "keras", "--json"]
    assert main([str(word) for word in argv]) == 0
    assert json.loads(capsys.readouterr().out)["per_image"][0]["name"] == "eye1"


@pytest.mark.data
def test_drive_is_such_a_folder(shared):
    from saunet.data.datasets import load_dataset

    root = shared("data/DRIVE")
    official = load_dataset("drive", root, "test")[:2]
    for ours, theirs in zip(load_folder(root, "test"), official, strict=False):
        assert ours.name == f"{theirs.name}_test"
        for field in ("image", "vessels", "fov"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_the_doctor_sees_wrong_labels_and_names(tmp_path):
    fill(tmp_path, ["01_OD", "03"], suffix="")
    fill(tmp_path / "test", ["02", "03"])
    label = tmp_path / "vessels" / "01_OD.png"
    label.rename(label.with_name("01_OS.png"))
    black = tmp_path / "test" / "vessels" / "02_manual.png"
    write_png(black, np.zeros((40, 50), np.uint8))
    found = "\n".join(check_folder(tmp_path))
    assert "01_OD.png has no partner but 01_OS.png, of the other eye or" in found
    assert "02_manual.png: no vessel: another file in its place?" in found
    assert "test/images/03.png: another photograph is named alike" in found


def test_two_places_for_training_photographs_are_refused(tmp_path):
    fill(tmp_path)
    fill(tmp_path / "training")
    with pytest.raises(InputError, match="holds images and training"):
        load_folder(tmp_path)


def test_evaluate_says_that_a_field_of_view_is_estimated(tmp_path, capsys):
    fill(tmp_path, ["eye1"])
    weights.save_weights(build_model("sa_unet_v2"), tmp_path / "a.weights.h5")
    argv = ["evaluate", "--weights", str(tmp_path / "a.weights.h5"), "--model"]
    argv += ["sa_unet_v2", "--dataset", "folder", "--data-dir", str(tmp_path)]
    argv += ["--split", "train", "--json"]
    said = []
    for region in ("fov", "frame"):
        assert main([*argv, "--region", region]) == 0
        said.append(json.loads(capsys.readouterr().out).get("fov"))
    assert said == ["estimated", None]
