"""Training: a recipe is data, a run is a folder.

A run folder holds

    run.json            recipe, seed, versions, git commit, device, images, hours
    log.csv             one row an epoch: loss, val_loss, the learning rate at its
                        end, seconds
    tensorboard/        the same for TensorBoard (on the TensorFlow backend)
    last.weights.h5     after the last whole epoch (the moving average, if any)
    best.weights.h5     lowest val_loss, where the recipe has a validation split
    state.npz           all that a killed run needs to go on

At the end of each epoch every file is written beside its place and renamed, and
`state.npz` comes last: a run killed at any moment resumes from the last epoch
that is whole, and from there repeats the killed run, on a CPU number for number.
Nothing but the recipe, the seed and the samples decides a run there.
"""

import csv
import io
import itertools
import json
import math
import platform
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import keras
import numpy as np

from saunet.data import lock
from saunet.data.augmentation import thirteen_copies
from saunet.data.field import field_of_view, trained_diameter
from saunet.data.images import replacing, writable_folder, write_bytes
from saunet.data.padding import PLACEMENTS
from saunet.data.pipeline import (
    common_size,
    fixed_batches,
    padded,
    random_batches,
    to_arrays,
)
from saunet.data.runs import read_run
from saunet.data.tiling import TILE, WHOLE_PIXELS, predict_tiles
from saunet.distribution import data_parallel
from saunet.errors import InputError, RunError
from saunet.losses import LOSSES, get_loss
from saunet.machine import bfloat16_is_faster, count_cores, printed, query_gpu
from saunet.models import build_model
from saunet.weights import (
    find_weights,
    load_weights,
    save_weights,
    seen_images,
    seen_pixels,
    sha256_of,
    sha256_of_pixels,
)


