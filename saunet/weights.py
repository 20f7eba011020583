"""Weights on disk: Keras files of every age, and the cards of shipped weights.

A weights file is data: only its arrays are read, never a configuration, a pickle or
a class, and each array's shape is compared with the network's before it is read.
"""

import hashlib
import json
import math
import re
from pathlib import Path

import h5py
import keras
import numpy as np

from saunet.data.field import is_diameter
from saunet.data.images import replacing, write_bytes
from saunet.data.padding import checked_padding
from saunet.data.runs import are_names, read_run, run_of
from saunet.errors import InputError
from saunet.models import FACTS

CARD, README = "card.json", "README.md"

# HDF5 stores an attribute in an object header of 64 KiB; Keras 2 cuts longer lists
# into `name0`, `name1`, ... at this size.
ATTRIBUTE_BYTES = 64512

# ---------------------------------------------------------------- weights files


def load_weights(model, path):
    """Reads a weights file into a model; on any error the model is unchanged.

    Three kinds are recognised by content, not by name:

    - Keras 2, weights only (`layer_names` at the root), as the authors publish;
    - Keras 2, whole model (`model_weights` group), whose configuration is ignored;
    - Keras 3 `.weights.h5`, written on any backend; optimizer and random states in
      it are ignored.

    Keras 2 files name layers as their author's session happened to count them, so
    they are matched by order and shape.

    Args:
        model: A functional `keras.Model`.
        path: Path of the file.

    Raises:
        InputError: the file is missing, damaged, not a weights file, of another
            network, or holds a number that is not finite. The message names the
            first layer that differs, both shapes, and what to try.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} is not a file: expected Keras weights (.h5 or .weights.h5); "
            "check the path"
        )
    try:
        with h5py.File(path, "r") as file:
            slots = _match(model, file, path)
            values = [_read(stored, path) for _, stored in slots]
    except (InputError, PermissionError):
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        with path.open("rb") as file:
            known = file.read(4) == b"\x89HDF"
        state = "damaged or cut short" if known else "not an HDF5 file"
        raise InputError(
            f"{path} is {state} ({path.stat().st_size} bytes): expected Keras weights "
            "(.h5 or .weights.h5); copy or download the file again"
        ) from error
    for (variable, _), value in zip(slots, values, strict=True):
        variable.assign(value)


def save_weights(model, path, *, file_format=None):
    """Writes the weights of a model beside `path`, then renames: all or nothing.

    Args:
        model: A functional `keras.Model`. Its optimizer is not saved.
        path: Path that ends in `.weights.h5` for "keras", in another `.h5` for
            "legacy".
        file_format: "keras" for Keras 3, or "legacy" for a Keras 2 weights-only file
            that `load_weights` of TensorFlow 2.12 reads by order; as the path ends
            by default.

    Returns:
        The format.

    Raises:
        InputError: unknown format, a suffix that would make Keras read the file as
            the other format, or the folder is missing or unwritable, or the disk full.
    """
    path = Path(path)
    keras_3 = path.name.endswith(".weights.h5")
    if file_format is None:
        file_format = "keras" if keras_3 else "legacy"
    if file_format not in ("keras", "legacy"):
        raise InputError(
            f"unknown weights format {file_format!r}: give 'keras' or 'legacy'"
        )
    if keras_3 != (file_format == "keras") or path.suffix != ".h5":
        expected = "'.weights.h5'" if file_format == "keras" else "'.h5' alone"
        raise InputError(
            f"{path.name!r} does not fit the {file_format} format, whose names end in "
            f"{expected}: Keras tells the formats apart by this; rename it"
        )
    # HDF5's own pages besides the numbers; more than it takes.
    pages = 4096 * (len(model.layers) + len(model.weights))
    with replacing(path, sync=True) as beside:
        # HDF5 brings Python down if the disk is full in the midst of a file.
        beside.write_bytes(bytes(4 * model.count_params() + pages))
        try:
            if file_format == "keras":
                # A model around the same layers has no optimizer to be saved.
                bare = keras.Model(model.inputs, model.outputs, name=model.name)
                bare.save_weights(beside)
            else:
                _write_legacy(model, beside)
        except RuntimeError as error:  # of h5py, which raises it beside OSError
            raise OSError(str(error)) from error
    return file_format


def _match(model, file, path):
    """Returns `[(variable, dataset)]` for all weights; raises at the first misfit."""
    root = file
    if "layer_names" not in file.attrs and "model_weights" in file:
        root = _child(file, "model_weights", path, h5py.Group)
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        stored, wanted = _legacy_layers(root, path), _layers_in_order(model)
    elif "layers" in file:
        root = _child(file, "layers", path, h5py.Group)
        stored, wanted = _keras_layers(model, root, path)
    else:
        found = ", ".join(sorted(file)[:3]) or "nothing"
        raise InputError(
            f"{path} is HDF5 but not Keras weights (it has {found}): expected a file "
            "written by `save_weights`"
        )
    _check_shapes(model, stored, wanted, path)
    return [
        (variable, dataset)
        for (_, variables), (_, datasets) in zip(wanted, stored, strict=True)
        for variable, dataset in zip(variables, datasets, strict=True)
    ]


def _check_shapes(model, stored, wanted, path):
    """Compares `[(layer name, arrays)]` of the file and of the model."""
    for index in range(max(len(stored), len(wanted))):
        theirs = stored[index] if index < len(stored) else ("", [])
        ours = wanted[index] if index < len(wanted) else ("", [])
        if _shapes(theirs) != _shapes(ours):
            raise InputError(
                f"{path} does not fit {model.name!r}: at layer {index + 1} the file "
                f"has {_describe(theirs)}, the network {_describe(ours)}; "
                f"{_remedy(model, stored)}"
            )


def _shapes(layer):
    return [tuple(array.shape or ()) for array in layer[1]]


def _describe(layer):
    """Words for one side of a misfit: `'conv2d' (3, 3, 3, 16) (16,)`."""
    shapes = " ".join(map(str, _shapes(layer)))
    return f"'{layer[0]}' {shapes}" if shapes else "none"


def _remedy(model, stored):
    """Says what to try, with the networks that have as many weights as the file."""
    total = sum(math.prod(shape) for layer in stored for shape in _shapes(layer))
    names = sorted(name for name, facts in FACTS.items() if facts.total == total)
    if names and model.count_params() != total:
        return f"the file has as many weights as {' or '.join(names)}: build that"
    return "build the network it was saved from, with the same options"


def _layers_in_order(model):
    """Returns `[(layer name, variables)]` of the layers with weights, in graph order.

    Keras 2 keeps a layer's trainable weights before the others.
    """
    return [
        (layer.name, layer.trainable_weights + layer.non_trainable_weights)
        for layer in model.layers
        if layer.weights
    ]


def _legacy_layers(root, path):
    """Returns `[(layer name, datasets)]` of a Keras 2 group, in file order."""
    found = []
    for name in _names(root, "layer_names"):
        group = _child(root, name, path, h5py.Group)
        places = _names(group, "weight_names")
        datasets = [_child(group, place, path, h5py.Dataset) for place in places]
        if datasets:
            found.append((name, datasets))
    return found


def _names(group, attribute):
    """Reads a list of names, of bytes or str, in one attribute or cut into several."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{len(parts)}"])
    names = [name for part in parts for name in part]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _keras_layers(model, root, path):
    """Returns `(stored, wanted)` of a Keras 3 file, layer beside layer.

    Keras 3 calls the layers of a class `conv2d`, `conv2d_1`, ... in graph order
    whatever their names, and the arrays of a layer `vars/0`, `vars/1`, ...; those of
    an inner layer lie under the name of its attribute.
    """
    stored, wanted, seen, seen_names = [], [], {}, set()
    for layer in model.layers:
        kind = _snake_case(type(layer).__name__)
        count = seen[kind] = seen.get(kind, -1) + 1
        name = f"{kind}_{count}" if count else kind
        arrays = _arrays(root, name, path)
        if layer.weights:
            variables, places = zip(*_variables_and_places(layer, name), strict=True)
            wanted.append((layer.name, variables))
            # Beyond the layer's own, an array is a difference too: kept, at the end.
            order = [*places, *sorted(set(arrays) - set(places))]
            stored.append((name, [arrays[place] for place in order if place in arrays]))
        seen_names.add(name)
    for name in sorted(set(root) - seen_names):
        if arrays := _arrays(root, name, path):
            stored.append((name, list(arrays.values())))
    return stored, wanted


