"""From a fundus photograph of any size to its vessel map."""

import hashlib
import json
from numbers import Real
from pathlib import Path

import numpy as np

from saunet import weights
from saunet.data.field import field_of_view, resize, scale_factor, scaled_size
from saunet.data.images import MIN_SIDE, read_image
from saunet.data.listing import find_images
from saunet.data.padding import checked_padding, pad, padded_size, unpad
from saunet.data.runs import read_run
from saunet.data.synthetic import synthetic_fundus
from saunet.data.tiling import HALO, RAMP, TILE, WHOLE_PIXELS, predict_tiles
from saunet.engines import (
    METADATA,
    KerasEngine,
    check_engine,
    make_engine,
    open_exported,
    read_metadata,
)
from saunet.errors import InputError, MissingPackageError
from saunet.export import check_export, export
from saunet.models import build_model

PADDING = {"placement": "centered", "multiple": 16, "square": True}

# What the engine gets at once. SA-UNetv2 takes about 250 bytes a pixel on a CPU, so
# 8 GB; no fundus camera makes larger pictures.
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
        precision: "float32", or "bfloat16" (Keras and OpenVINO).
        threads: CPU threads of OpenVINO and ONNX Runtime; their choice by default.
        fov_diameter: of the training images' fields of view, pixels, or a list of the
            smallest and the largest; `None` where it is not known, and then `predict`
            cannot scale by it.
        digest: str, what tells the network from others where `model` is `None`.

    Raises:
        InputError: `model` is a name or has several outputs, the threshold or the
            padding makes no sense, or there is no such engine or precision.
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
        fov_diameter=None,
        digest=None,
    ):
        if isinstance(model, str | Path):
            raise InputError(
                f"{model}: expected a keras.Model; load_pretrained({str(model)!r}) "
                f"returns the Segmenter of weights"
            )
        if model is not None and len(model.outputs) != 1:
            raise InputError(
                f"{model.name} has {len(model.outputs)} outputs, expected one map: "
                "build it with one"
            )
        self.model = model
        self.threshold = checked_threshold(threshold)
        self.padding = checked_padding(PADDING if padding is None else padding)
        self.fov_diameter = fov_diameter
        self.digest = digest
        self.precision = precision
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

    def predict(self, image, *, views=1, tile=None, scale=1, zero_outside=False):
        """Returns the vessel probability of every pixel.

        Args:
            image: (H, W, 3) RGB, uint8 or float in [0, 1].
            views: test-time augmentation. 1: the image as it is. 4: the mean
                over its flips. 8: over its flips and rotations by 90 degrees;
                costs eight times as much.
            tile: side of the square tiles that the padded image is cut into, pixels;
                or "whole"; by default whole up to `WHOLE_PIXELS`, else `TILE`.
            scale: what the network sees is so many times as large; the result is
                scaled back. "auto": so that the field of view gets the diameter of
                the training images', unless it is near (`saunet.data.field`).
            zero_outside: set the probability to 0 outside the field of view.

        Returns:
            (H, W) float32 in [0, 1], at the image's own size.

        Raises:
            InputError: not such an image, too large a one for "whole", or an option
                that is none of these.
        """
        image = np.asarray(image)
        _check_image(image)
        self.check_options(views=views, tile=tile, scale=scale)
        fov, factor = None, scale
        if scale == "auto" or zero_outside:
            fov, diameter = field_of_view(_bytes(image))
        if scale == "auto":
            factor = scale_factor(diameter, self.fov_diameter)
        size = scaled_size(image.shape, factor)
        if factor < 1 and min(size) < MIN_SIDE:
            raise InputError(
                f"a picture of {image.shape[1]}x{image.shape[0]} pixels scaled by "
                f"{factor:g}: expected at least {MIN_SIDE} a side; give a larger scale"
            )
        self._tile(size, tile)  # before anything is computed
        probability = self._views(resize(image, size), views, tile)
        probability = resize(probability, image.shape[:2])
        # Where tiles join, or views, the sum of ones may be rounded above one.
        probability = np.minimum(probability, 1)
        if zero_outside:
            probability = probability * fov
        return probability

    def mask(self, image, **options):
        """Returns (H, W) uint8: 1 where the probability is above the threshold.

        Args:
            image: as in `predict`.
            **options: likewise.
        """
        return (self.predict(image, **options) > self.threshold).astype(np.uint8)

    def _views(self, image, views, tile):
        if views == 1:
            return self._run(image, tile)
        total = np.zeros(image.shape[:2], np.float32)
        for transposed in (False, True) if views == 8 else (False,):
            turned = image.swapaxes(0, 1) if transposed else image
            for axes in FLIPS:
                vessels = np.flip(self._run(np.flip(turned, axes), tile), axes)
                total += vessels.T if transposed else vessels
        return total / np.float32(views)

    def check_options(self, *, views=1, tile=None, scale=1, zero_outside=False):
        """Raises `InputError` for options that `predict` takes of no image."""
        if views not in (1, 4, 8):
            raise InputError(f"{views!r} views: expected 1, 4 (flips) or 8 (and turns)")
        if tile not in (None, "whole"):
            self._check_tile(tile)
        if scale == "auto":
            if self.fov_diameter is None:
                raise InputError(
                    f'scale "auto": {self.name} does not say the field of view\'s '
                    f"diameter in its training images; give a factor instead"
                )
        elif not isinstance(scale, Real) or not 0 < scale < np.inf:
            raise InputError(
                f'scale {scale!r}: expected "auto" or a factor, such as 0.5'
            )

    @property
    def fingerprint(self):
        """One word for the network, its weights, padding and precision."""
        digest = hashlib.sha256(json.dumps(self.padding, sort_keys=True).encode())
        digest.update(f"{self.digest} {self.precision} {self.fov_diameter}".encode())
        for array in [] if self.model is None else self.model.get_weights():
            digest.update(array.tobytes())
        return f"{'_'.join(self.name.split())}:{digest.hexdigest()[:16]}"

    def prepare(self, image):
        """Returns what the network sees of an image: (1, H, W, 3) float32, padded."""
        image = np.asarray(image)
        _check_image(image)
        self._tile(image.shape, "whole")
        full = self._padded_size(image.shape)
        return pad(_unit_range(image), full, self.padding["placement"])[np.newaxis]

    def _run(self, image, tile):
        """Returns the (H, W) float32 probability of one view of a checked image."""
        full = self._padded_size(image.shape)
        sides = self._tile(image.shape, tile)
        if sides == full:
            vessels = self._engine_on(pad(image, full, self.padding["placement"]))
            vessels = unpad(vessels, image.shape[:2], self.padding["placement"])
            return np.ascontiguousarray(vessels)
        return predict_tiles(
            self._engine_on,
            image,
            full,
            sides,
            placement=self.padding["placement"],
            step=self.padding["multiple"],
        )

    def _engine_on(self, pixels):
        return self.engine(_unit_range(pixels)[np.newaxis])[0, ..., 0]

    def _padded_size(self, shape):
        return padded_size(
            *shape[:2],
            multiple=self.padding["multiple"],
            square=self.padding["square"],
        )

    def _tile(self, shape, tile):
        """Returns the (height, width) of what the engine gets of an image at once."""
        full = self._padded_size(shape)
        if tile is None and full[0] * full[1] > WHOLE_PIXELS:
            step = self.padding["multiple"]
            tile = -(-TILE // step) * step
        if tile in (None, "whole"):
            sides = full
        else:
            sides = tuple(min(tile, side) for side in full)
        if sides[0] * sides[1] > MAX_PIXELS:
            what = f"a tile of {tile}x{tile} pixels"
            if sides == full:
                what = (
                    f"an image of {shape[1]}x{shape[0]} pixels, padded to "
                    f"{full[1]}x{full[0]}, as a whole"
                )
            raise InputError(
                f"{what}: expected at most {MAX_PIXELS // 10**6} megapixels; use "
                f"tiles of {TILE}"
            )
        return sides

    def _check_tile(self, tile):
        step = self.padding["multiple"]
        least = -(-(2 * HALO + RAMP) // step) * step + step
        if isinstance(tile, bool) or not isinstance(tile, int | np.integer):
            raise InputError(f'tile {tile!r}: expected "whole" or a number of pixels')
        if tile < least or tile % step:
            raise InputError(
                f"tile {tile}: expected a multiple of {step} from {least} on, such "
                f"as {-(-TILE // step) * step}"
            )


def checked_threshold(value):
    """Returns the threshold as a float; InputError unless it lies in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f"threshold {value}: expected a number in [0, 1), such as 0.5")
    return float(value)


def _check_image(image):
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"image of shape {image.shape}: expected (height, width, 3), RGB; "
            f"read files with saunet.data.images.read_image"
        )
    if image.dtype == np.uint8:
        return
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


def _bytes(image):
    if image.dtype == np.uint8:
        return image
    return np.round(image * 255).astype(np.uint8)


def _unit_range(image):
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    return image.astype(np.float32)


def load_pretrained(name_or_folder, **engine):
    """Returns the `Segmenter` of a shipped weight, a folder with a card, or a run.

    Args:
        name_or_folder: such as "sa_unet_v2_drive", or the path of a folder that
            holds `card.json` and the weights it names, or of a training run.
        **engine: `engine`, `precision` and `threads` of `Segmenter`.

    Raises:
        InputError: no such weights, or the file is not the one the card describes.
    """
    if weights.find_run(name_or_folder):
        return load_run(name_or_folder, **engine)
    folder = weights.find_pretrained(name_or_folder)
    card = weights.read_card(folder)
    model = _build(card, folder / weights.CARD)
    weights.load_weights(model, folder / card["weights"])
    return Segmenter(
        model,
        threshold=card["threshold"]["value"],
        padding=card["preprocessing"]["padding"],
        fov_diameter=card["preprocessing"].get("fov_diameter"),
        name=card["name"],
        **engine,
    )


def load_run(folder_or_file, **engine):
    """Returns the `Segmenter` of a training run.

    The best weights where the run kept some by validation, else the last ones.

    Args:
        folder_or_file: the run's, or one of the files of weights in it.
        **engine: `engine`, `precision` and `threads` of `Segmenter`.

    Raises:
        InputError: no run's record, or no epoch was whole yet.
    """
    folder = weights.find_run(folder_or_file) or Path(folder_or_file)
    run = read_run(folder)
    path, recipe = weights.find_weights(folder_or_file)
    kwargs = recipe.get("model_kwargs", {})
    if kwargs.get("outputs") == "all":  # AG-Net's authors train so, and test side 8
        recipe = {**recipe, "model_kwargs": {**kwargs, "outputs": "side_8"}}
    network = _build(recipe, folder / "run.json")
    weights.load_weights(network, path)
    padding = {**PADDING, "placement": recipe.get("placement", PADDING["placement"])}
    name = f"{recipe['model']} ({folder.resolve().name}/{path.name})"
    return Segmenter(
        network,
        padding=padding,
        fov_diameter=run.get("fov_diameter"),
        name=name,
        **engine,
    )


def _build(about, path):
    """Returns the network that a card or a recipe, read from `path`, describes."""
    try:
        return build_model(about["model"], **about.get("model_kwargs", {}))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: no network: {error}") from error


def load_segmenter(name_or_file, model=None, *, placement=None, **engine):
    """Returns the `Segmenter` of a shipped name, a card's or run's folder, or a file.

    Args:
        name_or_file: what the command line calls NAME_OR_H5; also an `.onnx` that
            `saunet export` wrote.
        model: the network's key; needed for an .h5 file, which does not say, and
            refused where the card, the run or the `.onnx` says otherwise.
        placement: "centered" (the default) or "bottom_right", how the weights of an
            .h5 file saw photographs padded; refused where the weights say it.
        **engine: `engine`, `precision` and `threads` of `Segmenter`.

    Raises:
        InputError: nothing there, or `model` is missing, unknown or another one.
    """
    path, run = Path(name_or_file), weights.find_run(name_or_file)
    suffix = path.suffix.lower()
    bare = suffix in (".h5", ".hdf5") or path.is_file()
    bare = bare and suffix != ".onnx" and not run
    if placement is not None and not bare:
        raise InputError(
            f"{name_or_file} says itself how photographs are padded: give "
            f"{placement!r} for an .h5 file alone"
        )
    if suffix in (".xml", ".tflite"):
        raise InputError(
            f"{path}: of exported networks only .onnx can be read again: give that, or "
            "the weights that it was exported from"
        )
    if suffix == ".onnx":
        return _load_onnx(path, model, **engine)
    if bare:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected the weights of a network")
        if model is None:
            raise InputError(
                f"{path} does not say which network it belongs to: add --model with "
                "one that `saunet models` lists"
            )
        network = build_model(model)
        weights.load_weights(network, path)
        padding = {**PADDING, "placement": placement or PADDING["placement"]}
        name = f"{model} ({path.name})"
        return Segmenter(network, padding=padding, name=name, **engine)
    load = load_run if run else load_pretrained
    segmenter = load(name_or_file, **engine)
    if model not in (None, held := segmenter.model.name):
        raise InputError(
            f"{name_or_file} holds a {held}, not a {model}: leave --model out"
        )
    return segmenter


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
        fov_diameter=about.get("fov_diameter"),
        name=about["name"],
        engine=runner,
        precision=precision,
        digest=weights.sha256_of(path),
    )


def network_of(segmenter):
    """Returns the `keras.Model` of a segmenter; InputError where it is exported."""
    if segmenter.model is None:
        raise InputError(
            f"{segmenter.name} is an exported network already: give the weights that "
            f"it was exported from"
        )
    return segmenter.model


def export_segmenter(segmenter, path, file_format, *, calibration=None, seen=()):
    """Writes a segmenter's network for other programs; see `saunet.export.export`.

    An ONNX file also says the network's key, threshold and padding, so that
    `load_segmenter` needs nothing else, and what it was trained on.

    Args:
        segmenter: a `Segmenter` of a `keras.Model`.
        path: where to.
        file_format: "onnx", "openvino", "litert" or "saved_model".
        calibration: paths of photographs and of folders of them; given these, an
            ONNX file computes its convolutions in 8-bit integers.
        seen: names of the images that the weights have seen, and digests of pixels.

    Returns:
        The largest difference from Keras on a drawn photograph, in [0, 1], or `None`
        where nothing that runs the file is installed.

    Raises:
        InputError: as `saunet.export.export`, or the segmenter's network is exported
            already, or what was written cannot be run.
    """
    model = network_of(segmenter)
    # Before the photographs are looked for.
    check_export(path, file_format, calibrated=calibration is not None)
    batches = None
    if calibration is not None:
        paths, _ = find_images(calibration)
        batches = (segmenter.prepare(read_image(p)) for p in paths)
    about = {
        "name": segmenter.name,
        "model": model.name,
        "threshold": segmenter.threshold,
        "padding": segmenter.padding,
        "fov_diameter": segmenter.fov_diameter,
        "seen": list(seen),
    }
    export(
        model,
        path,
        file_format,
        properties={METADATA: json.dumps(about)},
        calibration=batches,
    )
    try:
        engine = open_exported(path)
    except MissingPackageError:
        return None
    batch = segmenter.prepare(synthetic_fundus(0).image)
    return float(np.abs(engine(batch) - KerasEngine(model)(batch)).max())
