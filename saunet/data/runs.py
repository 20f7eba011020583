"""The record of a training run, `run.json`, read as what others may have made of it."""

import json
from pathlib import Path

from saunet.data.field import is_diameter
from saunet.errors import InputError

NAME = "run.json"
TEXT = (str, type(None))
# What is read by its name elsewhere. Each but the recipe may be absent.
KINDS = {
    "recipe": (dict,),
    "continued": (list,),
    "devices": (int,),
    "versions": (dict,),
    "backend": TEXT,
    "device": TEXT,
    "commit": TEXT,
    "date": TEXT,
    "hours": (int, float),
    "start_sha256": TEXT,
}
NAMES = ("images", "validation", "start_images", "seen_sha256")
NAMES += ("images_sha256", "labels_sha256")
RECIPE_KINDS = {"model": (str,), "model_kwargs": (dict,), "placement": (str,)}


def is_run(folder):
    """Returns whether a folder holds the record of a training run."""
    return (Path(folder) / NAME).is_file()


def run_of(path):
    """Returns the folder of the run that is meant, or whose weights are; else None."""
    path = Path(path)
    folder = path.parent if path.is_file() and path.suffix == ".h5" else path
    return folder if is_run(folder) else None


def read_run(folder):
    """Returns the record of a run, a dict with at least `recipe` and its `model`.

    Raises:
        InputError: there is none, or it is not what `saunet train` wrote.
    """
    path = Path(folder) / NAME
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        recipe = run["recipe"]
        wrong = [*_wrong(run, KINDS), *_wrong(recipe, RECIPE_KINDS)]
        wrong += [f"{k}={run[k]!r}" for k in NAMES if not are_names(run.get(k, []))]
        if not is_diameter(run.get("fov_diameter", 1)):
            wrong.append(f"fov_diameter={run['fov_diameter']!r}")
        known = "model" in recipe
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        wrong, known = [], False
    if wrong or not known:
        what = f"{wrong[0]} makes no sense in" if wrong else "not"
        raise InputError(
            f"{path}: {what} the record of a run: expected what `saunet train` wrote"
        )
    return run


def are_names(values):
    """Returns whether this, from a file that others may have made, is a list of str."""
    return type(values) is list and all(type(value) is str for value in values)


def _wrong(record, kinds):
    """Yields what is of another kind, as name=value."""
    for name, kind in kinds.items():
        if name in record and type(record[name]) not in kind:
            yield f"{name}={record[name]!r}"
