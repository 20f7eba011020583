"""DICOM files, made by pydicom itself, read like any other picture."""

import numpy as np
import pytest

from saunet.data.folder import load_folder
from saunet.data.images import is_image_name, read_image, read_mask, write_png
from saunet.data.listing import find_images
from saunet.data.pairing import list_images
from saunet.errors import InputError

pydicom = pytest.importorskip("pydicom")


def write(path, pixels, kind, *, bits=8, signed=0, frames=None, palette=None):
    """Writes an uncompressed ophthalmic photograph of these (H, W[, 3]) pixels."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.OphthalmicPhotography8BitImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = "1.2.3"
    data.PhotometricInterpretation = kind
    data.Rows, data.Columns = pixels.shape[-3:-1] if frames else pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim > 2 else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = signed
    if frames:
        data.NumberOfFrames = frames
    if palette is not None:
        for i, colour in enumerate(("Red", "Green", "Blue")):
            name = f"{colour}PaletteColorLookupTable"
            setattr(data, f"{name}Descriptor", [256, 0, 16])
            setattr(data, f"{name}Data", palette[:, i].astype("<u2").tobytes())
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data.save_as(path, enforce_file_format=True)
    return path


def random(*shape, top=256, kind=np.uint8):
    return np.random.default_rng(0).integers(0, top, shape, kind)


def test_colour(tmp_path):
    pixels = random(40, 51, 3)
    found = read_image(write(tmp_path / "eye.dcm", pixels, "RGB"))
    np.testing.assert_array_equal(found, pixels)


def test_one_without_its_ending_is_found_in_every_room(tmp_path):
    """`predict` took it, and `report`, `score` and a training did not."""
    for kind in ("images", "vessels"):
        (tmp_path / kind).mkdir()
    eye = write(tmp_path / "images" / "1.2.840.1", random(40, 50, 3), "RGB")
    label = np.zeros((40, 50), np.uint8)
    label[10:12] = 255
    write_png(tmp_path / "vessels" / "1.2.840.1.png", label)
    assert list_images(tmp_path / "images") == [eye]
    (sample,) = load_folder(tmp_path)
    assert sample.vessels.sum() == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"BitsStored": 6, "HighBit": 5}, "6 bits a value, expected 8 to 16"),
        ({"BitsStored": 12, "HighBit": 15}, "its 12 bits end at bit 15"),
    ],
)
def test_pixels_of_other_bits_are_refused(tmp_path, change, message):
    path = write(tmp_path / "eye.dcm", random(40, 50, 3), "RGB")
    data = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(data, name, value)
    data.save_as(path)
    with pytest.raises(InputError, match=message):
        read_image(path)


def test_a_mask_of_few_bits_is_one(tmp_path):
    pixels = random(40, 50, top=2)
    path = write(tmp_path / "mask.dcm", pixels, "MONOCHROME2", bits=1)
    np.testing.assert_array_equal(read_mask(path), pixels)


def test_pixels_that_are_not_said_to_be_signed_are_not(tmp_path):
    pixels = random(40, 50, 3)
    path = write(tmp_path / "eye.dcm", pixels, "RGB")
    data = pydicom.dcmread(path)
    del data.PixelRepresentation
    data.save_as(path)
    np.testing.assert_array_equal(read_image(path), pixels)


def test_the_content_decides_not_the_name(tmp_path):
    pixels = random(40, 50, 3)
    path = write(tmp_path / "IM0001", pixels, "RGB")
    np.testing.assert_array_equal(read_image(path), pixels)
    assert is_image_name("EYE.DCM")
    assert not is_image_name("IM0001")


def test_luminance_and_chrominance(tmp_path):
    """White, black, and red by the equations of JPEG, which DICOM takes."""
    ybr = np.zeros((32, 32, 3), np.uint8)
    ybr[:] = 0, 128, 128
    ybr[:8] = 255, 128, 128
    ybr[8:16] = 76, 85, 255  # 0.299 * 255, 128 - 0.1687 * 255, 128 + 0.5 * 255
    found = read_image(write(tmp_path / "eye.dcm", ybr, "YBR_FULL")).astype(int)
    for rows, colour in (
        (np.s_[:8], (255, 255, 255)),
        (np.s_[8:16], (255, 0, 0)),
        (np.s_[16:], (0, 0, 0)),
    ):
        assert np.abs(found[rows] - colour).max() <= 2


@pytest.mark.parametrize(("kind", "white"), [("MONOCHROME2", 255), ("MONOCHROME1", 0)])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey_of_any_depth(tmp_path, kind, white, bits):
    ramp = np.linspace(0, 2**bits - 1, 256).round()
    pixels = np.tile(ramp, (32, 1)).astype(np.uint8 if bits == 8 else np.uint16)
    found = read_image(write(tmp_path / "eye.dcm", pixels, kind, bits=bits))
    expected = np.arange(256)[:: 1 if white else -1]
    assert np.abs(found - expected[None, :, None].astype(int)).max() <= 1
    assert (found[..., 0] == found[..., 2]).all()


def test_deep_colour_keeps_its_high_byte(tmp_path):
    pixels = random(32, 32, 3, top=4096, kind=np.uint16)
    found = read_image(write(tmp_path / "eye.dcm", pixels, "RGB", bits=12))
    np.testing.assert_array_equal(found, pixels // 16)


def test_palette(tmp_path):
    palette = random(256, 3, top=65536, kind=np.uint16)
    pixels = random(32, 32)
    path = write(tmp_path / "eye.dcm", pixels, "PALETTE COLOR", palette=palette)
    np.testing.assert_array_equal(read_image(path), palette[pixels] // 256)


def test_compressed(tmp_path):
    pixels = random(40, 50, 3)
    path = write(tmp_path / "eye.dcm", pixels, "RGB")
    data = pydicom.dcmread(path)
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.save_as(path)
    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_compression_that_nothing_decodes_is_named(tmp_path, monkeypatch):
    kind = pydicom.uid.JPEGLosslessSV1
    monkeypatch.setattr(pydicom.pixels.get_decoder(kind), "_available", {})
    path = write(tmp_path / "eye.dcm", random(32, 32, 3), "RGB")
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8"])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = kind
    data.save_as(path)
    message = r"eye\.dcm: is compressed as JPEG Lossless.*: pip install pylibjpeg "
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_photograph_is_refused(tmp_path):
    path = tmp_path / "eye.dcm"
    with pytest.raises(InputError, match=r"eye\.dcm: 5 frames"):
        read_image(write(path, random(5, 32, 32, 3), "RGB", frames=5))
    pixels = random(32, 32, kind=np.int16)
    with pytest.raises(InputError, match="signed"):
        read_image(write(path, pixels, "MONOCHROME2", bits=16, signed=1))
    write(path, random(32, 32, top=4096, kind=np.uint16) << 4, "MONOCHROME2", bits=12)
    data = pydicom.dcmread(path)
    data.HighBit = 15
    data.save_as(path)
    with pytest.raises(InputError, match="its 12 bits end at bit 15, expected 11"):
        read_image(path)
    with pytest.raises(InputError, match="at least 32 a side"):
        read_image(write(path, random(8, 32, 3), "RGB"))
    write(path, random(32, 32, 3), "RGB")
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    with pytest.raises(InputError, match="without a picture"):
        read_image(path)


@pytest.mark.parametrize("kept", [132, 200, 400, -100])
def test_a_damaged_file_is_one_line(tmp_path, kept):
    path = write(tmp_path / "eye.dcm", random(32, 32, 3), "RGB")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_knows_it_without_its_ending(tmp_path):
    """As archives name their files; the index of a disc is no photograph."""
    for name in ("IM000001", "1.2.840.5", "DICOMDIR"):
        write(tmp_path / name, random(32, 32, 3), "RGB")
    (tmp_path / "notes").write_text("left eye")
    found, ignored = find_images([tmp_path])
    assert [path.name for path in found] == ["1.2.840.5", "IM000001"]
    assert ignored == 2


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "eye.dcm", random(32, 32, 3), "RGB")
    # Version 2 has none of these pixels.
    monkeypatch.setitem(__import__("sys").modules, "pydicom.pixels", None)
    with pytest.raises(InputError, match=r"pip install 'saunet\[dicom\]'"):
        read_image(path)
