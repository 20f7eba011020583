"""A folder of one's own photographs and labels, read like a dataset.

    DIR/images          photographs
    DIR/vessels         a label for each, white vessels on black; the folder may also be
                        named labels, 1st_manual or masks
    DIR/fov             optional, also named mask: a field of view for each; else found

What training shall not see lies in DIR/test, in folders of the same names, and the
rest may lie in DIR/training. Files are paired as by `saunet score`: by one name, or by
what both names begin with, up to the first number. Photographs need not be of one size.
"""

import hashlib
from collections import Counter
from pathlib import Path

from saunet.data.datasets import Sample
from saunet.data.field import field_of_view
from saunet.data.images import (
    image_stem,
    of_one_size,
    read_fov,
    read_image,
    read_label,
)
from saunet.data.pairing import (
    list_images,
    list_tree,
    names_of,
    pair_files,
    partner_finder,
)
from saunet.errors import InputError

LABELS = ("vessels", "labels", "1st_manual", "masks")
FIELDS = ("fov", "mask")
HELD_OUT = (
    "move its photographs and labels to training, and name those that choose the epoch "
    "with --set validation=('name',)"
)
# What such a folder is likely to be named otherwise, and what to do about it.
OTHER_PARTS = {
    "train": "rename it to training",
    "testing": "rename it to test",
    **dict.fromkeys(("val", "valid", "validate", "validation"), HELD_OUT),
}


def load_folder(data_dir, split="train"):
    """Reads one part of a folder of one's own.

    Args:
        data_dir: the folder, as above.
        split: "train", "test" or "all"; where there is no DIR/test, "train" is all.

    Returns:
        List of `Sample`, named like the photographs and in the order of these names.

    Raises:
        InputError: a folder or a part is missing, a photograph has no label or a label
            no photograph, two photographs have one name, a file is damaged or of
            another size than its photograph, or a label is no label or more than half
            vessel.
    """
    parts = [_pair(*_find_files(part)) for part in _parts(data_dir, split)]
    samples = [_load(*files) for part in parts for files in part]
    names = Counter(sample.name for sample in samples)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise InputError(
            f"{data_dir}: two photographs are named {twice[0]}: rename one of them"
        )
    return samples


def check_folder(data_dir):
    """Looks for whatever would spoil a training on a folder of one's own.

    Args:
        data_dir: as in `load_folder`.

    Returns:
        List of str, one problem each: what `load_folder` refuses, labels without a
        vessel, and photographs that occur twice. Empty if all is well.

    Raises:
        InputError: the folder does not exist.
    """
    problems, seen, names = [], {}, Counter()
    try:
        parts = _parts(data_dir, "all")
    except InputError as error:
        if not Path(data_dir).is_dir():
            raise
        return [str(error)]
    for part in parts:
        try:
            images, labels, fields = _find_files(part)
        except InputError as error:
            problems.append(str(error))
            continue
        before = len(problems)
        find_label = partner_finder(labels)
        find_field = partner_finder(fields) if fields else lambda image: None
        for image in images:
            try:
                label = find_label(image)
                sample = _load(image, label, find_field(image))
            except InputError as error:
                problems.append(str(error))
                continue
            names[sample.name] += 1
            if names[sample.name] == 2:
                problems.append(
                    f"{image}: another photograph is named alike: rename it"
                )
            if not sample.vessels.any():
                problems.append(f"{label}: no vessel: another file in its place?")
            digest = hashlib.sha256(sample.image.tobytes()).hexdigest()
            if digest in seen:
                problems.append(f"{image}: the same pixels as {seen[digest]}")
            seen.setdefault(digest, image)
        if len(problems) == before:
            try:
                _pair(images, labels, fields)
            except InputError as error:
                problems.append(str(error))
    return problems


def _parts(data_dir, split):
    """Returns the folders of a split; a folder without a test part is all "train"."""
    if split not in ("train", "test", "all"):
        raise InputError(f"split {split!r} is unknown: use train, test or all")
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder: expected one that holds images and {LABELS[0]}"
        )
    for name, instead in OTHER_PARTS.items():
        if (root / name).is_dir() and list_tree(root / name):
            raise InputError(f"{root / name}: is no folder that is read: {instead}")
    test = root / "test"
    if split == "test" and not test.is_dir():
        raise InputError(
            f"{root}: no folder test: move the photographs and labels that nothing is "
            "trained on to test/images and test/vessels there, or use --split train"
        )
    train = root / "training" if (root / "training").is_dir() else root
    if train != root and (root / "images").is_dir():
        raise InputError(
            f"{root}: holds images and training: expected the training photographs in "
            "one of both; move the others elsewhere"
        )
    every = [train, test] if test.is_dir() else [train]
    return {"train": [train], "test": [test], "all": every}[split]


def _find_files(part):
    """Returns the photographs, labels and fields of view of a part; None without."""
    labels, fields = (_folder(part, names) for names in (LABELS, FIELDS))
    for folder, name in ((_folder(part, ("images",)), "images"), (labels, LABELS[0])):
        if folder is None:
            raise InputError(
                f"{part}: no folder {name}: expected photographs in images and their "
                f"labels in {', '.join(LABELS[:-1])} or {LABELS[-1]}"
            )
    images = _list_flat(part / "images")
    return images, _list_flat(labels), fields and _list_flat(fields)


def _list_flat(folder):
    """As `list_images`, but pictures in folders below are refused, not left out."""
    images = list_images(folder)
    below = [path for path in list_tree(folder) if path.parent != folder]
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            raise InputError(
                f"{path}: links to nothing: bring the file back, or remove the link"
            )
        if path.is_symlink() and path.is_dir():
            below += list_tree(path)
    if below:
        raise InputError(
            f"{below[0].parent}: holds pictures, too: expected all in {folder} itself, "
            "named apart; move them there, or elsewhere"
        )
    return images


def _folder(part, names):
    found = [part / name for name in names if (part / name).is_dir()]
    if len(found) > 1:
        raise InputError(
            f"{part}: holds {' and '.join(path.name for path in found)}: expected one "
            "of these folders; move the others elsewhere"
        )
    return found[0] if found else None


def _pair(images, labels, fields):
    """Returns (photograph, label, field of view or None) of each photograph."""
    vessels = pair_files(images, labels)
    surplus = sorted(set(labels) - set(vessels.values()))
    if surplus:
        raise InputError(
            f"{labels[0].parent}: no photograph for {names_of(surplus)}: add it, or "
            "take the label out"
        )
    inside = pair_files(images, fields) if fields else {}
    return [(image, vessels[image], inside.get(image)) for image in images]


def _load(image, label, field):
    pixels, vessels = read_image(image), read_label(label)
    fov = field_of_view(pixels)[0] if field is None else read_fov(field)
    for path, mask in ((label, vessels), (field, fov)):
        of_one_size(mask, pixels, path)
    if field is not None and 2 * vessels[fov > 0].sum() < vessels.sum():
        raise InputError(
            f"{field}: most vessels of {label} lie outside: expected white inside the "
            "field of view, black outside"
        )
    return Sample(
        name=image_stem(image),
        image=pixels,
        vessels=vessels,
        fov=fov,
        fov_source="estimated" if field is None else "official",
    )
