"""Reading photographs in DICOM files, as fundus cameras send them to archives.

The format: https://www.dicomstandard.org, part 3, "Ophthalmic Photography Image".
Needs pydicom, the extra `dicom`.
"""

import numpy as np

from saunet.errors import InputError, need

MAX_PIXELS = 179_000_000  # Pillow's own limit for pictures
_MAGIC = b"DICM"  # after a preamble of 128 bytes


def is_dicom(file):
    """Returns whether an open file starts as DICOM; its position stays."""
    position = file.tell()
    head = file.read(128 + len(_MAGIC))
    file.seek(position)
    return head[128:] == _MAGIC


def read_dicom(file, path):
    """Reads the one frame of a DICOM file.

    Args:
        file: open binary file.
        path: its name, for messages.

    Returns:
        (H, W) uint16, 65535 being the largest value that the file's bits can hold, or
        (H, W, 3) uint8 RGB, of deeper colours the high byte. Displays' windows are not
        applied: the network was trained on what cameras write.

    Raises:
        InputError: pydicom or what decodes the file's compression is not installed,
            or the file holds no picture, several frames, signed or too many pixels.
        Exception: of many kinds, for a damaged file.
    """
    need("pydicom.pixels", "dicom", f"{path}: a DICOM file")
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    data = pydicom.dcmread(file)
    if "PixelData" not in data:
        raise InputError(f"{path}: a DICOM file without a picture, expected one")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(
            f"{path}: {frames} frames, expected one photograph: export them one by one"
        )
    if data.Rows * data.Columns > MAX_PIXELS:
        raise InputError(
            f"{path}: more than {MAX_PIXELS // 10**6} megapixels: scale the picture "
            "down or cut it"
        )
    fewest = 1 if data.SamplesPerPixel == 1 else 8
    if not fewest <= data.BitsStored <= 16:
        raise InputError(
            f"{path}: {data.BitsStored} bits a value, expected {fewest} to 16: export "
            "it as TIFF"
        )
    if "PixelRepresentation" not in data:
        data.PixelRepresentation = 0  # some leave it out where it is plain
    if data.PixelRepresentation:
        raise InputError(
            f"{path}: signed pixels, expected those of a photograph: export it as TIFF"
        )
    if data.HighBit != data.BitsStored - 1:
        raise InputError(
            f"{path}: its {data.BitsStored} bits end at bit {data.HighBit}, expected "
            f"{data.BitsStored - 1}: export it as TIFF"
        )
    kind, bits = data.PhotometricInterpretation, int(data.BitsStored)
    try:
        pixels = pixel_array(data)  # YBR becomes RGB here
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise
        raise InputError(
            f"{path}: is compressed as {data.file_meta.TransferSyntaxUID.name}, and "
            f"what decodes it is not installed: pip install pylibjpeg "
            f"pylibjpeg-libjpeg pylibjpeg-openjpeg"
        ) from error
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 3:
        return (pixels >> (bits - 8)).astype(np.uint8)
    top = 2**bits - 1
    if kind == "MONOCHROME1":  # 0 is white
        pixels = top - pixels
    return np.round(pixels * (65535 / top)).astype(np.uint16)
