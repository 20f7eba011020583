"""Pictures of results: vessels on the photograph, errors, panels; a run's log.

The colours are of Okabe and Ito's palette, which readers with any kind of colour
blindness tell apart (https://jfly.uni-koeln.de/color). Matplotlib is imported where
it is used, and drawn on without its global state.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np

from saunet.data.images import write_bytes
from saunet.errors import InputError

VESSEL = (86, 255, 233)  # not a colour of any retina
TRUE_POSITIVE = (240, 240, 240)
FALSE_POSITIVE = (213, 94, 0)
FALSE_NEGATIVE = (86, 180, 233)
BACKGROUND = (0, 0, 0)
OUTSIDE = (56, 56, 56)

LEGEND = {
    "vessel found (TP)": TRUE_POSITIVE,
    "false vessel (FP)": FALSE_POSITIVE,
    "missed vessel (FN)": FALSE_NEGATIVE,
}


def overlay(image, mask, colour=VESSEL, alpha=0.6):
    """Tints the vessels on a photograph.

    Args:
        image: `(H, W, 3)` uint8 RGB; not changed.
        mask: `(H, W)`, nonzero or true at vessels.
        colour: RGB of the tint, each 0 to 255.
        alpha: float in [0, 1], how much of the tint covers the photograph.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        InputError: image and mask have different sizes, or image is no uint8 RGB.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"image is {image.dtype} {image.shape}: expected uint8 RGB (H, W, 3)"
        )
    _same_size(image=image, mask=mask)
    picture = image.copy()
    vessel = mask.astype(bool)
    tinted = (1 - alpha) * picture[vessel] + alpha * np.asarray(colour, np.float32)
    picture[vessel] = np.rint(tinted)
    return picture


def error_map(prediction, truth, fov=None):
    """Paints which vessel pixels were found, invented and missed.

    Args:
        prediction: `(H, W)`, nonzero or true at predicted vessels.
        truth: `(H, W)`, nonzero or true at true vessels.
        fov: `(H, W)`, nonzero or true inside the field of view; what lies outside
            is not compared and is painted in `OUTSIDE`. None compares the frame.

    Returns:
        `(H, W, 3)` uint8 RGB in the colours of `LEGEND`.

    Raises:
        InputError: the arrays have different sizes.
    """
    prediction, truth = (np.asarray(a).astype(bool) for a in (prediction, truth))
    _same_size(prediction=prediction, truth=truth)
    picture = np.empty((*truth.shape, 3), np.uint8)
    picture[:] = BACKGROUND
    picture[prediction & truth] = TRUE_POSITIVE
    picture[prediction & ~truth] = FALSE_POSITIVE
    picture[~prediction & truth] = FALSE_NEGATIVE
    if fov is not None:
        fov = np.asarray(fov)
        _same_size(fov=fov, truth=truth)
        picture[~fov.astype(bool)] = OUTSIDE
    return picture


def panel(rows, titles, out_png):
    """Draws a grid of pictures: a row for each image, a title above each column.

    Args:
        rows: list of rows, each a list of pictures: uint8 RGB `(H, W, 3)`, or
            `(H, W)` in [0, 1] (a probability, or a mask), which is drawn in grey.
        titles: list of strings, one a column.
        out_png: file to write.

    Raises:
        InputError: there are no rows, a row is not as long as the titles, or the
            picture cannot be written.
    """
    lengths = sorted({len(row) for row in rows})
    if lengths != [len(titles)] or not titles:
        raise InputError(
            f"a panel of {len(titles)} titles got rows of {lengths} pictures: give "
            "at least one row, and one title a column"
        )
    # Not by pyplot, which keeps every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = 2.6
    tallest = [max(p.shape[0] / p.shape[1] for p in row) for row in rows]
    figsize = side * len(titles), side * sum(tallest) + 0.3
    figure = Figure(figsize=figsize, layout="constrained", dpi=120)
    axes = figure.subplots(
        len(rows),
        len(titles),
        squeeze=False,
        gridspec_kw={"height_ratios": tallest},
    )
    for row, line in zip(rows, axes, strict=True):
        for picture, axis in zip(row, line, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(content, format="png")
    write_bytes(out_png, content.getvalue())


def _same_size(**arrays):
    """Raises InputError unless the two named arrays have one height and width."""
    (name, one), (other_name, other) = arrays.items()
    if one.shape[:2] != other.shape[:2]:
        raise InputError(
            f"the {name} is {one.shape[:2]} and the {other_name} {other.shape[:2]} "
            "(height, width): give both at one size"
        )


def read_log(csv_path):
    """Returns the known columns of a training log as lists of numbers.

    Args:
        csv_path: file with a header line and the columns `epoch`, `loss`, and where
            they exist `val_loss` and `learning_rate`.

    Returns:
        Dict from epoch, loss, val_loss and learning_rate, as far as they are there,
        to lists of floats; NaN where a cell is empty.

    Raises:
        InputError: the file is missing, has no such columns, no rows, or a cell that
            is no number.
    """
    path = Path(csv_path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: not a readable training log ({error}): give a run's CSV file"
        ) from error
    found = list(rows[0]) if rows else []
    if not {"epoch", "loss"} <= set(found):
        raise InputError(
            f"{path}: has {len(rows)} rows with the columns {found}: expected at least "
            "one row with epoch and loss"
        )
    known = ("epoch", "loss", "val_loss", "learning_rate")
    try:
        return {
            name: [float(row[name] or math.nan) for row in rows]
            for name in known
            if name in found
        }
    except ValueError as error:
        raise InputError(
            f"{path}: {error}: expected numbers in the columns {', '.join(known)}"
        ) from error
