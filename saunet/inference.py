"""From a fundus photograph of any size to its vessel map, and from files to files."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from saunet import viz, weights
from saunet.data.images import (
    IMAGE_SUFFIXES,
    image_stem,
    is_image_name,
    read_image,
    write_png,
)
from saunet.data.padding import pad, padded_size, unpad
from saunet.data.synthetic import synthetic_fundus
from saunet.engines import (
    METADATA,
    KerasEngine,
    check_engine,
    make_engine,
    open_exported,
    read_metadata,
)
from saunet.errors import InputError
from saunet.export import export
from saunet.models import build_model, list_models

PADDING = {"placement": "centered", "multiple": 16, "square": True}
OUTPUTS = ("prob", "mask", "overlay")

# Of the padded image. SA-UNetv2 takes about 250 bytes a pixel on a CPU, so 8 GB;
# no fundus camera makes larger pictures.
MAX_PIXELS = 32_000_000

# Flipped axes of one image (rows, columns). Each of them undoes itself.
FLIPS = ((), (0,), (1,), (0, 1))


class Segmenter:
    """A network with the preprocessing and the threshold that belong to it.

    Args:
        model: `keras.Model`, (N, H, W, 3) in [0, 1] -> (N, H, W, 1) in [0, 1].
        threshold: a pixel is a vessel if its probability is above this.
        padding: `{"placement", "multiple", "square"}`, as in
            `saunet.data.padding`; weights are tied to the padding they were
            trained with.
        name: shown in tables; the model's name by default.
        engine: "auto" (the fastest that is installed), "keras", "openvino" or
            "onnxruntime"; or an engine of `saunet.engines`, and then `model` may be
            `None`. It is made by the first prediction, with the weights of then.
        precision: "float32", or "bfloat16" (OpenVINO).
        threads: CPU threads of OpenVINO and ONNX Runtime; their choice by default.

    Raises:
        InputError: the threshold or the padding makes no sense, or there is no such
            engine or precision.
    """

    def __init__(
        self,
        model,
        *,
        threshold=0.5,
        padding=None,
        name=None,
        engine="auto",
        precision="float32",
        threads=None,
    ):
        padding = dict(PADDING if padding is None else padding)
        if set(padding) != set(PADDING):
            raise InputError(
                f"padding has the keys {sorted(padding)}: expected {sorted(PADDING)}"
            )
        self.model = model
        self.threshold = checked_threshold(threshold)
        self.padding = padding
        self.name = model.name if name is None else name
        self._engine = None
        if isinstance(engine, str):
            check_engine(engine, precision)
            self._make_engine = lambda: make_engine(
                model, engine, precision=precision, threads=threads
            )
        else:
            self._make_engine = lambda: engine

    @property
    def engine(self):
        """What computes: an engine of `saunet.engines`, made when first asked for."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def predict(self, image, *, views=1):
        """Returns the vessel probability of every pixel.

        Args:
            image: (H, W, 3) RGB, uint8 or float in [0, 1].
            views: test-time augmentation. 1: the image as it is. 4: the mean
                over its flips. 8: over its flips and rotations by 90 degrees;
                costs eight times as much.

        Returns:
            (H, W) float32 in [0, 1], at the image's own size.

        Raises:
            InputError: not such an image, too large a one, or another number of
                views.
        """
        image = np.asarray(image)
        _check_shape(image)
        self._padded_size(image)  # before the copies that follow
        image = _unit_range(image)
        if views not in (1, 4, 8):
            raise InputError(f"{views!r} views: expected 1, 4 (flips) or 8 (and turns)")
        maps = []
        for transposed in (False, True) if views == 8 else (False,):
            turned = image.swapaxes(0, 1) if transposed else image
            for axes in FLIPS[: min(views, 4)]:
                vessels = np.flip(self._run(np.flip(turned, axes)), axes)
                maps.append(vessels.T if transposed else vessels)
        return np.mean(maps, axis=0, dtype=np.float32) if views > 1 else maps[0]

    def mask(self, image, *, views=1):
        """Returns (H, W) uint8: 1 where the probability is above the threshold."""
        return (self.predict(image, views=views) > self.threshold).astype(np.uint8)

    def prepare(self, image):
        """Returns what the network sees of an image: (1, H, W, 3) float32, padded."""
        image = np.asarray(image)
        _check_shape(image)
        full = self._padded_size(image)  # before the copies that follow
        return pad(_unit_range(image), full, self.padding["placement"])[np.newaxis]

    def _run(self, image):
        padded = self.prepare(image)
        vessels = self.engine(padded)[0, ..., 0]
        vessels = unpad(vessels, image.shape[:2], self.padding["placement"])
        return np.ascontiguousarray(vessels)

    def _padded_size(self, image):
        height, width = image.shape[:2]
        full = padded_size(
            height,
            width,
            multiple=self.padding["multiple"],
            square=self.padding["square"],
        )
        if full[0] * full[1] > MAX_PIXELS:
            raise InputError(
                f"an image of {width}x{height} pixels, padded to {full[1]}x{full[0]}: "
                f"expected at most {MAX_PIXELS // 10**6} megapixels; scale it down to "
                f"the size of the training images"
            )
        return full


