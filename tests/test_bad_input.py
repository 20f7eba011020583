"""Bad input: one clear line and status 2, and never a half-written file.

Everything goes through `main`, as a user would meet it. The network has random
weights: what it finds does not matter here.
"""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from saunet import inference, weights
from saunet.cli import main
from saunet.data import images
from saunet.data.images import write_png
from saunet.models import build_model

HEIGHT, WIDTH = 40, 56


@pytest.fixture(scope="module")
def h5(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    weights.save_weights(build_model("sa_unet_v2"), path)
    return path


@pytest.fixture(scope="module")
def segmenter(h5):
    return inference.load_segmenter(h5, "sa_unet_v2")


@pytest.fixture
def predict(capsys, monkeypatch, tmp_path, h5, segmenter):
    """Returns a function: inputs -> (status, stdout, lines of stderr)."""
    # Built and compiled once; `test_weights_that_do_not_fit` loads each time.
    monkeypatch.setattr(inference, "load_segmenter", lambda *names, **engine: segmenter)

    def run(*inputs, out=tmp_path / "out", options=()):
        argv = ["predict", *inputs, "--weights", h5, "--model", "sa_unet_v2"]
        status = main([str(word) for word in [*argv, "--out", out, *options]])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def pixels(*shape, top=256, kind=np.uint8):
    return np.random.default_rng(0).integers(0, top, shape or (HEIGHT, WIDTH, 3), kind)


def written(folder):
    """Returns all names in a folder but the manifest's, half-written ones too."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [name for name in names if name != "manifest.csv"]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


# Pictures that work. Each is made in a folder, and returned.


def plain(folder):
    return save(folder / "eye.png", pixels())


def one_channel(folder):
    return save(folder / "eye.png", pixels(HEIGHT, WIDTH))


def sixteen_bit(folder):
    return save(folder / "eye.png", pixels(HEIGHT, WIDTH, top=65536, kind=np.uint16))


def sixteen_bit_colour(folder):
    path = folder / "eye.png"
    cv2.imwrite(str(path), pixels(HEIGHT, WIDTH, 3, top=65536, kind=np.uint16))
    return path


def rgba(folder):
    return save(folder / "eye.png", pixels(HEIGHT, WIDTH, 4))


def cmyk(folder):
    Image.fromarray(pixels()).convert("CMYK").save(folder / "eye.jpg")
    return folder / "eye.jpg"


def exif_rotated(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: the file is stored lying on its side
    return save(folder / "eye.jpg", pixels(WIDTH, HEIGHT, 3), exif=exif)


def palette(folder):
    Image.fromarray(pixels()).quantize(16).save(folder / "eye.gif")
    return folder / "eye.gif"


def capital_letters(folder):
    return save(folder / "eye.PNG", pixels())


WORKING = (
    plain,
    one_channel,
    sixteen_bit,
    sixteen_bit_colour,
    rgba,
    cmyk,
    exif_rotated,
    palette,
    capital_letters,
)


@pytest.mark.parametrize("make", WORKING)
def test_any_kind_of_picture_works_at_its_own_size(tmp_path, predict, make):
    status, _, err = predict(make(tmp_path))
    assert (status, err) == (0, [])
    assert written(tmp_path / "out") == [
        "eye_mask.png",
        "eye_overlay.png",
        "eye_prob.png",
    ]
    for name, dtype in (("prob", np.uint16), ("mask", np.uint8), ("overlay", np.uint8)):
        picture = cv2.imread(str(tmp_path / f"out/eye_{name}.png"), -1)
        assert picture.shape[:2] == (HEIGHT, WIDTH)
        assert picture.dtype == dtype


# Pictures that do not.


def zero_byte(folder):
    (folder / "eye.png").touch()
    return folder / "eye.png"


def truncated(folder):
    path = plain(folder)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def truncated_jpeg(folder):
    path = save(folder / "eye.jpg", pixels())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text(folder):
    (folder / "eye.png").write_text("left eye")
    return folder / "eye.png"


def huge_header(folder):
    """70 bytes that claim to be a picture of ten thousand megapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    (folder / "eye.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )
    return folder / "eye.png"


def tiny(folder):
    return save(folder / "eye.png", pixels(1, 1, 3))


def narrow(folder):
    return save(folder / "eye.png", pixels(200, 3, 3))


def missing(folder):
    return folder / "eye.png"


def unreadable(folder):
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    path = plain(folder)
    path.chmod(0)
    return path


BROKEN = (
    zero_byte,
    truncated,
    truncated_jpeg,
    text,
    huge_header,
    tiny,
    narrow,
    missing,
    unreadable,
)


@pytest.mark.parametrize("make", BROKEN)
def test_a_broken_picture_is_one_line_and_status_2(tmp_path, predict, make):
    path = make(tmp_path)
    status, out, err = predict(path)
    assert status == 2
    assert out == ""
    assert len(err) == 1
    assert err[0].startswith(f"saunet: error: {path}: ")
    assert written(tmp_path / "out") == []


@pytest.mark.parametrize("make", [zero_byte, truncated, text, tiny])
def test_a_folder_skips_what_is_broken(tmp_path, predict, make):
    folder = tmp_path / "photographs"
    folder.mkdir()
    save(folder / "good.png", pixels())
    broken = make(folder)
    (folder / "notes.txt").write_text("ignored")
    status, out, err = predict(folder)
    assert status == 0
    assert "1 photograph segmented" in out
    assert "1 other file ignored" in out
    assert len(err) == 1
    assert err[0].startswith(f"saunet: skipped: {broken}: ")
    assert written(tmp_path / "out") == [
        "good_mask.png",
        "good_overlay.png",
        "good_prob.png",
    ]


def test_a_file_asked_for_by_name_is_an_error_after_the_rest(tmp_path, predict):
    good = save(tmp_path / "good.png", pixels())
    status, out, err = predict(zero_byte(tmp_path), good)
    assert status == 2
    assert "1 photograph segmented" in out
    assert len(err) == 1
    assert len(written(tmp_path / "out")) == 3


def test_a_folder_of_nothing_but_broken_pictures(tmp_path, predict):
    folder = tmp_path / "photographs"
    folder.mkdir()
    zero_byte(folder)
    (folder / "other.png").write_text("right eye")
    status, _, err = predict(folder)
    assert status == 2
    assert len(err) == 1
    assert "and 1 more" in err[0]


@pytest.mark.parametrize("files", [(), ("notes.txt", "table.csv", "data.h5")])
def test_a_folder_without_pictures(tmp_path, predict, files):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("x")
    status, _, err = predict(folder)
    assert status == 2
    assert len(err) == 1
    assert f"no image among its {len(files)} files" in err[0]
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be(tmp_path, predict, monkeypatch):
    monkeypatch.setattr(
        inference.Segmenter, "predict", None
    )  # said before any computing
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "deeper"):
        status, _, err = predict(plain(tmp_path), out=out)
        assert status == 2
        assert len(err) == 1
        assert f"cannot write to {out}" in err[0]
    assert taken.read_text() == "mine"


def test_a_full_disk_leaves_no_half_written_file(tmp_path, predict, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "replace", full)
    status, _, err = predict(plain(tmp_path))
    assert status == 2
    assert len(err) == 1
    assert "No space left on device" in err[0]
    assert written(tmp_path / "out") == []


@pytest.mark.parametrize("threshold", ["2", "-0.1", "1", "nan", "high"])
def test_a_threshold_that_is_none(tmp_path, predict, threshold):
    status, _, err = predict(plain(tmp_path), options=["--threshold", threshold])
    assert status == 2
    assert len(err) == 1
    assert "threshold" in err[0]


def run(capsys, *argv):
    status = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


def bad_weights(folder, kind, h5):
    """Returns --weights options that cannot work."""
    path = folder / "w.h5"
    if kind == "missing file":
        return path, "--model", "sa_unet_v2"
    if kind == "unknown name":
        return ("sa_unet_v3_drive",)
    if kind == "folder without a card":
        return (folder,)
    if kind == "no model":
        return (h5,)
    if kind == "unknown model":
        return h5, "--model", "sa_unet_2"
    if kind == "another model":
        return h5, "--model", "sa_unet"
    content = h5.read_bytes()
    if kind == "truncated":
        content = content[: len(content) // 2]
    if kind == "text":
        content = b"these are the weights"
    if kind == "empty":
        content = b""
    path.write_bytes(content)
    return path, "--model", "sa_unet_v2"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing file", "w.h5: no such file"),
        ("unknown name", "no weights 'sa_unet_v3_drive'"),
        ("folder without a card", "card.json"),
        ("no model", "add --model"),
        ("unknown model", "did you mean 'sa_unet_v2'"),
        ("another model", "layer"),
        ("truncated", "w.h5"),
        ("text", "w.h5"),
        ("empty", "w.h5"),
    ],
)
@pytest.mark.parametrize("verb", ["predict", "convert"])
def test_weights_that_do_not_fit(capsys, tmp_path, h5, kind, message, verb):
    words = [plain(tmp_path)] if verb == "predict" else []
    options = bad_weights(tmp_path, kind, h5)
    out = tmp_path / "out.weights.h5"
    status, _, err = run(capsys, verb, *words, "--weights", *options, "--out", out)
    assert status == 2
    assert len(err) == 1
    assert message in err[0]
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["summary", "sa_unet2"], "did you mean"),
        (["summary", "sa_unet_v2", "--input-size", "30", "30"], "30"),
        (["summary", "sa_unet_v2", "--input-size", "0", "16"], "positive"),
        (["doctor", "--dataset", "driv", "--data-dir", "."], "did you mean 'drive'"),
        (["doctor", "--dataset", "drive"], "--data-dir"),
        (["doctor", "--dataset", "drive", "--data-dir", "nowhere"], "nowhere"),
        (["train", "--dataset", "drives", "--data-dir", ".", "--out", "r"], "'drive'"),
        (["train", "--dataset", "drive", "--out", "r"], "--data-dir"),
        (["score", "--predictions", "a", "--truth", "b"], "--region"),
        (["segment"], "invalid choice: 'segment'"),
        ([], "COMMAND"),
        (["models", "--jsn"], "--jsn"),
    ],
)
def test_wrong_words(capsys, argv, message):
    status, out, err = run(capsys, *argv)
    assert status == 2
    assert out == ""
    assert len(err) == 1
    assert err[0].startswith("saunet: error: ")
    assert message in err[0]


