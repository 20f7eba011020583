"""Reading any picture as 8-bit RGB, labels as {0, 1}, and writing PNG atomically."""

import gzip
import os
import struct
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from saunet.data.buckets import BucketFile, as_path
from saunet.data.dicom import is_dicom, read_dicom
from saunet.errors import InputError

# Endings rather than `Path.suffix`, which sees only the ".gz" of ".ppm.gz".
IMAGE_SUFFIXES = (
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".ppm",
    ".ppm.gz",
    ".gif",
    ".bmp",
    ".webp",
    ".dcm",
)
MIN_SIDE = 32  # pixels; below it a picture is an icon, and no photograph
_FORMATS = ("TIFF", "PNG", "JPEG", "PPM", "GIF", "BMP", "WEBP")
_GZIP_MAGIC = b"\x1f\x8b"
_TIFF_MAGICS = (b"II*\0", b"MM\0*")
# Bytes of a value, by its kind in TIFF 6.0; else 1.
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", *_TIFF_MAGICS)  # of names without an ending


def is_image_name(path):
    """Returns whether the file name ends like a picture that `read_image` knows."""
    return Path(path).name.lower().endswith(IMAGE_SUFFIXES)


def is_image(path):
    """Returns whether a file is a picture by its name, or else by its first bytes.

    DICOM by any name; JPEG, PNG and TIFF where the name has no ending. Of a bucket the
    name alone counts, and the index of a disc (DICOMDIR) is no photograph.
    """
    if is_image_name(path.name):
        return True
    if isinstance(path, BucketFile) or path.name == "DICOMDIR":
        return False
    with suppress(OSError), path.open("rb") as file:
        return is_dicom(file) or (not path.suffix and file.read(4).startswith(_MAGICS))
    return False


def image_stem(path):
    """Returns the file name without its picture ending: `im0001.ppm.gz` -> `im0001`."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def sides(array):
    """Returns a picture's size for a message: "565x584", the width first."""
    return f"{array.shape[1]}x{array.shape[0]}"


def of_one_size(mask, image, path):
    """Returns the mask of a photograph; InputError where it has another size."""
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"{path}: {sides(mask)} pixels, but its photograph is {sides(image)} "
            "pixels: both must be of one size"
        )
    return mask


def read_image(path):
    """Reads one picture of any common kind as RGB.

    16-bit grey is scaled by 1/257 (65535 becomes 255); 16-bit colour keeps the
    high byte. Transparency is composited onto black, because black is what
    surrounds a fundus photograph and the colours under a transparent pixel are
    arbitrary. The orientation in the EXIF block is applied.

    Args:
        path: file name or URI; tif, png, jpg, ppm, ppm.gz, gif, bmp, webp or DICOM,
            told apart by content.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        InputError: the file is missing, empty, truncated, not a picture, has a
            side under 32 pixels, or more pixels than Pillow's limit (about 179
            million).
    """
    pixels = read_rgb(path)
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"{path}: {sides(pixels)} pixels, expected at least "
            f"{MIN_SIDE} a side: give a whole fundus photograph"
        )
    return pixels


def read_rgb(path):
    """As `read_image`, but any size is taken."""
    return np.array(_to_8_bit(_decode(path), path).convert("RGB"))


def read_gray(path):
    """Reads one picture as brightness, 16 bits kept where the file has them.

    Returns:
        `(H, W)` uint8, or uint16 for 16-bit grey files.

    Raises:
        InputError: as `read_image`, but any size is taken; or the file holds several
            pictures: of a photograph the first is it, of labels each may be one.
    """
    return _gray(_decode(path, single=True), path)


def read_gray_map(path):
    """As `read_gray`, of a method's result: no photograph in its place.

    Raises:
        InputError: as `read_gray`, or a pixel's colours differ by more than JPEG's
            eight of 255.
    """
    image = _decode(path, single=True)
    if image.mode[0] not in "1LI":
        pixels = np.array(_to_8_bit(image, path).convert("RGB"), np.int16)
        if np.ptp(pixels, axis=2).max() > 8:
            raise InputError(
                f"{path}: a colour picture, expected a grey probability map: run "
                "`saunet predict` on the photographs first"
            )
    return _gray(image, path)


def read_mask(path):
    """Reads a label or mask picture: vessel (or inside) where brightness > 127.

    A file that holds only 0 and 1 is taken as it is; by the threshold alone it
    would silently be empty.

    Returns:
        `(H, W)` uint8 in {0, 1}.

    Raises:
        InputError: as `read_gray`.
    """
    return _bright(read_gray(path))