def _variables_and_places(layer, place):
    """Yields each weight of a layer with its dataset's path in a Keras 3 file."""
    inner = {
        name: value
        for name, value in vars(layer).items()
        if isinstance(value, keras.Layer)
    }
    theirs = {id(weight) for value in inner.values() for weight in value.weights}
    own = [weight for weight in layer.weights if id(weight) not in theirs]
    for index, weight in enumerate(own):
        yield weight, f"{place}/vars/{index}"
    for name, value in inner.items():
        yield from _variables_and_places(value, f"{place}/{name}")


def _arrays(root, name, path):
    """Returns `{place: dataset}` of one layer, without its random states."""
    if name not in root:
        return {}
    child = _child(root, name, path, h5py.Group | h5py.Dataset)
    if isinstance(child, h5py.Dataset):
        return {name: child}
    found = {}
    for key in child:
        if not key.startswith("seed_generator"):
            found |= _arrays(root, f"{name}/{key}", path)
    return found


def _snake_case(name):
    """Spells a class name as Keras 3 files do: `Conv2DTranspose` `conv2d_transpose`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _child(group, name, path, kind):
    """Returns the object at `name`, of a kind, which must lie in this very file."""
    child = group
    for part in name.split("/"):
        inside = isinstance(child, h5py.Group) and isinstance(
            child.get(part, getlink=True), h5py.HardLink
        )
        child = child[part] if inside else None
    if not isinstance(child, kind):
        raise InputError(
            f"{path} has no {name!r} in {group.name!r} itself: the file is damaged or "
            "not Keras weights; copy or download it again"
        )
    return child


def _read(dataset, path):
    """Reads one array whose shape is already known to fit; refuses NaN and Inf."""
    if dataset.dtype.kind != "f" or dataset.external or dataset.is_virtual:
        raise InputError(
            f"{path}: {dataset.name!r} is not an array of floating-point numbers in "
            f"this file but {dataset.dtype}; copy or download the file again"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 is not finite then
        value = dataset[()].astype("float32")
    if not np.isfinite(value).all():
        raise InputError(
            f"{path}: {dataset.name!r} holds numbers that are not finite, so the "
            "training behind it diverged or the file is damaged; use an earlier one"
        )
    return value


def _write_legacy(model, path):
    """Writes the layout of Keras 2's `save_weights("x.h5")`."""
    with h5py.File(path, "w") as file:
        _set_names(file, "layer_names", [layer.name for layer in model.layers])
        # The layout of the arrays is TensorFlow's, whatever backend computed them.
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = keras.__version__.encode()
        variables = dict(_layers_in_order(model))
        for layer in sorted(model.layers, key=lambda layer: layer.name):
            group = file.create_group(layer.name)
            weights = variables.get(layer.name, [])
            names = [f"{weight.path}:0" for weight in weights]
            _set_names(group, "weight_names", names)
            for name, weight in zip(names, weights, strict=True):
                group.create_dataset(name, data=weight.numpy(), track_times=False)
        _set_names(file.create_group("top_level_model_weights"), "weight_names", [])


