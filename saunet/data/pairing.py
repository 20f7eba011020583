"""Which file belongs to which: maps, labels, fields of view and photographs."""

import re
from pathlib import Path

from saunet.data.images import image_stem, is_image_name
from saunet.errors import InputError


def list_images(folder):
    """Returns the pictures in a folder, sorted; files of other kinds are left out.

    Raises:
        InputError: the folder does not exist or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: check the name.")
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and is_image_name(path) and not path.name.startswith(".")
    )
    if not paths:
        raise InputError(f"{folder}: holds no picture: give the folder of the images.")
    return paths


def pair_files(paths, others):
    """Finds for each file the one of the same image among others.

    In this order: the same name (`a.png`, `a.gif`); one name beginning with the other
    (`Image_11L.png`, `Image_11L_1stHO.png`); the same name up to the end of its
    first number (`01_test.png`, `01_manual1.gif` are both 1). A trailing `_prob` on
    the first side does not count.

    Args:
        paths: list of Path.
        others: list of Path.

    Returns:
        Dict from each of `paths` to one of `others`, no one twice.

    Raises:
        InputError: a file has no partner, more than one, or shares it.
    """
    pairs = {}
    for path in paths:
        found = _partners(path, others)
        if len(found) != 1:
            where = others[0].parent if others else "an empty folder"
            trouble = f"may be any of {names_of(found)}" if found else "has no partner"
            raise InputError(
                f"{path.name} {trouble} in {where}: give each image one file on both "
                "sides, named alike (01_test.png and 01_manual1.gif)."
            )
        pairs[path] = found[0]
    for other in pairs.values():
        rivals = [path for path in paths if pairs[path] == other]
        if len(rivals) > 1:
            raise InputError(
                f"{names_of(rivals)} all belong to {other.name}: give each image one "
                "file on both sides."
            )
    return pairs


def pair_truth(guesses, truth):
    """Finds the label of each prediction, and refuses labels that have none.

    Args:
        guesses: list of Path.
        truth: folder of label pictures.

    Returns:
        As `pair_files`.

    Raises:
        InputError: as `pair_files` and `list_images`, or a label has no prediction.
    """
    others = list_images(truth)
    labels = pair_files(guesses, others)
    surplus = sorted(set(others) - set(labels.values()))
    if surplus:
        raise InputError(
            f"{truth}: no prediction for {names_of(surplus)}: predict these too, or "
            "leave only the truth that is to be scored."
        )
    return labels


def find_predictions(folder):
    """Returns the maps in a folder: those named `<name>_prob`, or else all pictures."""
    paths = list_images(folder)
    maps = [path for path in paths if image_stem(path).endswith("_prob")]
    return maps or paths


def shared_names(paths):
    """Returns a short name for each file; the whole one where short ones collide."""
    keys = [re.match(r"(\D*\d+[A-Za-z]*)?", _prediction_stem(p)).group() for p in paths]
    if len(set(keys)) < len(paths) or not all(keys):
        keys = [_prediction_stem(path) for path in paths]
    return dict(zip(paths, keys, strict=True))


def _partners(path, others):
    stem = _prediction_stem(path)
    rules = (
        lambda other: other == stem,
        lambda other: _begins(other, stem) or _begins(stem, other),
        lambda other: _number(other) == _number(stem),
    )
    for rule in rules:
        found = [other for other in others if rule(image_stem(other))]
        if found:
            return found
    return []


def _prediction_stem(path):
    return image_stem(path).removesuffix("_prob")


def _begins(longer, shorter):
    """Returns whether a name begins with another and goes on with a separator."""
    rest = longer[len(shorter) :]
    return longer.startswith(shorter) and bool(rest) and not rest[0].isalnum()


def _number(stem):
    """Returns a name up to its first number: "01" and "1" -> "1", "im0001.ah" -> it."""
    match = re.match(r"\D*\d+[A-Za-z]*", stem)
    key = match.group() if match else stem
    return str(int(key)) if key.isdecimal() else key


def names_of(paths):
    """Returns the names of some files for a message: five, and how many more."""
    shown = ", ".join(path.name for path in paths[:5])
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5} more"