@pytest.fixture
def scored(tmp_path):
    """Folders of predictions, truth and FOV that score; each may be spoiled."""
    mask = np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255
    for name, picture in (
        ("predictions", mask),
        ("truth", mask),
        ("fov", np.full_like(mask, 255)),
    ):
        (tmp_path / name).mkdir()
        for i in (1, 2):
            write_png(tmp_path / name / f"{i:02d}_{name}.png", picture)
    argv = ["score", "--region", "fov", "--pooling", "mean", "--json"]
    for name in ("predictions", "truth", "fov"):
        argv += [f"--{name}", tmp_path / name]
    return argv


def test_sound_folders_score(capsys, scored):
    assert run(capsys, *scored)[0] == 0


@pytest.mark.parametrize("spoilt", ["predictions", "truth", "fov"])
@pytest.mark.parametrize("how", ["size", "missing", "truncated", "empty", "gone"])
def test_folders_that_do_not_score(capsys, tmp_path, scored, spoilt, how):
    path = tmp_path / spoilt / f"02_{spoilt}.png"
    if how == "size":
        write_png(path, np.zeros((HEIGHT, WIDTH - 1), np.uint8))
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.unlink()
    if how in ("empty", "gone"):
        (tmp_path / spoilt / f"01_{spoilt}.png").unlink()
    if how == "gone":
        (tmp_path / spoilt).rmdir()
    status, out, err = run(capsys, *scored)
    assert (status, out) == (2, "")
    assert len(err) == 1