def _set_names(group, attribute, names):
    """Writes a list of names as Keras 2 does, cut if it is long."""
    names = [name.encode() for name in names]
    some = ATTRIBUTE_BYTES // max(map(len, names), default=1)
    if len(names) <= some:
        group.attrs[attribute] = names
        return
    for index, start in enumerate(range(0, len(names), some)):
        group.attrs[f"{attribute}{index}"] = names[start : start + some]


# ---------------------------------------------------------------- shipped weights

# Where a run or the `data` of a card may name the images that weights have seen.
SEEN = ("images", "validation", "start_images")
# key -> the keys it must hold; `None` for a plain value. `preprocessing` may hold
# `fov_diameter` too: of the field of view in the training images, pixels, or the
# smallest and the largest. `data` may hold `validation` and `start_images`. `storage`
# may say how the weights are stored, `training.commit` by what code they were trained.
CARD_KEYS = {
    "name": None,
    "model": None,
    "model_kwargs": None,
    "weights": None,
    "sha256": None,
    "preprocessing": {
        "scale": None,
        "padding": {"placement": None, "multiple": None, "square": None},
    },
    "threshold": {"value": None, "chosen_on": None},
    "data": {"dataset": None, "split": None, "images": None},
    "scores": None,
    "training": {
        "recipe": None,
        "seed": None,
        "device": None,
        "versions": None,
        "hours": None,
    },
    "licence": None,
    "limits": None,
}