def read_label(path):
    """Reads a truth, and refuses the photograph that lies beside it."""
    image = _decode(path, single=True)
    gray, coloured = _gray(image, path), _coloured(image, path)
    if coloured > 0.01:
        raise InputError(
            f"{path}: {coloured:.0%} of what is not black is coloured, expected a "
            "label: white vessels on black (paint arteries and veins white)"
        )
    between = _share_between(gray)
    if between > 0.1:
        raise InputError(
            f"{path}: {between:.0%} of its pixels are neither black nor white, "
            "expected a label: give a folder that holds the labels alone"
        )
    full = np.iinfo(gray.dtype).max
    levels = len(np.unique(gray))
    # Classes; JPEG leaves more, and so does scaling, but for a half or third by area.
    if 2 < levels <= 16:
        raise InputError(
            f"{path}: {levels} levels of grey, expected a label of two: paint all "
            "vessels white and the rest black; one that was scaled, cut at one half"
        )
    vessels = _bright(gray)
    if gray.any() and not vessels.any():
        raise InputError(
            f"{path}: its brightest pixel is {gray.max()} of {full}, expected a label: "
            "white vessels on black"
        )
    if not vessels.any() and _is_transparent(image):
        raise InputError(
            f"{path}: all black once its transparent pixels are: expected a label: "
            "white vessels on black"
        )
    if vessels.mean() > 0.5:
        raise InputError(
            f"{path}: {vessels.mean():.0%} vessel, expected a label: white vessels on "
            "black: invert it, or, if it is a field of view, give the labels' folder"
        )
    return vessels


def read_fov(path):
    """Reads a field of view, and refuses one that is empty."""
    gray = read_gray(path)
    inside = _bright(gray)
    if not inside.any():
        raise InputError(
            f"{path}: its brightest pixel is {gray.max()} of "
            f"{np.iinfo(gray.dtype).max}, expected a field of view: white on black"
        )
    between = _share_between(gray)
    if between > 0.1:
        raise InputError(
            f"{path}: {between:.0%} of its pixels are neither black nor white, "
            "expected a field of view: give a folder that holds these alone"
        )
    if inside.mean() < 0.125:  # vessels cover no more of a retina
        raise InputError(
            f"{path}: {inside.mean():.0%} of it is white, as in a label, expected a "
            "field of view: give a folder that holds these alone"
        )
    return inside


