"""The public datasets: their official layouts, splits and labels, and their FOV.

No file of a dataset is part of this package; each is read where it was unpacked.

| key | official source | split |
|---|---|---|
| drive | Staal et al. 2004 (https://drive.grand-challenge.org) | official 20 / 20 |
| chase_db1 | Fraz et al. 2012 (Kingston University) | first 20 / last 8 |
| stare | Hoover et al. 2000 (https://cecas.clemson.edu/~ahoover/stare) | 5 folds of 4 |
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from saunet.data.images import (
    of_one_size,
    read_fov,
    read_gray,
    read_image,
    read_mask,
    sides,
)
from saunet.errors import InputError

NO_TEST_LABELS = (
    "DRIVE's test labels are not in today's download; put those of an older one into "
    "test/1st_manual, submit the maps to drive.grand-challenge.org, or use the "
    "training part"
)


@dataclass(frozen=True)
class Sample:
    """One photograph with what experts drew on it.

    Attributes:
        name: the dataset's own name: "21" (DRIVE), "01L" (CHASE_DB1), "im0001".
        image: `(H, W, 3)` uint8 RGB.
        vessels: `(H, W)` uint8 in {0, 1}, the first observer; None where the
            dataset does not give it (DRIVE's test part as downloaded today).
        fov: `(H, W)` uint8 in {0, 1}, the field of view.
        fov_source: "official" (a file of the dataset) or "estimated" (`find_fov`).
        second_observer: like `vessels`, or None.
    """

    name: str
    image: np.ndarray
    vessels: np.ndarray | None
    fov: np.ndarray
    fov_source: str
    second_observer: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """Where a dataset keeps its files, relative to its folder.

    In the templates `{name}` is a sample's name and `{part}` is "training" or
    "test"; a file may also be gzipped with ".gz" added.

    Attributes:
        title: the name people write.
        folder: name of the folder inside a folder of datasets.
        size: `(H, W)` of every image, pixels.
        train: names of the training images; empty for a dataset with folds.
        test: names of the test images; empty for a dataset with folds.
        folds: names of the test images of each fold.
        image: template of the photograph.
        vessels: template of the first observer's labels.
        fov: template of the official field of view, or None.
        second_observer: template of the second observer's labels.
        layout: one line that shows the expected files.
    """

    title: str
    folder: str
    size: tuple[int, int]
    image: str
    vessels: str
    second_observer: str
    layout: str
    fov: str | None = None
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()


DATASETS = {
    "drive": Dataset(
        title="DRIVE",
        folder="DRIVE",
        size=(584, 565),
        train=tuple(f"{number:02d}" for number in range(21, 41)),
        test=tuple(f"{number:02d}" for number in range(1, 21)),
        image="{part}/images/{name}_{part}.tif",
        vessels="{part}/1st_manual/{name}_manual1.gif",
        fov="{part}/mask/{name}_{part}_mask.gif",
        second_observer="{part}/2nd_manual/{name}_manual2.gif",
        layout="training/images/21_training.tif, training/1st_manual/21_manual1.gif, "
        "training/mask/21_training_mask.gif, test/images/01_test.tif, "
        "test/mask/01_test_mask.gif",
    ),
    "chase_db1": Dataset(
        title="CHASE_DB1",
        folder="CHASE_DB1",
        size=(960, 999),
        # Whole children: no child has one eye in each part.
        train=tuple(f"{child:02d}{eye}" for child in range(1, 11) for eye in "LR"),
        test=tuple(f"{child:02d}{eye}" for child in range(11, 15) for eye in "LR"),
        image="Image_{name}.jpg",
        vessels="Image_{name}_1stHO.png",
        second_observer="Image_{name}_2ndHO.png",
        layout="Image_01L.jpg, Image_01L_1stHO.png, Image_01L_2ndHO.png",
    ),
    "stare": Dataset(
        title="STARE",
        folder="STARE",
        size=(605, 700),
        # Sorted order without shuffle. SA-UNetv2's "fold 4" is taken as the last.
        folds=(
            ("im0001", "im0002", "im0003", "im0004"),
            ("im0005", "im0044", "im0077", "im0081"),
            ("im0082", "im0139", "im0162", "im0163"),
            ("im0235", "im0236", "im0239", "im0240"),
            ("im0255", "im0291", "im0319", "im0324"),
        ),
        image="stare-images/{name}.ppm",
        vessels="labels-ah/{name}.ah.ppm",
        second_observer="labels-vk/{name}.vk.ppm",
        layout="stare-images/im0001.ppm.gz, labels-ah/im0001.ah.ppm.gz, "
        "labels-vk/im0001.vk.ppm.gz (or .ppm)",
    ),
}


def split_names(name, split="train", *, fold=None):
    """Returns the names of a dataset's images in one part of its split, in order.

    Args:
        name: key of `DATASETS`.
        split: "train", "test" or "all".
        fold: int, which fold is the test part; only for datasets with folds
            (STARE: 0 to 4, None is the last).

    Raises:
        InputError: the dataset, the split or the fold does not exist.
    """
    dataset = _dataset(name)
    if split not in ("train", "test", "all"):
        raise InputError(f"split {split!r} is unknown: use train, test or all")
    if not dataset.folds:
        if fold is not None:
            raise InputError(
                f"{dataset.title} has one official split and no fold {fold}: "
                "leave the fold out"
            )
        train, test = dataset.train, dataset.test
    else:
        count = len(dataset.folds)
        chosen = count - 1 if fold is None else fold
        if chosen not in range(count):
            raise InputError(
                f"{dataset.title} has no fold {fold}: use 0 to {count - 1}"
            )
        test = dataset.folds[chosen]
        train = tuple(n for part in dataset.folds if part != test for n in part)
    return {"train": train, "test": test, "all": tuple(sorted(train + test))}[split]


def load_dataset(name, data_dir, split="train", *, fold=None):
    """Reads one part of a dataset from its official files.

    Args:
        name: key of `DATASETS`: "drive", "chase_db1" or "stare".
        data_dir: the dataset's folder, or the folder that holds it.
        split: "train", "test" or "all".
        fold: as in `split_names`.

    Returns:
        List of `Sample`, in the split's order.

    Raises:
        InputError: an unknown name, split or fold; a missing or damaged file, or
            labels of another size than their image.
    """
    dataset = _dataset(name)
    names = split_names(name, split, fold=fold)
    root = _find_root(dataset, data_dir)
    return [_load_sample(dataset, root, sample) for sample in names]


def check_dataset(name, data_dir):
    """Looks for whatever would spoil a training on a dataset.

    Args:
        name: key of `DATASETS`.
        data_dir: as in `load_dataset`.

    Returns:
        List of str, one problem each: missing and unreadable files, images that are
        not of the dataset's size, labels that are not of their image's size or hold
        more than two values, and pictures that occur twice; or that none of the
        dataset's files is there. Empty if all is well.

    Raises:
        InputError: the dataset is unknown or its folder does not exist.
    """
    dataset = _dataset(name)
    root = _find_root(dataset, data_dir)
    problems, seen, found = [], {}, 0
    for sample in split_names(name, "all"):
        paths = _paths(dataset, root, sample)
        for kind, path in paths.items():
            if path is None:
                continue
            shown = path.relative_to(root)
            if not path.is_file():
                if kind == "vessels" and _withheld(paths, sample, dataset):
                    problem = f"{shown.parent}: {NO_TEST_LABELS}"
                elif kind == "second_observer" and not path.parent.is_dir():
                    continue  # DRIVE's training part has none
                else:
                    problem = f"{shown}: missing"
                if problem not in problems:
                    problems.append(problem)
                continue
            found += 1
            try:
                pixels = read_image(path) if kind == "image" else read_gray(path)
            except InputError as error:
                problems.append(str(error))
                continue
            problems += _check_pixels(dataset, kind, shown, pixels)
            if kind == "fov":
                continue  # the same camera gives the same field of view
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            if digest in seen:
                problems.append(f"{shown}: the same pixels as {seen[digest]}")
            seen.setdefault(digest, shown)
    if not found:
        return [
            f"{root}: no file of {dataset.title}: expected its folder, which holds "
            f"{dataset.layout}"
        ]
    return problems


def short_list(problems, shown=3):
    """Returns the problems of `check_dataset` with those of one kind in one line.

    Args:
        problems: list of str, each "file: what".
        shown: how many files a line names; so many problems keep a line each.
    """
    kinds = {}
    for problem in problems:
        file, _, what = problem.partition(": ")
        kinds.setdefault(what, []).append(file)
    lines = []
    for what, files in kinds.items():
        if len(files) > shown:
            files = [f"{', '.join(files[:shown])} and {len(files) - shown} more"]
        lines += [f"{file}: {what}" if what else file for file in files]
    return lines


def find_fov(image):
    """Finds the field of view of a fundus photograph by its brightness.

    The largest red region above the surround, which the corners tell, without
    what sticks out of it (STARE's camera notch), made convex: a camera's aperture
    is convex, and a dark vessel or shadow at its border is not outside it. The
    same image always gives the same mask.

    Args:
        image: `(H, W, 3)` uint8 RGB.

    Returns:
        `(H, W)` uint8 in {0, 1}; all ones for a picture without a dark surround.
    """
    # Red, because the retina is red to its dark rim while STARE's surround is green.
    red = cv2.medianBlur(np.ascontiguousarray(image[..., 0]), 5)
    side = max(1, min(red.shape) // 16)
    ends = (slice(None, side), slice(-side, None))
    # The median of four corners, so that one inside the field does not decide.
    surround = np.median(
        [np.percentile(red[rows, columns], 95) for rows in ends for columns in ends]
    )
    retina = red[red > 1.5 * surround + 8]
    if retina.size < red.size / 8:
        return np.ones(red.shape, np.uint8)
    # The first bound is above the noise of a dim photograph's surround, the second
    # above the halo of a bright one. Chosen on DRIVE's official masks and by eye.
    threshold = max(
        1.35 * surround + 8, surround + 0.15 * (np.median(retina) - surround)
    )
    region = _largest_filled((red > threshold).astype(np.uint8))
    ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (min(red.shape) // 12 | 1,) * 2)
    opened = cv2.morphologyEx(region, cv2.MORPH_OPEN, ball)
    hull = cv2.convexHull(_largest_contour(opened if opened.any() else region))
    return cv2.fillConvexPoly(np.zeros_like(region), hull, 1)


def _largest_contour(mask):
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=cv2.contourArea)


def _largest_filled(mask):
    return cv2.fillPoly(np.zeros_like(mask), [_largest_contour(mask)], 1)


def _dataset(name):
    if name not in DATASETS:
        raise InputError(
            f"dataset {name!r} is unknown: use one of {', '.join(DATASETS)}"
        )
    return DATASETS[name]


def _find_root(dataset, data_dir):
    """Returns the dataset's own folder, given it or its parent."""
    folder = Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder: give the folder of {dataset.title}, which "
            f"holds {dataset.layout}"
        )
    inner = folder / dataset.folder
    return inner if inner.is_dir() else folder


def _paths(dataset, root, sample):
    """Returns the path of each kind of file; None where the dataset has no such."""
    part = "training" if sample in dataset.train else "test"

    def locate(template):
        if template is None:
            return None
        path = root / template.format(name=sample, part=part)
        zipped = path.with_name(path.name + ".gz")
        return zipped if zipped.is_file() and not path.is_file() else path

    return {
        "image": locate(dataset.image),
        "vessels": locate(dataset.vessels),
        "fov": locate(dataset.fov),
        "second_observer": locate(dataset.second_observer),
    }


def _load_sample(dataset, root, sample):
    paths = _paths(dataset, root, sample)
    image = read_image(_existing(paths["image"], dataset, root))

    def labels(kind):
        read = read_fov if kind == "fov" else read_mask
        mask = read(_existing(paths[kind], dataset, root))
        return of_one_size(mask, image, paths[kind])

    return Sample(
        name=sample,
        image=image,
        vessels=labels("vessels") if not _withheld(paths, sample, dataset) else None,
        fov=labels("fov") if paths["fov"] else find_fov(image),
        fov_source="official" if paths["fov"] else "estimated",
        second_observer=(
            labels("second_observer") if paths["second_observer"].is_file() else None
        ),
    )


def _withheld(paths, sample, dataset):
    """Returns whether the labels are absent as in today's official DRIVE archive."""
    return (
        dataset.title == "DRIVE"
        and sample in dataset.test
        and not paths["vessels"].parent.is_dir()
    )


def _existing(path, dataset, root):
    if not path.is_file():
        raise InputError(
            f"{path.relative_to(root)}: missing in {root}: unpack {dataset.title} "
            f"there so that it holds {dataset.layout}"
        )
    return path


def _check_pixels(dataset, kind, shown, pixels):
    problems = []
    if pixels.shape[:2] != dataset.size:
        height, width = dataset.size
        problems.append(
            f"{shown}: {sides(pixels)} pixels, expected {width}x{height} pixels"
        )
    values = np.unique(pixels) if kind != "image" else ()
    if len(values) > 2:
        problems.append(f"{shown}: {len(values)} different values, expected a mask's 2")
    return problems