_SCORE_COLUMNS = (
    "dataset",
    "split",
    "region",
    "pooling",
    "threshold",
    "images",
    "f1",
    "auc",
    "sensitivity",
    "specificity",
    "accuracy",
    "jaccard",
    "mcc",
)


def list_pretrained():
    """Returns the sorted names of the shipped weights."""
    return sorted(card.parent.name for card in _shipped().glob(f"*/{CARD}"))


def find_pretrained(name_or_folder):
    """Returns the folder of a shipped weight, or the given folder if it has a card.

    Args:
        name_or_folder: A name of `list_pretrained()`, or the path of a folder that
            holds `card.json`.

    Raises:
        InputError: neither of both; the message lists the known names. Or both, where
            the folder's card is another one: which is meant?
    """
    folder, name = Path(name_or_folder), str(name_or_folder)
    own = (folder / CARD).is_file()
    if name in list_pretrained():
        shipped = _shipped() / name
        if own and read_card(folder)["sha256"] != read_card(shipped)["sha256"]:
            raise _ambiguous(name)
        return shipped
    if own:
        return folder
    known = ", ".join(list_pretrained()) or "none in this installation"
    raise InputError(
        f"no weights {str(name_or_folder)!r}: give a training run, a folder with a "
        f"{CARD}, or one of the shipped ones: {known}"
    )


def find_run(name_or_file):
    """Returns the folder of the run that is meant, or whose weights are; else None.

    Raises:
        InputError: a run is here under the name of shipped weights.
    """
    run = run_of(name_or_file)
    if run and str(name_or_file) in list_pretrained():
        raise _ambiguous(name_or_file)
    return run


def _ambiguous(name):
    return InputError(
        f"{name}: is a folder here and the name of shipped weights: write ./{name} for "
        "the folder, or choose another folder to work in"
    )


def find_weights(name_or_file):
    """Returns the file of a shipped name, of a card's or run's folder, or itself.

    Also what is known of its network: a card or a recipe, with `model` and
    `model_kwargs`; of a mere file nothing, `{}`.

    Raises:
        InputError: nothing there, a damaged card, or a run without weights.
    """
    path, run = Path(name_or_file), find_run(name_or_file)
    if run:
        path = path if path.is_file() else run_weights(run)
        return path, read_run(run)["recipe"]
    if path.is_file():
        return path, {}
    folder = find_pretrained(name_or_file)
    card = read_card(folder)
    return folder / card["weights"], card


def seen_images(name_or_file):
    """Returns the names of the images that weights have seen, as far as known.

    Those that trained them or chose an epoch, of all trainings back to new weights.

    Args:
        name_or_file: as in `find_weights`.
    """
    about = _data_of(name_or_file)
    return sorted({name for kind in SEEN for name in about.get(kind, ())})


def seen_pixels(name_or_file):
    """As `seen_images`, what `sha256_of_pixels` gives of each."""
    return set(_data_of(name_or_file).get("seen_sha256", ()))


def _data_of(name_or_file):
    run = find_run(name_or_file)
    return read_run(run) if run else find_weights(name_or_file)[1].get("data", {})


