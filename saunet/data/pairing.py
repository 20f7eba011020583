"""Which file belongs to which: maps, labels, fields of view and photographs.

`saunet predict` mirrors a tree of folders, so a tree of results is paired with one of
labels folder by folder: predictions/left/01_prob.png with truth/left/01.png.
"""

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from saunet.data.images import image_stem, is_image
from saunet.errors import InputError

# Latin, English, French, German. A short word may mean something else beside a letter,
# and a letter beside a whole word: what says most is taken.
EYES = (
    {"left": "L", "os": "L", "og": "L", "gauche": "L", "links": "L"}
    | {"right": "R", "od": "R", "droit": "R", "droite": "R", "rechts": "R"},
    {"l": "L", "r": "R"},
    {"la": "L", "sx": "L", "oi": "L", "ra": "R", "dx": "R"},
)
# Numbered, they are two who drew one image.
OBSERVERS = {"manual", "label", "gt", "seg", "annot", "annotation", "human", "ho"}
OBSERVERS |= {"observer", "obs", "expert", "grader", "rater", "reader", "annotator"}
FIRST_NUMBER = re.compile(r"\D*\d+[A-Za-z]*")
# "2019", "visit1", "2a", "20190301T1200": a word, perhaps none, and its number.
NUMBERED = re.compile(r"([^\W\d_]*)(\d+)(?:[^\W\d_]?|t\d+)")