@dataclass(frozen=True)
class Recipe:
    """All that decides the result of a training, besides the images.

    Attributes:
        model: Key of the network.
        model_kwargs: Options of its builder, such as DropBlock's `rate`.
        loss: Key of `saunet.losses.LOSSES`.
        loss_kwargs: Options of the loss, such as `mcc_weight`.
        augmentation: "random" (endless random views), "thirteen" (the papers'
            offline copies) or "none".
        upright: Share of the random views that are turned by quarter turns alone, at
            their own scale, so that no pixel of theirs is interpolated.
        crop: Side of a random view in pixels, a multiple of 16, with DropBlock at
            least 112 (64 where a network pools three times); `None` for whole
            photographs.
        placement: Padding of whole photographs, "centered" or "bottom_right".
        batch_size: Images a step.
        whole_epochs: With a `crop`, how many of the last epochs see what `predict`
            shows a network instead, `batch_size // 4` a step, or one for each device
            where these are more: whole photographs, or where the largest has more than
            `WHOLE_PIXELS`, crops of a tile's size. GroupNorm's statistics are those
            of the image it sees: small crops alone teach other ones.
        epochs: Number of epochs.
        steps_per_epoch: Steps an epoch; `None` for one pass over the samples, by
            `batch_size` a step also in the whole epochs.
        optimizer: "adam" or "adamw".
        weight_decay: Of adamw.
        learning_rates: `((epochs, rate), ...)`, one after the other; the last one
            stays.
        schedule: "steps" follows `learning_rates`; "one_cycle" warms up to the
            first rate over a tenth of the run and falls to a hundredth of it by a
            cosine; "plateau" halves the first rate as `plateau` says.
        plateau: `(factor, patience, minimum)` on val_loss.
        early_stopping: Epochs without a better val_loss before a run ends.
        validation: Names of training images held out, or how many (drawn by seed);
            predicted as by `predict`, whole or in tiles.
        ema: Momentum of the moving average of the weights, or `None`. In a run of
            few steps it is lower: 1 - 4 / steps, a memory of a quarter of the run.
        clip_norm: Largest global norm of a gradient, or `None`.
        precision: "float32", "mixed_bfloat16", "mixed_float16", or "auto": the first
            or second, whichever trains faster on the machine; the run keeps which.
        start_from: Weights that the network begins with: a shipped name, the folder
            of a card or a run, or an .h5 file; `None` for new ones, by the seed.
        seed: Of weights, DropBlock, order, views and split.
    """

    model: str
    model_kwargs: dict = field(default_factory=dict)
    loss: str = "bce"
    loss_kwargs: dict = field(default_factory=dict)
    augmentation: str = "random"
    upright: float = 0.0
    crop: int | None = None
    placement: str = "centered"
    batch_size: int = 4
    whole_epochs: int = 0
    epochs: int = 100
    steps_per_epoch: int | None = None
    optimizer: str = "adam"
    weight_decay: float = 0.0
    learning_rates: tuple = ((1, 1e-3),)
    schedule: str = "steps"
    plateau: tuple = (0.5, 10, 1e-6)
    early_stopping: int | None = None
    validation: tuple | int = 0
    ema: float | None = None
    clip_norm: float | None = None
    precision: str = "float32"
    start_from: str | None = None
    seed: int = 0

    def __post_init__(self):
        choices = {
            "loss": tuple(LOSSES),
            "augmentation": ("random", "thirteen", "none"),
            "placement": PLACEMENTS,
            "optimizer": ("adam", "adamw"),
            "schedule": ("steps", "one_cycle", "plateau"),
            "precision": ("float32", "mixed_bfloat16", "mixed_float16", "auto"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"recipe field {name}={getattr(self, name)!r} is not one of "
                    f"{', '.join(allowed)}"
                )
        count = "an integer of at least 1"
        of_epochs = f"an integer from 0 to {self.epochs}, the epochs"
        bounds = {  # kind, lowest, highest, in words
            "batch_size": (int, 1, None, count),
            "epochs": (int, 1, None, count),
            "steps_per_epoch": (int, 1, None, f"None or {count}"),
            "crop": (int, 1, None, f"None or {count}"),
            "whole_epochs": (int, 0, self.epochs, of_epochs),
            "seed": (int, 0, 2**32 - 1, "an integer from 0 to below 2**32"),
            "upright": (int | float, 0, 1, "a share of views, from 0 to 1"),
            "weight_decay": (int | float, 0, None, "a number from 0 on"),
            "ema": (int | float, 0, 1 - 1e-12, "None or a momentum below 1, as 0.998"),
            "clip_norm": (int | float, 1e-12, None, "None or a positive number"),
            "early_stopping": (int, 1, None, "None or a number of epochs"),
        }
        types = {field.name: field.type for field in fields(self)}
        for name, (kind, low, high, expected) in bounds.items():
            value = getattr(self, name)
            if value is None and isinstance(None, types[name]):
                continue
            sound = _is_number(value) and isinstance(value, kind) and low <= value
            if not sound or (high is not None and value > high):
                raise InputError(f"recipe field {name}={value!r} must be {expected}")
        if not self.learning_rates or not all(
            _are_numbers(pair, 2) and isinstance(pair[0], int)
            for pair in self.learning_rates
        ):
            raise InputError(
                f"recipe field learning_rates={self.learning_rates!r} must be pairs of "
                "whole epochs and rate, such as ((100, 1e-3), (50, 1e-4))"
            )
        if not _are_numbers(self.plateau, 3) or self.plateau[0] >= 1:
            raise InputError(
                f"recipe field plateau={self.plateau!r} must be a factor below 1, "
                "patience and lowest rate, such as (0.5, 10, 1e-6)"
            )
        if not all(
            isinstance(name, str) and _is_number(value) and value >= 0
            for name, value in self.loss_kwargs.items()
        ):
            raise InputError(
                f"recipe field loss_kwargs={self.loss_kwargs!r} must be numbers from 0 "
                "on, by name"
            )
        start = self.start_from
        if start is not None and (not isinstance(start, str) or not start):
            raise InputError(
                f"recipe field start_from={start!r} must be None or a str, the name of "
                "weights or their path"
            )
        if self.crop and self.crop % 16:
            raise InputError(f"recipe field crop={self.crop} must be a multiple of 16")
        of_views = {"crop": None, "whole_epochs": 0, "upright": 0}
        for name, unused in of_views.items():
            value = getattr(self, name)
            if value != unused and self.augmentation != "random":
                raise InputError(
                    f"recipe field {name}={value!r} is of random views, and "
                    f"augmentation is {self.augmentation!r}: set it to {unused}"
                )
        if self.whole_epochs and not self.crop:
            raise InputError(
                f"recipe field whole_epochs={self.whole_epochs} is of runs on crops, "
                "and crop is None: set it to 0"
            )
        if self.placement != "centered" and self.augmentation == "random":
            raise InputError(
                f"recipe field placement={self.placement!r}: random views are "
                "centered: set it so, or another augmentation"
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise InputError(
                f"recipe field weight_decay={self.weight_decay!r} is of adamw, and "
                "optimizer is 'adam': set it to 0, or optimizer to adamw"
            )
        if self.schedule != "steps" and len(self.learning_rates) > 1:
            raise InputError(
                f"recipe field learning_rates={self.learning_rates!r}: "
                f"schedule={self.schedule} heeds the first pair alone: give one pair"
            )
        begins = sum(epochs for epochs, _ in self.learning_rates[:-1])
        if begins >= self.epochs:
            raise InputError(
                f"recipe field learning_rates={self.learning_rates!r}: the last rate "
                f"begins after {begins} epochs, and epochs={self.epochs}: give others"
            )
        if self.schedule != "plateau" and tuple(self.plateau) != Recipe.plateau:
            raise InputError(
                f"recipe field plateau={self.plateau!r} is of schedule='plateau', and "
                f"schedule is {self.schedule!r}: leave it out"
            )
        _check_validation(self.validation)
        needs_validation = self.schedule == "plateau" or self.early_stopping
        if needs_validation and not self.validation:
            raise InputError(
                "a recipe with schedule=plateau or early_stopping needs images held "
                "out: set validation to a number or to names"
            )


def _are_numbers(values, count):
    """Returns whether these are so many positive numbers."""
    return (
        isinstance(values, tuple | list)
        and len(values) == count
        and all(_is_number(v) and v > 0 for v in values)
    )


def _is_number(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf


def _check_validation(value):
    """Raises InputError for what is neither a number of images nor names."""
    if isinstance(value, tuple | list):
        sound = all(isinstance(name, str) for name in value)
    else:
        sound = type(value) is int and value >= 0
    if not sound:
        raise InputError(
            f"validation={value!r}: expected a number of images of at least 0, or "
            'a tuple of names in quotes, such as ("21", "22")'
        )


# 1.7 hours on 2 shared CPU cores: the rows `budget` of SA-UNetv2 in docs/results.md.
SA_UNET_V2_CPU = Recipe(
    model="sa_unet_v2",
    model_kwargs={"rate": 0.1},
    loss="bce_mcc",
    crop=256,
    batch_size=8,
    epochs=60,
    whole_epochs=15,
    steps_per_epoch=100,
    optimizer="adamw",
    weight_decay=1e-4,
    learning_rates=((60, 2e-3),),
    schedule="one_cycle",
    ema=0.998,
    precision="auto",
)

RECIPES = {
    "cpu": SA_UNET_V2_CPU,
    # SA-UNet, DRIVE: the settings of the authors' Train_drive.py.
    "sa_unet_paper": Recipe(
        model="sa_unet",
        model_kwargs={"rate": 0.18},
        augmentation="thirteen",
        batch_size=4,
        epochs=150,
        learning_rates=((100, 1e-3), (50, 1e-4)),
        validation=2,
    ),
    # SA-UNetv2, DRIVE.
    "sa_unet_v2_paper": Recipe(
        model="sa_unet_v2",
        model_kwargs={"rate": 0.15},
        loss="bce_mcc",
        augmentation="thirteen",
        placement="bottom_right",
        batch_size=8,
        epochs=150,
        schedule="plateau",
        plateau=(0.5, 10, 1e-6),
        early_stopping=20,
        validation=2,
    ),
    # RSAN, DRIVE: the paper's epochs, the rest by the authors' train_drive.py.
    "rsan_paper": Recipe(
        model="rsan",
        model_kwargs={"rate": 0.15},
        augmentation="thirteen",
        batch_size=2,
        epochs=200,
        learning_rates=((150, 1e-3), (50, 1e-4)),
        validation=("23", "40"),
    ),
    # What a shipped network knows, adapted to another camera.
    "finetune": replace(
        SA_UNET_V2_CPU,
        start_from="sa_unet_v2_drive",
        batch_size=4,
        epochs=10,
        whole_epochs=3,
        learning_rates=((10, 5e-4),),
        ema=0.99,
    ),
    # A minute on synthetic images: does everything run?
    "smoke": replace(
        SA_UNET_V2_CPU,
        crop=128,
        batch_size=4,
        epochs=4,
        whole_epochs=0,
        steps_per_epoch=30,
        learning_rates=((4, 3e-3),),
        ema=0.9,
        precision="float32",
    ),
}


def stored_recipe(values):
    """Returns the fields of a recipe as a run keeps them, none missing.

    What its version of the program had no field for it did by our default.

    Args:
        values: Dict from `run.json`.
    """
    return _as_json(Recipe(values["model"])) | values


def changed_fields(values, recipe):
    """Returns `{field: (then, now)}` where the recipe of a run is not this one.

    Args:
        values: Dict from `run.json`.
        recipe: A `Recipe`; its precision "auto" is whatever the run had.
    """
    then, now = stored_recipe(values), _as_json(recipe)
    if recipe.precision == "auto":
        now["precision"] = then["precision"]
    return {
        name: (then.get(name), now.get(name))
        for name in sorted({**then, **now})
        if then.get(name) != now.get(name)
    }


def _as_json(recipe):
    return json.loads(json.dumps(asdict(recipe)))


def train(recipe, samples, out_dir, *, resume=False, progress=True, devices="one"):
    """Trains a network and keeps everything about it in a run folder.

    Args:
        recipe: A `Recipe`.
        samples: List of `Sample` with vessels; the validation images are taken out
            of it before anything is augmented.
        out_dir: The run folder; new or empty, unless `resume`.
        resume: Bool; go on with the run that lies there. It must have been
            started with the same recipe, photographs and labels.
            A finished run is left as is.
        progress: Bool; show Keras's progress on stdout.
        devices: "one", or "all" of this machine, each with its share of a batch; see
            `saunet.distribution`.

    Returns:
        The `keras.Model` with the weights of `last.weights.h5`.

    Raises:
        InputError: Samples without labels or of other kinds than `Sample` says, a
            folder in use, also by a run that goes on, or that cannot be written to,
            another recipe, or a batch or `clip_norm` that the devices cannot
            share.
        RunError: The loss is no longer a number, or the disk is full.
    """
    with data_parallel(devices, recipe.batch_size) as shares, ExitStack() as held:
        return _train(recipe, samples, Path(out_dir), resume, progress, shares, held)


def _train(recipe, samples, out_dir, resume, progress, shares, held):
    """As `train`; `shares` is what `data_parallel` yields, `held` gets the lock."""
    devices, replicas = shares
    if replicas > 1 and recipe.clip_norm:
        raise InputError(
            f"clip_norm={recipe.clip_norm} on {devices} devices: TensorFlow would clip "
            "each device's gradient, not their mean; train on one, or with "
            "KERAS_BACKEND=jax"
        )
    recipe = _with_precision(recipe, out_dir, resume)
    training, held_out = split(samples, recipe.validation, recipe.seed)
    if not resume:  # which compares each with what it was
        _check_twins(training, held_out)
    description = {
        "recipe": _as_json(recipe),
        "images": [s.name for s in training],
        "validation": [s.name for s in held_out],
        **({"devices": devices} if devices > 1 else {}),
    }
    seen = {sha256_of_pixels(sample.image) for sample in samples}
    # A recipe that cannot be built must not leave a folder behind.
    weights = find_weights(recipe.start_from)[0] if recipe.start_from else None
    loss = get_loss(recipe.loss, **recipe.loss_kwargs)
    keras.utils.set_random_seed(recipe.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        model = build_model(recipe.model, **recipe.model_kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"recipe field model_kwargs={recipe.model_kwargs!r}: no network: {error}"
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)
    _check_sizes(recipe, training)
    if weights:
        load_weights(model, weights)
        description["start_sha256"] = sha256_of(weights)
        description["start_images"] = seen_images(recipe.start_from)
        seen |= seen_pixels(recipe.start_from)
    description["seen_sha256"] = sorted(seen)
    ordered = training + held_out
    description["images_sha256"] = [sha256_of_pixels(s.image) for s in ordered]
    description["labels_sha256"] = [sha256_of_pixels(s.vessels) for s in ordered]
    _open_run(out_dir, description, recipe, resume, held, training, devices)
    if resume:
        _check_pixels(out_dir, ordered)
    if recipe.augmentation == "thirteen":
        training = [c for s in training for c in thirteen_copies(s, recipe.seed)]
    steps = recipe.steps_per_epoch or -(-len(training) // recipe.batch_size)
    optimizer = make_optimizer(recipe, steps)
    model.compile(optimizer, _loss_of_each(model, loss, replicas))
    optimizer.build(model.trainable_variables)

    run = _RunFolder(out_dir, recipe, held_out)
    if resume:
        run.restore(model)
    if run.finished:
        run.write_hours()
        optimizer.finalize_variable_values(model.trainable_variables)
        return model
    if resume:
        began = description.get("start_sha256")
        _go_on(out_dir, devices, began, run.epochs_done)
    if progress:
        print(f"training on {_device(devices)} in {recipe.precision}")
    stages = _stages(recipe, training, steps, run.epochs_done, devices)
    for end, batches_from, first in stages:
        batches = _Batches(batches_from, first, len(model.outputs))
        # A fresh trace a stage: TensorFlow would reuse one with unknown sizes, and
        # a resumed run, which never saw the first stage, would differ in rounding.
        model.make_train_function(force=True)
        if replicas == 1:
            batches = batches.all()
        try:
            model.fit(
                batches,
                steps_per_epoch=steps,
                initial_epoch=run.epochs_done,
                epochs=end,
                callbacks=[run, *_tensorboard(out_dir)],
                shuffle=False,
                # A bar on a terminal, a line an epoch in a log file.
                verbose=(1 if sys.stdout.isatty() else 2) if progress else 0,
            )
        except Exception as error:
            if not _out_of_memory(error):
                raise
            raise RunError(
                f"the memory does not hold a step of epoch {run.epochs_done + 1}: "
                f"start again with a smaller batch_size or crop ({recipe.batch_size}, "
                f"{recipe.crop}) or smaller photographs; {run.epochs_done} whole "
                f"epochs are kept in {out_dir}"
            ) from error
        if run.finished:
            break
        # `fit` ends by putting the moving average into the model.
        run.restore(model)
    return model


def _out_of_memory(error):
    """Whether an error of Python or a backend says so; each has a class of its own."""
    if isinstance(error, MemoryError):
        return True
    said = f"{type(error).__name__} {error}"
    of_disk = "No space left" in said  # which TensorFlow counts among the same
    return not of_disk and ("ResourceExhausted" in said or "RESOURCE_EXHAUSTED" in said)


def _check_sizes(recipe, samples):
    """Refuses views whose smallest map cannot hold a block of DropBlock."""
    sizes = [] if recipe.crop is None else [(recipe.crop, recipe.crop)]
    if recipe.crop is None or recipe.whole_epochs:
        sizes.append(common_size(samples))
    block = recipe.model_kwargs.get("block_size", 7)
    for size in sizes:
        if min(size) >= 16 * max(8, block):  # four poolings
            continue
        try:
            build_model(
                recipe.model, **recipe.model_kwargs | {"input_shape": (*size, 3)}
            )
        except InputError as error:
            raise InputError(
                f"views of {size[1]}x{size[0]} pixels: {error}; 112 a side fit every "
                "network"
            ) from error


def _go_on(folder, devices, start_sha256, epochs_done):
    """Checks what only a run that has epochs left needs, and notes who goes on.

    That is added to `run.json` where it is not what the run was begun or last gone on
    with.
    """
    stored, now = read_run(folder), environment(devices)
    if stored.get("start_sha256") != start_sha256:
        raise InputError(
            f"{folder} was started from other weights than those that now lie in "
            f"{stored['recipe']['start_from']}: bring them back, or choose another "
            "folder"
        )
    was = stored.get("devices", 1)
    if was != devices:
        raise InputError(
            f"{folder} was started on {was} device(s), whose batches are not those of "
            f"{devices}: resume on as many, or choose another folder"
        )
    writable_folder(folder)
    then = [stored, *stored.get("continued", [])][-1]
    if any(then.get(key) != now[key] for key in now if key != "date"):
        continued = [*stored.get("continued", []), {"after_epoch": epochs_done, **now}]
        _write_json(folder / "run.json", {**stored, "continued": continued})


def _with_precision(recipe, out_dir, resume):
    """Returns the recipe with the precision that "auto" means for this run."""
    if recipe.precision != "auto":
        return recipe
    if resume and (out_dir / "run.json").exists():
        # Its own, also where another machine goes on with it.
        then = stored_recipe(read_run(out_dir)["recipe"])["precision"]
        return replace(recipe, precision=then)
    faster = bfloat16_is_faster()
    return replace(recipe, precision="mixed_bfloat16" if faster else "float32")


def split(samples, validation, seed):
    """Returns training and validation samples.

    Args:
        samples: List of `Sample`; names are unique.
        validation: Names to hold out, or how many to draw by `seed`.
        seed: Integer.
    """
    unlabelled = [s.name for s in samples if s.vessels is None]
    if unlabelled or not samples:
        raise InputError(
            f"training needs labels; without: {', '.join(unlabelled) or 'no image'}"
        )
    for sample in samples:
        _check_arrays(sample)
    if not any(s.vessels.any() for s in samples):
        raise InputError(
            f"no label of {len(samples)} has a vessel: expected white vessels on black"
        )
    names = [s.name for s in samples]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"two training images are named '{twice[0]}': rename one")
    _check_validation(validation)
    if isinstance(validation, int):
        drawn = np.random.default_rng([seed, 2]).permutation(sorted(names))
        validation = drawn[:validation].tolist()
    missing = sorted(set(validation) - set(names))
    if missing:
        raise InputError(
            f"no training image '{missing[0]}' to hold out; there are "
            f"{', '.join(names)}"
        )
    if len(validation) >= len(samples):
        raise InputError(
            f"validation holds out {len(validation)} of {len(samples)} images: "
            "none is left to train on; give more images, or set validation to fewer"
        )
    held_out = [s for s in samples if s.name in validation]
    return [s for s in samples if s.name not in validation], held_out


def _check_twins(training, held_out):
    """Refuses an image that is held out from itself, by another name."""
    twins = {sha256_of_pixels(s.image): s.name for s in training}
    for sample in held_out:
        twin = twins.get(sha256_of_pixels(sample.image))
        if twin is not None:
            raise InputError(
                f"'{sample.name}' is held out and has the pixels of '{twin}', which is "
                "trained on: leave one of them out"
            )


def _check_arrays(sample):
    """Refuses what would train on other labels than meant, and say nothing."""
    image, vessels = sample.image, sample.vessels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"image of sample '{sample.name}': {image.dtype} {image.shape}, expected "
            "uint8 (H, W, 3), RGB from 0 to 255: convert it"
        )
    if not isinstance(sample.name, str):
        raise InputError(f"name of a sample: {sample.name!r}, expected a str")
    if vessels.shape != image.shape[:2]:
        raise InputError(
            f"vessels of sample '{sample.name}': {vessels.shape}, but its image is "
            f"{image.shape[:2]}: both must be of one size"
        )
    if vessels.mean() > 0.5 and vessels.max() <= 1:
        raise InputError(
            f"vessels of sample '{sample.name}': {vessels.mean():.0%} of the pixels, "
            "expected less than half: 1 for vessels, 0 for the rest"
        )
    if vessels.dtype != np.uint8 or vessels.max() > 1:
        one_half = 127 if vessels.max() > 1 else 0.5
        raise InputError(
            f"vessels of sample '{sample.name}': {vessels.dtype} up to "
            f"{vessels.max()}, expected uint8 of 0 and 1: write "
            f'(vessels > {one_half}).astype("uint8")'
        )


def make_optimizer(recipe, steps_per_epoch):
    """Returns the Keras optimizer of a recipe."""
    first_rate = recipe.learning_rates[0][1]
    if recipe.schedule == "one_cycle":
        total = recipe.epochs * steps_per_epoch
        warmup = max(1, total // 10)
        rate = keras.optimizers.schedules.CosineDecay(
            first_rate / 25,
            max(1, total - warmup),
            alpha=0.01,
            warmup_target=first_rate,
            warmup_steps=warmup,
        )
    elif recipe.schedule == "steps" and len(recipe.learning_rates) > 1:
        ends = itertools.accumulate(epochs for epochs, _ in recipe.learning_rates[:-1])
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras keeps a rate for the step of its boundary, too.
            [end * steps_per_epoch - 1 for end in ends],
            [rate for _, rate in recipe.learning_rates],
        )
    else:
        rate = first_rate
    options = {
        "learning_rate": rate,
        "global_clipnorm": recipe.clip_norm,
        "use_ema": recipe.ema is not None,
    }
    if recipe.ema is not None:
        # Of a short run it would hold mostly the weights that it began with.
        steps = recipe.epochs * steps_per_epoch
        options["ema_momentum"] = min(recipe.ema, 1 - 4 / max(4, steps))
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(weight_decay=recipe.weight_decay, **options)
    else:
        optimizer = keras.optimizers.Adam(**options)
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def plateau_rate(recipe, history):
    """Returns the learning rate after the epochs in `history`.

    `ReduceLROnPlateau` written as a function of the past, so that it needs no
    state of its own to resume.
    """
    factor, patience, minimum = recipe.plateau
    rate, best, waited = recipe.learning_rates[0][1], np.inf, 0
    for row in history:
        # 1e-4 is `min_delta` of Keras's callback.
        if row["val_loss"] < best - 1e-4:
            best, waited = row["val_loss"], 0
        else:
            waited += 1
            if waited >= patience:
                rate = max(rate * factor, min(rate, minimum))
                waited = 0
    return rate


def epochs_since_best(history):
    """Returns how many epochs ago val_loss was lowest."""
    losses = [row["val_loss"] for row in history]
    losses = np.where(np.isnan(losses), np.inf, losses)
    return len(losses) - 1 - int(np.argmin(losses))


class _RunFolder(keras.callbacks.Callback):
    """Validates, logs and saves at the end of each epoch."""

    def __init__(self, folder, recipe, validation):
        super().__init__()
        self.folder = folder
        self.recipe = recipe
        self.validation = validation
        self.history = []
        self.seconds = 0.0

    @property
    def epochs_done(self):
        return len(self.history)

    @property
    def finished(self):
        if self.epochs_done >= self.recipe.epochs:
            return True
        patience = self.recipe.early_stopping
        if not patience or not self.history:
            return False
        return epochs_since_best(self.history) >= patience

    def _was_saved(self):
        """Whether more lies here than the first epoch writes before its state."""
        log = self.folder / "log.csv"
        rows = len(log.read_text().splitlines()) - 1 if log.exists() else 0
        return rows > 1 or "hours" in read_run(self.folder)

    def restore(self, model):
        """Puts model, optimizer, random generators and history back."""
        path = self.folder / "state.npz"
        if not path.exists():
            if self._was_saved():
                raise InputError(
                    f"{path}: is missing: bring it back from a copy, or start the run "
                    "again in another folder"
                )
            return  # killed before its first epoch was whole
        try:
            with path.open("rb") as file, np.load(file) as state:
                self.history = json.loads(str(state["history"]))
                for i, variable in enumerate(_all_variables(model)):
                    variable.assign(state[f"v{i}"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(
                f"{path}: is damaged ({error}): bring it back from a copy, or start "
                "the run again in another folder"
            ) from error
        self.seconds = self.history[-1]["seconds"]

    def on_train_begin(self, logs=None):
        self.started = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        if self.recipe.schedule == "plateau":
            self.model.optimizer.learning_rate = plateau_rate(self.recipe, self.history)

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            self._end(f"the loss became {logs['loss']} in step {batch + 1}")

    def _end(self, what):
        raise RunError(
            f"{what} of epoch {self.epochs_done + 1}: lower the learning rate or set "
            f"clip_norm; {self.epochs_done} whole epochs are kept in {self.folder}"
        )

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "loss": float(logs["loss"])}
        raw = [np.array(v) for v in self.model.trainable_variables]
        # The last step can break them behind a loss that was still a number.
        if not all(np.isfinite(value).all() for value in raw):
            self._end("the weights are no longer numbers after the last step")
        if self.recipe.ema is not None:
            # Validate and save the moving average, then go on from where we were.
            variables = self.model.trainable_variables
            self.model.optimizer.finalize_variable_values(variables)
            # On JAX a weight now shares its buffer with the average, and predicting
            # would give that away: copy it.
            for variable in variables:
                variable.assign(np.array(variable))
        if self.validation:
            row["val_loss"] = self._validate()
            logs["val_loss"] = row["val_loss"]
        row["learning_rate"] = float(np.array(self.model.optimizer.learning_rate))
        row["seconds"] = round(self.seconds + time.monotonic() - self.started, 1)
        self.history.append(row)
        try:
            self._save(raw)
        except (InputError, OSError) as error:  # such as a full disk
            reason = str(error).partition(": give")[0]
            raise RunError(
                f"epoch {len(self.history)} cannot be saved ({reason}); the "
                f"{len(self.history) - 1} before are kept in {self.folder}: make "
                "room there and go on with --resume"
            ) from error
        if self.finished:
            self.model.stop_training = True
            self.write_hours()

    def _save(self, raw):
        """Writes all files of an epoch, and puts the `raw` weights back in between."""
        save_weights(self.model, self.folder / "last.weights.h5")
        if self.validation and epochs_since_best(self.history) == 0:
            save_weights(self.model, self.folder / "best.weights.h5")
        for variable, value in zip(self.model.trainable_variables, raw, strict=True):
            variable.assign(value)
        self._save_log()
        self._save_state()

    def write_hours(self):
        """Completes `run.json` with how long the run took, once."""
        stored = read_run(self.folder)
        if "hours" not in stored:
            hours = round(self.history[-1]["seconds"] / 3600, 3)
            _write_json(self.folder / "run.json", {**stored, "hours": hours})

    def _validate(self):
        """Returns the mean loss over the held-out photographs, all outputs summed."""
        loss = get_loss(self.recipe.loss, **self.recipe.loss_kwargs)
        values = []
        for sample in self.validation:
            size = common_size([sample])
            if size[0] * size[1] <= WHOLE_PIXELS:
                x, y = to_arrays([padded(sample, size, self.recipe.placement)])
                maps = self._maps(x)
            else:
                y = sample.vessels.astype(np.float32)
                outputs = range(len(self.model.outputs))
                maps = [self._tiled(sample, size, output) for output in outputs]
            values.append(sum(float(loss(y, one)) for one in maps))
        return float(np.mean(values))

    def _maps(self, x):
        """Returns each output's maps of a batch."""
        maps = self.model.predict_on_batch(x)
        maps = [maps] if len(self.model.outputs) == 1 else maps
        # Of several devices, each predicts the same photograph.
        return [one[: len(x)] for one in maps]

    def _tiled(self, sample, size, output):
        """Returns one output's (H, W) map of a photograph too large to be one batch."""

        def run(pixels):
            x = pixels[np.newaxis].astype(np.float32) / np.float32(255)
            return self._maps(x)[output][0, ..., 0]

        tile, placement = (TILE, TILE), self.recipe.placement
        return predict_tiles(
            run, sample.image, size, tile, placement=placement, step=16
        )

    def _save_log(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, self.history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_bytes(self.folder / "log.csv", text.getvalue().encode())

    def _save_state(self):
        arrays = {
            f"v{i}": np.array(v) for i, v in enumerate(_all_variables(self.model))
        }
        path = self.folder / "state.npz"
        with replacing(path, sync=True) as beside, beside.open("wb") as file:
            np.savez(file, history=json.dumps(self.history), **arrays)


def environment(devices=1):
    """Returns versions, device and commit, for a record.

    Args:
        devices: How many GPUs, if there are any, compute.
    """
    packages = {}
    for name in ("saunet", "keras", keras.backend.backend(), "numpy"):
        try:
            packages[name] = version(name)
        except ImportError:
            packages[name] = "unknown"
    return {
        "versions": {"python": platform.python_version(), **packages},
        "backend": keras.backend.backend(),
        "device": _device(devices),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _device(devices):
    kind = keras.distribution.list_devices()[0].partition(":")[0].upper()
    if kind == "CPU":
        cores = count_cores()
        return f"{cores} CPU core{'s' * (cores > 1)}, {platform.machine()}"
    return f"{devices} {query_gpu('name') or kind}"


def _commit():
    """Returns the commit of the source checkout, or None outside of one."""
    if not (Path(__file__).parents[1] / ".git").exists():
        return None  # installed, perhaps inside of someone else's checkout
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return printed(command, cwd=Path(__file__).parent)


def _loss_of_each(model, loss, devices):
    """Returns the loss, for each output of a network with several.

    Keras sums the gradients of devices, and scales by their number only losses that
    are not one number.
    """

    def share(y_true, y_pred):
        return loss(y_true, y_pred) / devices

    each = loss if devices == 1 else share
    return each if len(model.outputs) == 1 else [each] * len(model.outputs)


class _Batches(keras.utils.PyDataset):
    """Endless batches, the labels once for each output.

    A distribution strategy reads ahead, and then begins anew: a generator would have
    lost what was read.
    """

    def __init__(self, batches_from, start, outputs):
        super().__init__()
        self.batches_from = batches_from
        self.start = start
        self.outputs = outputs
        self.next = None

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        if index != self.next:
            self.generator = self.all(index)
        self.next = index + 1
        return next(self.generator)

    def all(self, skip=0):
        """Yields the batches from one of them on."""
        for x, y in self.batches_from(start=self.start + skip):
            yield x, y if self.outputs == 1 else (y,) * self.outputs


def _stages(recipe, samples, steps, done, devices):
    """Yields `(last epoch, batches, first batch)`: crops, then what `predict` shows.

    `batches` is a function of `start` that returns a generator, whose batches can be
    shared out to the devices.
    """
    if recipe.augmentation != "random":
        batches = partial(
            fixed_batches,
            samples,
            batch_size=recipe.batch_size,
            placement=recipe.placement,
            seed=recipe.seed,
            multiple=devices,
        )
        yield recipe.epochs, batches, done * steps
        return
    views = partial(random_batches, samples, seed=recipe.seed, upright=recipe.upright)
    switch = recipe.epochs - recipe.whole_epochs
    if done < switch:
        batches = partial(views, crop=recipe.crop, batch_size=recipe.batch_size)
        yield switch, batches, done * steps
    if switch < recipe.epochs:
        batch_size = -(-max(1, recipe.batch_size // 4) // devices) * devices
        height, width = common_size(samples)
        crop = TILE if height * width > WHOLE_PIXELS else None
        batches = partial(views, crop=crop, batch_size=batch_size)
        yield recipe.epochs, batches, max(done, switch) * steps


def _tensorboard(folder):
    """Keras's callback; it needs TensorFlow, which a JAX machine may not have."""
    if keras.backend.backend() != "tensorflow":
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


def _all_variables(model):
    """Weights, the states of random generators, and the optimizer's variables."""
    metrics = {id(v) for m in model.metrics for v in m.variables}
    own = [v for v in model.variables if id(v) not in metrics]
    return own + list(model.optimizer.variables)


def _open_run(folder, description, recipe, resume, held, training, devices):
    path = folder / "run.json"
    if path.exists():
        if not resume:
            raise InputError(
                f"{folder} already holds a run: choose another folder, or go on with "
                "it by --resume"
            )
        stored = read_run(folder)
        changed = changed_fields(stored["recipe"], recipe)
        if changed:
            name, (was, now) = next(iter(changed.items()))
            raise InputError(
                f"{folder} was started with {name}={was!r}, not {now!r}: resume "
                "with the same recipe, or choose another folder"
            )
        for name in ("images", "validation"):
            was, now = stored.get(name, []), description[name]
            if was != now:
                differ = sorted(set(was) ^ set(now)) or ["their order"]
                raise InputError(
                    f"{folder} was started with other {name} ({len(was)}, now "
                    f"{len(now)}; {differ[0]} differs): resume "
                    "with the same data, or choose another folder"
                )
        held.enter_context(lock.lock_folder(folder))
        for left in folder.glob(".[0-9]*.*"):  # half a file of a run that was killed
            left.unlink()
        return
    if resume:
        raise InputError(f"{folder} holds no run to resume: leave out --resume")
    check_new(folder)
    writable_folder(folder)
    held.enter_context(lock.lock_folder(folder))
    # By which photographs of other cameras are scaled. Of cut-out pieces, which have no
    # dark surround, nothing is known of a camera.
    fields_of_view = [field_of_view(sample.image) for sample in training]
    diameters = [diameter for mask, diameter in fields_of_view if not mask.all()]
    about = {}
    if 2 * len(diameters) >= len(training):
        about["fov_diameter"] = trained_diameter(diameters)
    _write_json(path, {**description, **about, **environment(devices)})


def _check_pixels(folder, samples):
    """Raises InputError where a run's photographs or labels have changed since."""
    run = read_run(folder)
    for key, what, pixels in (
        ("images_sha256", "photograph", [s.image for s in samples]),
        ("labels_sha256", "label", [s.vessels for s in samples]),
    ):
        # A run of an older version did not note them.
        for sample, now, was in zip(samples, pixels, run.get(key, ()), strict=False):
            if sha256_of_pixels(now) != was:
                raise InputError(
                    f"{folder} was started with another {what} of the name "
                    f"{sample.name}: put it back, or choose another folder"
                )


def check_new(folder):
    """Raises InputError where the folder of a new run holds something else."""
    # A hidden file may be of a run that was killed before it began.
    if any(not path.name.startswith(".") for path in folder.glob("*")):
        raise InputError(f"{folder} is not empty: choose a new folder for the run")


def _write_json(path, value):
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def recipe_with(recipe, **changes):
    """Returns the recipe with fields replaced, or says which field is unknown."""
    known = {f.name for f in fields(Recipe)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise InputError(
            f"a recipe has no field '{unknown[0]}'; it has: {', '.join(sorted(known))}"
        )
    return replace(recipe, **changes)


def with_epochs(recipe, epochs):
    """Returns the recipe made shorter or longer: its stages keep their shares.

    Args:
        recipe: A `Recipe`.
        epochs: Integer of at least 1.
    """
    share = epochs / recipe.epochs
    rates = recipe.learning_rates
    if len(rates) > 1:
        rates = [(max(1, round(share * n)), rate) for n, rate in rates]
        while sum(n for n, _ in rates[:-1]) >= epochs:
            rates.pop()  # of few epochs, it would begin after the last one
    return recipe_with(
        recipe,
        epochs=epochs,
        whole_epochs=round(share * recipe.whole_epochs),
        learning_rates=tuple(rates),
    )