def checked_threshold(value):
    """Returns the threshold as a float; InputError unless it lies in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"threshold {value}: expected a number in [0, 1), such as 0.5")
    return float(value)


def _check_shape(image):
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"image of shape {image.shape}: expected (height, width, 3), RGB; "
            f"read files with saunet.data.images.read_image"
        )


def _unit_range(image):
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(
            f"image of type {image.dtype}: expected uint8, or float in [0, 1]; "
            f"divide by the largest value the type stands for"
        )
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise InputError(
            f"float image with values from {low:g} to {high:g}: expected [0, 1]; "
            f"divide 8-bit values by 255"
        )
    return image.astype(np.float32)


def load_pretrained(name_or_folder, **engine):
    """Returns the `Segmenter` of a shipped weight or of a folder with a card.

    Args:
        name_or_folder: such as "sa_unet_v2_drive", or the path of a folder that
            holds `card.json` and the weights it names.
        **engine: `engine`, `precision` and `threads` of `Segmenter`.

    Raises:
        InputError: no such weights, or the file is not the one the card describes.
    """
    folder = weights.find_pretrained(name_or_folder)
    card = weights.read_card(folder)
    model = build_model(card["model"], **card["model_kwargs"])
    weights.load_weights(model, folder / card["weights"])
    return Segmenter(
        model,
        threshold=card["threshold"]["value"],
        padding=card["preprocessing"]["padding"],
        name=card["name"],
        **engine,
    )


def load_segmenter(name_or_file, model=None, **engine):
    """Returns the `Segmenter` of a shipped name, a card's folder, or a file.

    Args:
        name_or_file: what the command line calls NAME_OR_H5; also an `.onnx` that
            `saunet export` wrote.
        model: the network's key; needed for an .h5 file, which does not say, and
            refused where the card or the `.onnx` says otherwise.
        **engine: `engine`, `precision` and `threads` of `Segmenter`.

    Raises:
        InputError: nothing there, or `model` is missing, unknown or another one.
    """
    path = Path(name_or_file)
    if path.suffix == ".onnx":
        return _load_onnx(path, model, **engine)
    if path.suffix.lower() in (".h5", ".hdf5") or path.is_file():
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the weights of a network")
        if model is None:
            raise InputError(
                f"{path} does not say which network it belongs to: add --model with "
                f"one of {', '.join(list_models())}"
            )
        network = build_model(model)
        weights.load_weights(network, path)
        return Segmenter(network, name=f"{model} ({path.name})", **engine)
    card = weights.read_card(weights.find_pretrained(name_or_file))
    if model not in (None, card["model"]):
        raise InputError(
            f"{name_or_file} holds a {card['model']}, not a {model}: leave --model out"
        )
    return load_pretrained(name_or_file, **engine)


def _load_onnx(path, model, engine="auto", precision="float32", threads=None):
    runner = open_exported(path, engine, precision=precision, threads=threads)
    about = read_metadata(path)
    if about is None:
        raise InputError(
            f"{path} does not say how its images were padded: expected a file written "
            f"by `saunet export`"
        )
    if model not in (None, about["model"]):
        raise InputError(
            f"{path} holds a {about['model']}, not a {model}: leave --model out"
        )
    return Segmenter(
        None,
        threshold=about["threshold"],
        padding=about["padding"],
        name=about["name"],
        engine=runner,
    )


def export_segmenter(segmenter, path, file_format, *, calibration=None):
    """Writes a segmenter's network for other programs; see `saunet.export.export`.

    An ONNX file also says the network's key, threshold and padding, so that
    `load_segmenter` needs nothing else.

    Args:
        segmenter: a `Segmenter` of a `keras.Model`.
        path: where to.
        file_format: "onnx", "openvino", "litert" or "saved_model".
        calibration: paths of photographs and of folders of them; given these, an
            ONNX file computes its convolutions in 8-bit integers.

    Returns:
        The largest difference from Keras on a drawn photograph, in [0, 1], or `None`
        where nothing that runs the file is installed.
    """
    if segmenter.model is None:
        raise InputError(f"{segmenter.name} is an exported network already")
    batches = None
    if calibration is not None:
        batches = [
            segmenter.prepare(read_image(p)) for p in find_images(calibration)[0]
        ]
    about = {
        "name": segmenter.name,
        "model": segmenter.model.name,
        "threshold": segmenter.threshold,
        "padding": segmenter.padding,
    }
    export(
        segmenter.model,
        path,
        file_format,
        properties={METADATA: json.dumps(about)},
        calibration=batches,
    )
    try:
        engine = open_exported(path)
    except InputError:
        return None
    batch = segmenter.prepare(synthetic_fundus(0).image)
    return float(np.abs(engine(batch) - KerasEngine(segmenter.model)(batch)).max())


def find_images(inputs):
    """Lists the photographs that files and folders stand for.

    Args:
        inputs: paths. Of a folder, its own image files in sorted order.

    Returns:
        (list of paths, number of other files that the folders hold).

    Raises:
        InputError: a path that is not there, or a folder without an image.
    """
    found, ignored = [], 0
    for path in map(Path, inputs):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: no such file or folder; check the path")
            found.append(path)
            continue
        files = [p for p in sorted(path.iterdir()) if p.is_file()]
        images = [p for p in files if is_image_name(p) and p.name[0] != "."]
        if not images:
            raise InputError(
                f"{path}: no image among its {len(files)} files; expected "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        found += images
        ignored += len(files) - len(images)
    return found, ignored


def writable_folder(path):
    """Returns the folder, made if need be; InputError if nothing can be written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {os.strerror(error.errno)}; choose another "
            f"folder with --out"
        ) from error
    return folder