def list_images(folder):
    """Returns the pictures in a folder, sorted; files of other kinds are left out.

    Raises:
        InputError: the folder does not exist or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: check the name")
    paths = _pictures(folder, os.listdir(folder))
    if not paths:
        raise InputError(f"{folder}: holds no picture: give the folder of the images")
    return paths


def walk(folder):
    """As `os.walk`, but a folder that cannot be listed is an error, not left out.

    Raises:
        InputError: such a folder.
    """

    def refuse(error):
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return  # not there, or gone meanwhile
        raise InputError(
            f"{error.filename}: may not be read ({error.strerror}): change its "
            "permissions or leave it out"
        ) from error

    return os.walk(folder, onerror=refuse)


def list_results(folder, kind):
    """Returns the pictures named `<name>_<kind>` in a folder and in those below.

    A tree without such a name is one of another method: the folder's own pictures
    then, or where it has none, all those below.

    Args:
        folder: path.
        kind: "prob" or "mask".

    Raises:
        InputError: as `list_images`.
    """
    every = list_tree(folder) or list_images(folder)
    named = [path for path in every if _is_of(path, kind)]
    own = [path for path in every if path.parent == Path(folder)]
    return named or own or every


def list_tree(folder):
    """Returns the pictures in a folder and, after these, in each one below."""
    every = []
    for path, below, names in walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        every += _pictures(Path(path), names)
    return every


def _pictures(folder, names):
    paths = [folder / name for name in sorted(names) if not name.startswith(".")]
    return [path for path in paths if path.is_file() and is_image(path)]


def _is_of(path, kind):
    return image_stem(path).endswith(f"_{kind}")


def pair_files(paths, others):
    """Finds for each file the one of the same image among others.

    In this order: the same name (`a.png`, `a.gif`); one name beginning with the other
    (`Image_11L.png`, `Image_11L_1stHO.png`); the same name up to the end of its
    first number, whatever its capitals (`01_test.png`, `01_manual1.gif` are both 1),
    unless they are of different eyes (`1_left.png`, `1_right.png`), or differ in a
    later number (`p1_2019.png`, `p1_2020_label.png`; `p1_visit1.png`, `p1_visit2.png`)
    that is no observer's. A trailing `_prob` or `_mask` on the first side does not
    count, nor how an accent is encoded.

    Args:
        paths: list of Path.
        others: list of Path.

    Returns:
        Dict from each of `paths` to one of `others`, no one twice.

    Raises:
        InputError: a file has no partner, more than one, or shares it.
    """
    find = partner_finder(others)
    pairs = {path: find(path) for path in paths}
    claims = Counter(pairs[path] for path in paths)
    for other, count in claims.items():
        if count > 1:
            rivals = [path for path in paths if pairs[path] == other]
            raise InputError(
                f"{names_of(rivals)} all belong to {other.name}: give each image one "
                "file on both sides"
            )
    return pairs


def partner_finder(others):
    """Returns a function: a path -> the one of `others` that `pair_files` gives it.

    The function raises InputError where there is none, or more than one.
    """
    names = [_name_of(other) for other in others]
    # Each name, number, and what these begin with -> indices of others.
    stems, beginnings, exactly, longer, alike = {}, {}, {}, {}, {}
    for index, name in enumerate(names):
        stems.setdefault(name.stem, []).append(index)
        for beginning in _beginnings(name.stem):
            beginnings.setdefault(beginning, []).append(index)
        alike.setdefault(name.numbers[0], []).append(index)
        exactly.setdefault(name.numbers, []).append(index)
        for end in range(1, len(name.numbers)):
            longer.setdefault(name.numbers[:end], []).append(index)

    def find(path):
        whole = _stem(path)
        name = _name(_prediction_stem(whole))
        found = stems.get(whole) or stems.get(name.stem)
        if not found:
            shorter = [i for b in _beginnings(name.stem) for i in stems.get(b, ())]
            found = sorted([*beginnings.get(name.stem, ()), *shorter])
        near = () if found else alike.get(name.numbers[0], ())
        if near:
            ends = range(1, len(name.numbers) + 1)
            found = [i for end in ends for i in exactly.get(name.numbers[:end], ())]
            found += longer.get(name.numbers, ())
            found = sorted(i for i in found if {name.eye, names[i].eye} != {"L", "R"})
            alike_too = [i for i in found if names[i].first == name.first]
            found = alike_too if len(alike_too) == 1 else found
        if len(found) != 1:
            where = others[0].parent if others else "an empty folder"
            rivals = names_of([others[index] for index in found or near])
            trouble = f"may be any of {rivals}" if found else "has no partner"
            if near and not found:
                trouble += f" but {rivals}, of the other eye or by another number,"
            raise InputError(
                f"{path.name} {trouble} in {where}: give each image one file on both "
                "sides, named alike (01_test.png and 01_manual1.gif)"
            )
        return others[found[0]]

    return find


def pair_trees(paths, root, others):
    """Finds for each file below a folder the one of the same image below another.

    Args:
        paths: list of Path below `root`.
        root: folder.
        others: folder; a sub-folder's files are paired with its sub-folder's of the
            same name.

    Returns:
        As `pair_files`.

    Raises:
        InputError: as `pair_files` and `list_images`.
    """
    pairs = {}
    for folder, group in _by_folder(paths, root).items():
        pairs |= pair_files(group, list_images(Path(others) / folder))
    return pairs


def pair_truth(guesses, root, truth):
    """Finds the label of each prediction, and refuses labels that have none.

    Args:
        guesses: list of Path below `root`.
        root: folder of the predictions.
        truth: folder of label pictures, in sub-folders as the predictions are.

    Returns:
        As `pair_trees`.

    Raises:
        InputError: as `pair_trees`, or a label has no prediction.
    """
    labels = pair_trees(guesses, root, truth)
    flat = all(path.parent == Path(root) for path in guesses)
    others = list_images(truth) if flat else list_tree(truth)
    surplus = sorted(set(others) - set(labels.values()))
    if surplus:
        raise InputError(
            f"{truth}: no prediction for {names_of(surplus, truth)}: predict these "
            "too, or leave only the truth that is to be scored"
        )
    return labels


def place_of(path, root, kind="prob"):
    """Returns what a prediction is of: its sub-folder of `root`, and its stem."""
    stem = image_stem(path).removesuffix(f"_{kind}") or image_stem(path)
    return path.relative_to(root).with_name(stem).as_posix()


def shared_names(paths, root):
    """Returns a short name for each file; the whole one where short ones collide."""
    names = {}
    for folder, group in _by_folder(paths, root).items():
        stems = [_prediction_stem(image_stem(path)) for path in group]
        keys = [re.match(r"(\D*\d+[A-Za-z]*)?", stem).group() for stem in stems]
        if len(set(keys)) < len(group) or not all(keys):
            keys = stems
        for path, key in zip(group, keys, strict=True):
            names[path] = (folder / key).as_posix()
    return names


def _by_folder(paths, root):
    """Returns the files by the sub-folder of `root` that they are in."""
    groups = {}
    for path in paths:
        groups.setdefault(path.parent.relative_to(root), []).append(path)
    return groups


def _prediction_stem(name):
    return name.removesuffix("_prob").removesuffix("_mask")


def _beginnings(stem):
    """Returns what a name begins with before each of its separators."""
    return [stem[:i] for i, letter in enumerate(stem) if not letter.isalnum()]


class _Name(NamedTuple):
    """What a file's name says.

    Attributes:
        stem: str.
        first: str, the name up to its first number: "01" and "1" are "1", "im0001.ah"
            is "im0001".
        numbers: tuple of `first` in small letters, then each later number with the word
            before it, such as ("", 2019) or ("visit", 1).
        eye: "L", "R" or None.
    """

    stem: str
    first: str
    numbers: tuple
    eye: str | None


def _name_of(path):
    return _name(_stem(path))


def _stem(path):
    # macOS takes an accent for a letter of its own: "u" and two dots.
    return unicodedata.normalize("NFC", image_stem(path))


def _name(stem):
    match = FIRST_NUMBER.match(stem)
    first = match.group() if match else stem
    first = str(int(first)) if first.isdecimal() else first
    rest = FIRST_NUMBER.sub("", stem, count=1).casefold()
    words = map(NUMBERED.fullmatch, re.split(r"[\W_]+", rest))
    later = [(word[1], int(word[2])) for word in words if word]
    later = [number for number in later if number[0] not in OBSERVERS]
    return _Name(stem, first, (first.casefold(), *later), _eye(stem))


def _eye(stem):
    """Returns which eye a name says, "L" or "R", or None."""
    words = re.findall(r"[a-z]+", stem.lower())
    for known in EYES:
        eyes = {known[word] for word in words if word in known}
        if eyes:
            return eyes.pop() if len(eyes) == 1 else None
    return None


def names_of(paths, root=None):
    """Returns the names of some files for a message: five, and how many more."""
    names = [path.relative_to(root).as_posix() if root else path.name for path in paths]
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