def sha256_of_pixels(image):
    """Returns by what an image is known again, whatever its file is named."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def run_weights(folder):
    """Returns the best weights of a run where validation chose some, else the last.

    Raises:
        InputError: no epoch of it was whole yet.
    """
    for which in ("best", "last"):
        path = Path(folder) / f"{which}.weights.h5"
        if path.is_file():
            return path
    raise InputError(
        f"{folder}: no best.weights.h5 or last.weights.h5: expected a training "
        "run of at least one whole epoch"
    )


def _shipped():
    """Returns the folder of all shipped weights: in a wheel, or in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "_weights"
    return inside if inside.is_dir() else package.parent / "weights"


def read_card(folder):
    """Reads `card.json`, checks its keys and the digest of the weights beside it.

    Args:
        folder: Path of a folder of `weights/`.

    Returns:
        The card, a dict with at least the keys of `CARD_KEYS`.

    Raises:
        InputError: no card, not JSON, a key is missing, a value is out of range, or
            the weights are missing or have another digest.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} not found: give a folder that holds a {CARD} and its weights"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}): restore it from its origin"
        ) from error
    _check_card(card, path)
    weights = path.with_name(card["weights"])
    if not weights.is_file():
        raise InputError(f"{weights} not found, which {path} names: download it again")
    digest = sha256_of(weights)
    if digest != card["sha256"]:
        raise InputError(
            f"{weights} has sha256 {digest}, but {path} says {card['sha256']}: "
            "download the weights again, or write a new card if you changed them"
        )
    return card


def write_card(folder, card):
    """Writes `card.json` and the `README.md` rendered from it, each all or nothing.

    Args:
        folder: Path of the folder of the weights; it exists.
        card: Dict with the keys of `CARD_KEYS`.

    Raises:
        InputError: a key is missing or a value out of range.
    """
    folder = Path(folder)
    _check_card(card, folder / CARD)
    text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in ((CARD, text + "\n"), (README, render_readme(card))):
        write_bytes(folder / name, content.encode(), sync=True)


def sha256_of(path):
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _check_card(card, path):
    """Raises `InputError` at the first missing key or value out of range."""
    missing = _missing_key(card, CARD_KEYS)
    if missing:
        raise InputError(
            f"{path} has no {missing!r}: a card has the keys of "
            "`saunet.weights.CARD_KEYS`; add it"
        )

    def check(good, key, value, expected):
        if not good:
            raise InputError(f"{path}: `{key}` is {value!r}, expected {expected}")

    weights, model, kwargs = card["weights"], card["model"], card["model_kwargs"]
    # The card is data from elsewhere: it must not lead out of its folder.
    plain = isinstance(weights, str) and weights and Path(weights).name == weights
    check(plain, "weights", weights, "the plain name of a file beside the card")
    check(isinstance(model, str), "model", model, "the name of a network")
    check(isinstance(kwargs, dict), "model_kwargs", kwargs, "an object of its options")
    value = card["threshold"]["value"]
    share = isinstance(value, float) and 0 < value < 1
    check(share, "threshold.value", value, "a number between 0 and 1")
    for kind in (*SEEN, "seen_sha256"):
        names = card["data"].get(kind, [])
        check(are_names(names), f"data.{kind}", names, "a list of names")
    diameter = card["preprocessing"].get("fov_diameter", 1)
    pixels = is_diameter(diameter)
    check(pixels, "preprocessing.fov_diameter", diameter, "pixels")
    try:
        checked_padding(card["preprocessing"]["padding"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _missing_key(card, keys, prefix=""):
    """Returns the dotted name of the first key of `keys` that `card` lacks."""
    for key, inner in keys.items():
        if not isinstance(card, dict) or key not in card:
            return prefix + key
        if inner and (missing := _missing_key(card[key], inner, f"{prefix}{key}.")):
            return missing
    return None


def render_readme(card):
    """Renders the `README.md` of a card.

    Args:
        card: Dict with the keys of `CARD_KEYS`.

    Returns:
        Markdown, a string that depends on the card alone.
    """
    padding = card["preprocessing"]["padding"]
    threshold, data, training = card["threshold"], card["data"], card["training"]
    commit = training.get("commit")
    shape = "a square whose side is" if padding["square"] else "sides that are each"
    diameter = card["preprocessing"].get("fov_diameter")
    if isinstance(diameter, list):
        diameter = " to ".join(map(str, diameter))
    before = ""
    if first := data.get("start_images"):
        recipe = training["recipe"]
        start = recipe.get("start_from") if isinstance(recipe, dict) else None
        named = f" (`{start}`)" if start else ""
        before = (
            f" Before that, in the weights it began with{named}: {len(first)} images "
            f"({', '.join(map(str, first))})."
        )
    field = f" Field of view: {diameter} pixels across." if diameter else ""
    call = "probability = segmenter.predict(image)"
    if diameter:
        call = "# scaled to vessels as wide as in training, as `saunet predict` does\n"
        call += 'probability = segmenter.predict(image, scale="auto")'
    sections = {
        "Intended use": (
            f"Vessel probability of each pixel of a colour fundus photograph, by "
            f"`{card['model']}`{_options(card['model_kwargs'])}. For research: not a "
            "medical device.\n\n"
            "```python\n"
            "import saunet\n\n"
            f'segmenter = saunet.load_pretrained("{card["name"]}")\n'
            f"{call}  # (H, W, 3) -> (H, W) in [0, 1]\n"
            "```"
        ),
        "Data and split": (
            f"{data['dataset']}, {data['split']}: {len(data['images'])} images "
            f"({', '.join(map(str, data['images']))}).{before}"
        ),
        "Preprocessing": (
            f"RGB, {card['preprocessing']['scale']}; padded with zeros "
            f"({padding['placement'].replace('_', '/')}) to {shape} a multiple of "
            f"{padding['multiple']} pixels, and cropped back. Vessel if probability > "
            f"{threshold['value']} (chosen on: {threshold['chosen_on']}).{field}"
        ),
        "Scores": _scores_table(card["scores"]),
        "Training": "\n".join(
            [
                *_bullets(training["recipe"]),
                f"- seed: {training['seed']}",
                f"- device: {training['device']}, {training['hours']} hours",
                f"- versions: {_plain(training['versions'])}",
                *([f"- commit: {commit}"] if commit else []),
            ]
        ),
        "Limits": _plain(card["limits"]),
        "Licence": _plain(card["licence"]),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    file = f"`{card['weights']}`, sha256 `{card['sha256']}`."
    storage = f"\n{card['storage']}" if card.get("storage") else ""
    return f"# {card['name']}\n\n{file}{storage}\n\n{body}\n"


def _options(model_kwargs):
    words = ", ".join(f"{key}={value!r}" for key, value in model_kwargs.items())
    return f" ({words})" if words else ""


def _bullets(recipe):
    """Lists what a recipe sets: no field that is empty, 0 or without effect."""
    if not isinstance(recipe, dict):
        return [f"- recipe: {recipe}"]
    fields = {key: _plain(value) for key, value in recipe.items() if value}
    schedule = recipe.get("schedule")
    if schedule != "plateau":
        fields.pop("plateau", None)
    if "learning_rates" in fields:
        fields["learning_rates"] = _rates(recipe["learning_rates"], schedule)
    # The seed is the training's own.
    return [f"- {key}: {words}" for key, words in fields.items() if key != "seed"]


def _rates(rates, schedule):
    """Words for `[[epochs, rate], ...]`, of which the last rate stays."""
    if schedule in ("one_cycle", "plateau"):
        return f"{rates[0][1]} at most"
    *before, (_, last) = rates
    words = [f"{epochs} epochs at {rate}" for epochs, rate in before]
    return ", then ".join([*words, str(last)])


def _plain(value):
    """Words for a value of a card: a list or a dict in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _scores_table(scores):
    """Renders one row a protocol; a score nobody measured has no column."""
    if not scores:
        return "Not measured."
    columns = [key for key in _SCORE_COLUMNS if any(key in row for row in scores)]
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(key, row.get(key)) for key in columns] for row in scores]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(key, value):
    if value is None:
        return "n/a"
    measured = isinstance(value, float) and key != "threshold"
    return f"{value:.4f}" if measured else str(value)