def predict_files(
    segmenter, inputs, out_dir, *, threshold=None, views=1, progress=False
):
    """Segments photographs and writes three pictures for each.

    `<stem>_prob.png` is the probability in 16 bits (65535 is 1), `<stem>_mask.png`
    is 255 where it is above the threshold and else 0, `<stem>_overlay.png` is the
    photograph with the vessels drawn on it. A file that cannot be read is skipped,
    unless it is the only one.

    Args:
        segmenter: a `Segmenter`.
        inputs: paths of photographs and of folders of them.
        out_dir: folder to write to; made if need be.
        threshold: the segmenter's own unless given.
        views: as in `Segmenter.predict`.
        progress: show a bar on stderr.

    Returns:
        `{"written": [stems], "skipped": {path: reason}, "ignored": number of files
        in the folders that are no images}`.

    Raises:
        InputError: nothing to read, nowhere to write, or two photographs (or a
            photograph and a result) that would share a file. Said before computing.
    """
    threshold = segmenter.threshold if threshold is None else threshold
    threshold = checked_threshold(threshold)
    paths, ignored = find_images(inputs)
    _refuse_collisions(paths, Path(out_dir))
    folder = writable_folder(out_dir)
    written, skipped = [], {}
    for path in track(
        paths, "segmenting", console=Console(stderr=True), disable=not progress
    ):
        try:
            image = read_image(path)
            probability = segmenter.predict(image, views=views)
        except InputError as error:
            # The file's name is in the reader's message, not in the network's.
            named = str(path) in str(error)
            skipped[path] = str(error) if named else f"{path}: {error}"
            continue
        mask = (probability > threshold).astype(np.uint8)
        pictures = (
            np.round(probability * 65535).astype(np.uint16),
            mask * np.uint8(255),
            viz.overlay(image, mask),
        )
        for kind, picture in zip(OUTPUTS, pictures, strict=True):
            write_png(folder / f"{image_stem(path)}_{kind}.png", picture)
        written.append(image_stem(path))
    if not written:
        reason = next(iter(skipped.values()))
        more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
        raise InputError(reason + more)
    return {"written": written, "skipped": skipped, "ignored": ignored}


def _refuse_collisions(paths, folder):
    for stem, count in Counter(map(image_stem, paths)).items():
        if count > 1:
            twins = ", ".join(str(p) for p in paths if image_stem(p) == stem)
            raise InputError(
                f"{twins} would all be written to {stem}_*.png: rename them or run "
                f"them into different folders"
            )
    results = {
        (folder / f"{image_stem(path)}_{kind}.png").resolve()
        for path in paths
        for kind in OUTPUTS
    }
    for path in paths:
        if path.resolve() in results:
            raise InputError(
                f"{path} would be overwritten by a result: choose another folder "
                f"with --out"
            )