def test_a_mask_of_another_size_in_a_dataset(capsys, tmp_path, h5):
    folder = tmp_path / "CHASE_DB1"
    folder.mkdir()
    for child in range(11, 15):
        for eye in "LR":
            name = f"Image_{child}{eye}"
            save(folder / f"{name}.jpg", pixels())
            for observer in ("1stHO", "2ndHO"):
                label = np.zeros((HEIGHT, WIDTH - (observer == "1stHO")), np.uint8)
                save(folder / f"{name}_{observer}.png", label)
    argv = ["--dataset", "chase_db1", "--data-dir", tmp_path]
    status, _, err = run(
        capsys, "evaluate", "--weights", h5, "--model", "sa_unet_v2", *argv
    )
    assert status == 2
    assert len(err) == 1
    assert "Image_11L_1stHO.png" in err[0]
    status, out, err = run(capsys, "doctor", *argv)
    assert status == 2
    assert err == []
    assert "Image_11L_1stHO.png, Image_11R_1stHO.png, Image_12L_1stHO.png and 5" in out
    assert "5 more: 55x40 pixels, expected" in out


def test_demo_that_cannot_write(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "load_pretrained", lambda name: None)
    (tmp_path / "taken").write_text("mine")
    status, _, err = run(capsys, "demo", "--out", tmp_path / "taken")
    assert status == 2
    assert len(err) == 1
