import errno
import gzip
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from saunet.data import images
from saunet.data.images import (
    image_stem,
    is_image_name,
    read_gray,
    read_image,
    read_label,
    read_mask,
    write_png,
)
from saunet.data.listing import find_images
from saunet.data.pairing import list_images, list_results
from saunet.errors import InputError
from saunet.report import is_run

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 50, 3), np.uint8)
SMOOTH = cv2.GaussianBlur(PICTURE, (0, 0), 6)


def save(path, array=PICTURE, mode=None, **options):
    picture = Image.fromarray(array)
    if mode:
        picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["tif", "png", "ppm", "bmp"])
def test_lossless_kinds_read_exactly(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a.{suffix}"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PICTURE)


def test_gzipped_ppm_reads_exactly(tmp_path):
    plain = save(tmp_path / "a.ppm")
    (tmp_path / "a.ppm.gz").write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm.gz"), PICTURE)


def test_webp_reads_exactly_where_saved_so(tmp_path):
    path = save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read_image(path), PICTURE)


@pytest.mark.parametrize(
    ("suffix", "mode"), [("jpg", "RGB"), ("jpg", "CMYK"), ("gif", "P"), ("png", "P")]
)
def test_lossy_kinds_read_nearly(tmp_path, suffix, mode):
    options = {"quality": 95} if suffix == "jpg" else {}
    image = read_image(save(tmp_path / f"a.{suffix}", SMOOTH, mode, **options))
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).mean() < 6


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_16_bit_gray_is_scaled_not_cut(tmp_path, suffix):
    deep = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    path = save(tmp_path / f"a.{suffix}", deep)
    image = read_image(path)
    expected = np.round(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(image, np.stack([expected] * 3, axis=-1))
    np.testing.assert_array_equal(read_gray(path), deep)
    np.testing.assert_array_equal(read_mask(path), expected > 127)


def test_16_bit_colour_stays_within_a_level(tmp_path):
    deep = RNG.integers(0, 65536, (40, 50, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    image = read_image(tmp_path / "a.png")
    assert np.abs(image - deep / 257).max() <= 1


def test_one_channel_becomes_three(tmp_path):
    image = read_image(save(tmp_path / "a.png", PICTURE[..., 0]))
    np.testing.assert_array_equal(image, np.stack([PICTURE[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_becomes_black(tmp_path, mode):
    picture = Image.fromarray(PICTURE).convert(mode)
    alpha = np.full((40, 50), 255, np.uint8)
    alpha[:20] = 0
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert not image[:20].any()
    opaque = np.asarray(Image.fromarray(PICTURE).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image[20:], opaque[20:])


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn right to see it upright"
    path = save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(PICTURE, -1))
    assert read_mask(path).shape == (50, 40)


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def truncated_gzip(folder):
    whole = save(folder / "whole.ppm").read_bytes()
    path = folder / "a.ppm.gz"
    path.write_bytes(gzip.compress(whole))
    return truncate(path)


def wrong_gzip(folder):
    path = folder / "a.ppm.gz"
    path.write_bytes(gzip.compress(b"no picture"))
    return path


def text(folder):
    path = folder / "a.png"
    path.write_text("name,score\n")
    return path


def empty(folder):
    path = folder / "a.jpg"
    path.touch()
    return path


def huge(folder):
    """Claims 20000x20000 pixels in its header, and holds none."""

    def chunk(kind, content):
        length, check = len(content), zlib.crc32(kind + content)
        return struct.pack(">I", length) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    path = folder / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b""))
    return path


def floating(folder):
    return save(folder / "a.tif", SMOOTH[..., 0].astype(np.float32))


BAD = {
    "missing": (lambda folder: folder / "a.png", "no such file"),
    "folder": (lambda folder: folder, "is a folder"),
    "empty": (empty, "is empty"),
    "text": (text, "not a picture"),
    "wrong gzip": (wrong_gzip, "not a picture"),
    "huge": (huge, "more than 178 megapixels"),
    "floating": (floating, "pixels of kind F"),
    "truncated gzip": (truncated_gzip, "truncated or damaged"),
    **{
        f"truncated {suffix}": (
            lambda folder, suffix=suffix: truncate(save(folder / f"a.{suffix}")),
            "truncated or damaged",
        )
        for suffix in ("png", "jpg", "tif", "ppm", "gif", "bmp", "webp")
    },
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_bad_files_end_in_one_clear_line(tmp_path, kind, read):
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_searched_is_one_line(tmp_path, monkeypatch):
    def refused(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.Path, "stat", refused)
    with pytest.raises(InputError, match=r"a\.png: may not be read: change its perm"):
        read_image(tmp_path / "a.png")


def test_a_tiny_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="50x31 pixels, expected at least 32"):
        read_image(save(tmp_path / "a.png", PICTURE[:31]))
    assert read_image(save(tmp_path / "b.png", PICTURE[:32])).shape == (32, 50, 3)


def test_a_large_but_bearable_image_does_not_warn(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # the picture has 2000
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png")), PICTURE)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif"])
def test_masks_are_zero_and_one(tmp_path, suffix):
    mask = read_mask(save(tmp_path / f"a.{suffix}"))
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}


def test_a_mask_is_vessel_above_127(tmp_path):
    levels = np.array([[0, 3, 127, 128, 253, 255]], np.uint8)
    mask = read_mask(save(tmp_path / "a.png", levels))
    assert mask.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_a_palette_mask_goes_by_its_colours_not_its_indices(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture = picture.convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0, 3, 3, 3])
    picture.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[1, 0, 0]]