def _share_between(gray):
    """Returns which share of a picture's pixels are neither black nor white.

    A mask saved as JPEG has a few at its edges; a photograph has most.
    """
    full = np.iinfo(gray.dtype).max
    return np.mean((gray > full // 8) & (gray < full - full // 8))


def _is_transparent(image):
    """Returns whether any pixel is; a picture with an alpha channel may have none."""
    if not image.has_transparency_data:
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def _coloured(image, path):
    """Returns which share of a picture's pixels that are not black has a colour."""
    if image.mode[0] in "1LI":
        return 0.0
    pixels = np.array(_to_8_bit(image, path).convert("RGB"))
    brightest = pixels.max(axis=2)
    saturated = brightest - pixels.min(axis=2) > 96
    return saturated.sum() / max(1, (brightest > 32).sum())


def _bright(gray):
    """Returns where a picture is above one half; one of 0 and 1 as it is."""
    if gray.max() <= 1:
        return gray.astype(np.uint8)
    return (gray > np.iinfo(gray.dtype).max // 2).astype(np.uint8)


def write_png(path, array):
    """Writes a PNG beside its name first, then renames: it is whole or absent.

    Args:
        path: file name; its folder must exist.
        array: `(H, W)` or RGB `(H, W, 3)` uint8, or `(H, W)` uint16.

    Raises:
        InputError: the folder is missing or unwritable, or the disk is full;
            whatever the name held before is unchanged.
        ValueError: the array has another shape or type.
    """
    array = np.asarray(array)
    colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    gray = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or gray):
        raise ValueError(
            f"Cannot write {array.dtype} {array.shape} as PNG: expected (H, W) uint8 "
            "or uint16, or (H, W, 3) uint8."
        )
    if colour:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
    write_bytes(path, cv2.imencode(".png", array)[1].tobytes())


def write_bytes(path, content, *, sync=False):
    """Writes `content` to a file, as `replacing` does."""
    with replacing(path, sync=sync) as beside:
        beside.write_bytes(content)


@contextmanager
def replacing(path, *, sync=False):
    """Yields a path to write to, and renames it to `path` if all went well.

    The file is afterwards whole, or as it was before; with `sync` also after a loss of
    power, which takes as long as the disk does.

    Raises:
        InputError: the folder is missing or unwritable, or the disk is full.
    """
    path = Path(path)
    beside = part_of(path)
    try:
        try:
            yield beside
            if sync:
                with beside.open("r+b") as file:
                    os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        number = error.errno
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be written ({reason}): give an existing, writable folder "
            "with free space"
        ) from error


def writable_folder(path, option="--out"):
    """Returns the folder, made if need be; InputError if nothing can be written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {os.strerror(error.errno)}; choose another "
            f"folder with {option}"
        ) from error
    return folder


def part_of(path):
    """Returns the file beside `path` that is written first.

    Hidden, so that nobody takes one that a killed process left for a result; it ends
    like `path`, by which Keras knows the format.
    """
    return path.with_name(f".{os.getpid()}.{path.name}")


def _decode(path, *, single=False):
    """Returns a loaded, upright Pillow image in whatever mode the file has."""
    path = as_path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a picture file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes): copy the file again")
        with path.open("rb") as raw, warnings.catch_warnings():
            # What Pillow warns of is either harmless or raised below.
            warnings.simplefilter("ignore")
            if is_dicom(raw):
                return Image.fromarray(read_dicom(raw, path))
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if zipped else raw
            image = Image.open(file, formats=_FORMATS)
            image.load()
            if single and getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"{path}: holds {image.n_frames} pictures, expected one: save the "
                    "one that is meant by itself"
                )
            zero_is_white = _check_tiff(image, path)  # a turned copy has no tags
            image = ImageOps.exif_transpose(image)
            if zero_is_white:
                image = Image.fromarray(65535 - _deep(image, path))
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read: change its permissions") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels: "
            "scale the picture down or cut it"
        ) from error
    except Image.UnidentifiedImageError as error:
        if _starts_as_tiff(path):
            if not _holds_its_tags(path):
                raise InputError(
                    f"{path}: ends before its tags do: the file is truncated or "
                    "damaged; copy it again"
                ) from error
            raise InputError(
                f"{path}: a TIFF of another kind of pixels, expected grey or colour of "
                "8 or 16 bits: convert the file"
            ) from error
        raise InputError(
            f"{path}: not a picture, expected {', '.join(IMAGE_SUFFIXES)}: "
            "convert the file to one of these"
        ) from error
    except Exception as error:  # a damaged file makes decoders raise almost anything
        if getattr(error, "strerror", None):  # of the system, not of a decoder
            raise InputError(
                f"{path}: cannot be read ({error.strerror}): check its name and disk"
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: cannot be read as a picture ({reason[0]}): the file may be "
            "truncated or damaged; copy it again"
        ) from error
    return image


# Tags of TIFF 6.0.
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 259, 262, 284, 339


def _check_tiff(image, path):
    """Refuses the TIFFs of which Pillow reads other pixels than they hold.

    Returns:
        Whether it reads white as black: of 16 bits it does not heed that 0 is white.
    """
    tags = getattr(image, "tag_v2", {})
    deep = max(tags.get(_BITS, (1,))) > 8
    if deep and tags.get(_PLANES) == 2 and tags.get(_COMPRESSION) == 1:
        raise InputError(
            f"{path}: 16-bit colour in separate planes, expected it pixel by pixel: "
            "save it so, or compressed"
        )
    if 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise InputError(
            f"{path}: signed pixels, expected those of a photograph: convert the file"
        )
    return deep and image.mode[0] == "I" and tags.get(_PHOTOMETRIC) == 0


def _starts_as_tiff(path):
    with path.open("rb") as file:
        return file.read(4) in _TIFF_MAGICS


def _holds_its_tags(path):
    """Returns whether a TIFF is as long as its list of tags says, often at its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(4) == _TIFF_MAGICS[0] else ">"
        try:
            (start,) = struct.unpack(f"{order}I", file.read(4))
            file.seek(start)
            (count,) = struct.unpack(f"{order}H", file.read(2))
            for _ in range(count):
                _, kind, many, place = struct.unpack(f"{order}HHII", file.read(12))
                long = many * _TIFF_SIZES.get(kind, 1)
                if long > 4 and place + long > size:
                    return False
        except struct.error:
            return False
    return True


def _to_8_bit(image, path):
    """Returns a picture of any mode as L or RGB."""
    if image.mode[0] == "I":
        return Image.fromarray(
            ((_deep(image, path).astype(np.uint32) + 128) // 257).astype(np.uint8)
        )
    if image.mode in ("F", "LAB"):
        raise InputError(
            f"{path}: pixels of kind {image.mode}, expected grey or colour of 8 or 16 "
            "bits: convert the file"
        )
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _gray(image, path):
    """Returns a picture's brightness, 16 bits kept where it has them."""
    if image.mode[0] == "I":
        return _deep(image, path)
    return np.array(_to_8_bit(image, path).convert("L"))


def _deep(image, path):
    """Returns a 16-bit grey picture, which Pillow may hold in 32 bits, as uint16."""
    pixels = np.array(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise InputError(
            f"{path}: 32-bit picture, expected 8 or 16 bits: convert the file"
        )
    return pixels.astype(np.uint16)