def test_a_mask_of_zeros_and_ones_is_not_lost(tmp_path):
    labels = (PICTURE[..., 0] > 200).astype(np.uint8)
    mask = read_mask(save(tmp_path / "a.png", labels))
    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize(
    "array",
    [PICTURE, PICTURE[..., 0], PICTURE[..., 0].astype(np.uint16) * 257 + 1],
    ids=["rgb", "gray", "16 bit"],
)
def test_write_png_round_trip(tmp_path, array):
    write_png(tmp_path / "a.png", array)
    read = read_image if array.ndim == 3 else read_gray
    result = read(tmp_path / "a.png")
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "array", [PICTURE.astype(float), PICTURE.astype(np.uint16), PICTURE[..., :2]]
)
def test_write_png_refuses_what_png_cannot_hold(tmp_path, array):
    with pytest.raises(ValueError, match="expected"):
        write_png(tmp_path / "a.png", array)


def test_write_png_into_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        write_png(tmp_path / "absent" / "a.png", PICTURE)


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, step):
    write_png(tmp_path / "a.png", PICTURE)
    before = (tmp_path / "a.png").read_bytes()

    def full(*args):
        if step == "write":
            with open(args[0], "wb") as half:
                half.write(args[1][: len(args[1]) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr(images.Path, "write_bytes", full)
    else:
        monkeypatch.setattr(images.os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_png(tmp_path / "a.png", 255 - PICTURE)
    assert (tmp_path / "a.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_what_a_killed_process_left_is_no_picture(tmp_path):
    """It ends like the whole file, as Keras wants it."""
    write_png(tmp_path / "a_prob.png", PICTURE)
    half = images.part_of(tmp_path / "b_prob.png")
    half.write_bytes(b"\x89PNG")
    assert half.name.endswith("b_prob.png")
    assert find_images([tmp_path]) == ([tmp_path / "a_prob.png"], 1)
    assert list_results(tmp_path, "prob") == [tmp_path / "a_prob.png"]
    (tmp_path / "run.json").touch()
    (tmp_path / "a_prob.png").unlink()
    assert is_run(tmp_path)


def test_names_of_pictures():
    assert is_image_name("x/IM0001.PPM.GZ")
    assert is_image_name("21_training.tif")
    assert not is_image_name("weights.h5")
    assert not is_image_name("log.gz")
    assert image_stem("x/im0001.ah.ppm.gz") == "im0001.ah"
    assert image_stem("01_test.PNG") == "01_test"
    assert image_stem("README") == "README"


def test_a_label_drawn_on_transparency_is_refused(tmp_path):
    """Its black strokes are gone on the black that transparency becomes."""
    strokes = np.zeros((40, 50, 4), np.uint8)
    strokes[10:12, :, 3] = 255
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    with pytest.raises(InputError, match="once its transparent pixels are"):
        read_label(tmp_path / "strokes.png")
    strokes[..., :3] = 255
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    assert read_label(tmp_path / "strokes.png").sum() == 100
    strokes[:] = 0, 0, 0, 255  # no vessel, and nothing transparent
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    assert not read_label(tmp_path / "strokes.png").any()


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_of_several_pictures_a_label_takes_none(tmp_path, suffix):
    """Such as arteries and veins; of a photograph the others are thumbnails."""
    path = tmp_path / f"a.{suffix}"
    pages = [Image.new("L", (50, 40), 10 * i) for i in range(2)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="holds 2 pictures, expected one"):
        read_label(path)
    assert read_image(path).shape == (40, 50, 3)


def test_a_label_of_arteries_and_veins_is_refused(tmp_path):
    label = np.zeros((40, 50, 3), np.uint8)
    label[5, :, 0] = label[9, :, 2] = label[:, 20, 1] = 255  # red, blue, green
    with pytest.raises(InputError, match="of what is not black is coloured"):
        images.read_label(save(tmp_path / "av.png", label))
    white = save(tmp_path / "white.png", np.repeat(label.max(2)[..., None], 3, 2))
    assert images.read_label(white).sum() == (label.max(2) > 0).sum()


def test_a_label_that_is_mostly_white_is_refused(tmp_path):
    """Black vessels on white, or the folder of fields of view in place of labels'."""
    label = np.full((40, 50), 255, np.uint8)
    label[:20] = 0
    assert read_label(save(tmp_path / "half.png", label)).mean() == 0.5
    label[20] = 255
    label[0] = 255
    with pytest.raises(InputError, match=r"52% vessel, expected a label: .* invert it"):
        read_label(save(tmp_path / "most.png", label))


@pytest.mark.parametrize("levels", [(0, 127, 255), (0, 1, 255), (0, 85, 170, 255)])
def test_a_label_of_classes_is_refused(tmp_path, levels):
    """By half the brightness alone one of them would be lost in silence."""
    label = np.zeros((40, 50), np.uint8)
    for row, level in enumerate(levels):
        label[row] = level
    with pytest.raises(InputError, match=f"{len(levels)} levels of grey"):
        read_label(save(tmp_path / "classes.png", label))


def test_photographs_and_labels_are_no_field_of_view(tmp_path):
    photograph = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    with pytest.raises(InputError, match="neither black nor white, expected a field"):
        images.read_fov(save(tmp_path / "photograph.png", photograph))
    label = np.zeros((40, 50), np.uint8)
    label[:4] = 255
    with pytest.raises(InputError, match="10% of it is white, as in a label"):
        images.read_fov(save(tmp_path / "label.png", label))


def tiff(path, pixels, **options):
    pytest.importorskip("tifffile").imwrite(path, pixels, **options)
    return path


def test_sixteen_bits_of_colour_are_right_or_refused(tmp_path):
    """Pillow takes each sample in a plane of its own for two pixels of eight bits."""
    deep = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), np.uint16)
    path = tiff(tmp_path / "pixels.tif", deep, photometric="rgb")
    assert np.abs(read_image(path) - deep / 257).max() <= 1
    planes = np.moveaxis(deep, 2, 0)
    options = {"photometric": "rgb", "planarconfig": "separate"}
    with pytest.raises(InputError, match="16-bit colour in separate planes"):
        read_image(tiff(tmp_path / "planes.tif", planes, **options))
    shallow = (planes >> 8).astype(np.uint8)
    path = tiff(tmp_path / "shallow.tif", shallow, **options)
    np.testing.assert_array_equal(read_image(path), np.moveaxis(shallow, 0, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_zero_is_white_a_tiff_is_inverted(tmp_path, dtype):
    full = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, full, (40, 50), dtype)
    plain = tiff(tmp_path / "plain.tif", pixels)
    turned = tiff(tmp_path / "turned.tif", full - pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(turned), read_image(plain))
    np.testing.assert_array_equal(images.read_gray(turned), pixels)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("left", [0.5, -2])
def test_a_truncated_tiff_is_to_be_copied_again(tmp_path, compression, left):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    path = tmp_path / "eye.tif"
    Image.fromarray(pixels).save(path, compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left) if left > 0 else left])
    with pytest.raises(InputError, match="truncated or damaged; copy it again"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_picture_whose_name_has_no_ending_is_known_by_its_first_bytes(tmp_path, kind):
    pixels = np.zeros((40, 50, 3), np.uint8)
    for name in ("IMG_0001", "x.bak", ".hidden"):
        Image.fromarray(pixels).save(tmp_path / name, kind)
    Image.fromarray(pixels).save(tmp_path / "y.JFIF", "JPEG")
    for name in ("notes", "empty"):
        (tmp_path / name).write_text("notes"[: 5 * (name == "notes")])
    found = [tmp_path / "IMG_0001", tmp_path / "y.JFIF"]
    assert list_images(tmp_path) == found
    assert find_images([tmp_path]) == (found, 4)


def test_where_zero_is_white_a_tiff_is_turned_and_is_one_picture(tmp_path):
    """Both are in tags that an inverted copy does not have."""
    pixels = np.random.default_rng(0).integers(0, 65535, (40, 50), np.uint16)
    turned = tiff(
        tmp_path / "turned.tif",
        65535 - pixels,
        photometric="miniswhite",
        extratags=[(274, 3, 1, 6, True)],  # a quarter turn
    )
    np.testing.assert_array_equal(images.read_gray(turned), np.rot90(pixels, -1))
    two = tiff(
        tmp_path / "two.tif", np.stack([pixels, pixels]), photometric="miniswhite"
    )
    with pytest.raises(InputError, match="holds 2 pictures"):
        images.read_label(two)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (np.int16, "signed pixels"),
        (np.float64, "a TIFF of another kind of pixels"),
        (np.float32, "pixels of kind F"),
    ],
)
def test_tiffs_of_other_numbers_are_refused_for_what_they_are(tmp_path, dtype, message):
    with pytest.raises(InputError, match=message):
        read_image(tiff(tmp_path / "numbers.tif", np.ones((40, 50), dtype)))


@pytest.mark.parametrize(("dtype", "value"), [("uint16", 255), ("uint8", 100)])
def test_a_field_of_view_without_a_bright_pixel_is_refused(tmp_path, dtype, value):
    path = tmp_path / "fov.png"
    cv2.imwrite(str(path), np.full((40, 50), value, dtype))
    with pytest.raises(InputError, match=f"its brightest pixel is {value} of"):
        images.read_fov(path)
