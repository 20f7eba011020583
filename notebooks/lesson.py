"""What every notebook uses: a quiet start, photographs, pictures."""

import os

import matplotlib.pyplot as plt
import numpy as np

from saunet.quiet import load_framework

FAST = bool(os.environ.get("SAUNET_NOTEBOOK_FAST"))  # the tests: seconds, tiny images

load_framework()  # before Keras is imported aloud

import itertools

import keras

from saunet.data.datasets import load_dataset
from saunet.data.synthetic import synthetic_fundus

INK, PALE, STRONG = "#1f3b57", "#dfe9f2", "#f6d9b8"


def brief(full, small):
    """Returns `full`, or `small` where the tests run the notebooks."""
    return small if FAST else full


def photographs(count, *, start=0, part="train"):
    """Returns samples of DRIVE, or synthetic ones without DRIVE.

    Args:
        count: How many.
        start: Number of the first one; other numbers are other eyes. DRIVE has twenty,
            which come round again.
        part: "train" or "test", of DRIVE.

    Returns:
        List of `saunet.data.datasets.Sample`, all with vessels.
    """
    if folder := os.environ.get("SAUNET_DRIVE"):
        samples = load_dataset("drive", folder, part)
        if all(sample.vessels is not None for sample in samples):
            print(f"photographs of DRIVE ({part}): {count}")
            return [samples[(start + i) % len(samples)] for i in range(count)]
        print(f"synthetic photographs: {count} (DRIVE's folder has no test labels)")
    else:
        print(f"synthetic photographs: {count} (set SAUNET_DRIVE for DRIVE's)")
    first = start + (1000 if part == "test" else 0)
    height, width = brief((584, 565), (160, 144))
    return [
        synthetic_fundus(seed, height=height, width=width)
        for seed in range(first, first + count)
    ]


def middle(array, side):
    """Returns the central square of an image."""
    top, left = ((length - side) // 2 for length in array.shape[:2])
    return array[top : top + side, left : left + side]


class Diary(keras.callbacks.Callback):
    """Keeps what the network says about one photograph after each epoch.

    Args:
        image: `(H, W, 3)` uint8, sides fit for the network.
    """

    def __init__(self, image):
        super().__init__()
        self.batch = image[np.newaxis].astype("float32") / 255
        self.maps = []

    def on_epoch_end(self, epoch, logs=None):
        self.maps.append(np.array(self.model(self.batch, training=False))[0, ..., 0])


# ---------------------------------------------------------------- pictures


def show(pictures, titles, *, columns=None, size=2.5, bar=False, cmap=None):
    """Draws pictures in a grid: photographs, probabilities in grey, maps in colour.

    Args:
        pictures: List of `(H, W, 3)` uint8 or `(H, W)` arrays. Without `cmap` the
            latter are probabilities, 0 black and 1 white.
        titles: List of strings, one a picture.
        columns: Pictures in a row; all of them by default.
        size: Inches of one picture's width.
        bar: Draw the scale of colours beside each map.
        cmap: Matplotlib's name of a scale of colours; each map then spans it, but
            for its highest and lowest hundredth.
    """
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    shape = pictures[0].shape
    wide = size * (1.22 if bar else 1)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(wide * columns, rows * (size * shape[0] / shape[1] + 0.35)),
        squeeze=False,
        layout="constrained",
        dpi=75,  # photographs are most of a notebook's bytes
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, title in zip(axes.flat, pictures, titles, strict=False):
        low, high = np.percentile(picture, (1, 99)) if cmap else (0, 1)
        scale = {"vmin": low, "vmax": high}
        drawn = axis.imshow(picture, cmap=cmap or "gray", **scale)
        axis.set_title(title, fontsize=9)
        if bar and picture.ndim == 2:
            figure.colorbar(drawn, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)


def curves(lines, *, ylabel, xlabel="epoch"):
    """Draws lines over epochs 1, 2, ...: `{label: numbers}`."""
    _figure, axis = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
    for label, values in lines.items():
        axis.plot(range(1, len(values) + 1), values, marker="o", ms=3, label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=8)


def draw_chain(steps, title, *, shortcut=None):
    """Draws layers from left to right; `shortcut` is an arc `(from, to, label)`.

    The places of an arc are numbers of steps: it leaves before the first and
    arrives at the second. A step that begins with `*` is drawn in a strong colour.
    """
    _figure, axis = _canvas(1.25 * len(steps) + 0.4, 1.5 if shortcut else 0.95)
    for place, step in enumerate(steps):
        _box(axis, place, 0, step, width=0.8)
        if place:
            _arrow(axis, (place - 0.6, 0), (place - 0.4, 0))
    if shortcut:
        first, last, label = shortcut
        axis.plot([first, first, last], [0.32, 0.72, 0.72], color=INK, lw=1)
        _arrow(axis, (last, 0.72), (last, 0.33))
        axis.text((first + last) / 2, 0.8, label, ha="center", fontsize=8, color=INK)
    axis.set(xlim=(-0.7, len(steps) - 0.4), ylim=(-0.5, 1.2 if shortcut else 0.5))
    axis.set_title(title, fontsize=10, loc="left")


def draw_branches(branches, joined, title, *, start="input"):
    """Draws branches that start at one input and are joined again.

    Args:
        branches: List of lists of steps, one list a branch.
        joined: List of the steps after the branches meet.
        title: String.
        start: Text of the box that the branches leave.
    """
    longest = max(map(len, branches))
    _figure, axis = _canvas(
        1.5 * (longest + len(joined) + 1), 0.75 * len(branches) + 0.5
    )
    middle_row = (len(branches) - 1) / 2
    _box(axis, 0, middle_row, start, width=0.7)
    for row, steps in enumerate(branches):
        for place, step in enumerate(steps, 1):
            _box(axis, place, row, step, width=0.84)
            before = (0.35, middle_row) if place == 1 else (place - 0.58, row)
            _arrow(axis, before, (place - 0.42, row))
        _arrow(axis, (len(steps) + 0.42, row), (longest + 0.58, middle_row))
    for place, step in enumerate(joined, longest + 1):
        _box(axis, place, middle_row, step, width=0.84)
        if place > longest + 1:
            _arrow(axis, (place - 0.58, middle_row), (place - 0.42, middle_row))
    axis.set(xlim=(-0.5, longest + len(joined) + 0.6), ylim=(len(branches) - 0.4, -0.6))
    axis.set_title(title, fontsize=10, loc="left")


def draw_u(down, bottleneck, up, title, *, gates=None):
    """Draws a U-Net as the papers do.

    A text that begins with `*` has a strong colour, a further line that does so alone.

    Args:
        down: List of texts, one an encoder level, from the top.
        bottleneck: List of texts, from left to right.
        up: List of texts, one a decoder level, from the top.
        title: String.
        gates: List of texts, from the top, one a skip connection: what lets it pass
            by what the decoder says; none by default.
    """
    _figure, axis = _canvas(8.2, 0.95 * (len(down) + 1) + 0.7)
    left, right, bottom = 0, 6, len(down)
    for level, (here, there) in enumerate(zip(down, up, strict=True)):
        _box(axis, left, level, here, width=1.7)
        _box(axis, right, level, there, width=1.7)
        _arrow(axis, (left + 0.87, level), (right - 0.87, level), style="--")
        if gates:
            _box(axis, 3, level, gates[level], width=1.9, height=0.42)
            _elbow(axis, (right, level + 0.45), (3, level + 0.21), True)
        if level:
            _arrow(axis, (left, level - 0.66), (left, level - 0.34), "pool 2x2")
            _arrow(axis, (right, level - 0.34), (right, level - 0.66), "up x2")
    span = 4 / max(len(bottleneck), 1)
    places = [1 + span * (number + 0.5) for number in range(len(bottleneck))]
    for place, text in zip(places, bottleneck, strict=True):
        _box(axis, place, bottom, text, width=0.8 * span)
    for one, other in itertools.pairwise(places):
        _arrow(axis, (one + 0.4 * span, bottom), (other - 0.4 * span, bottom))
    _elbow(axis, (left, bottom - 0.66), (places[0] - 0.4 * span, bottom), False)
    _elbow(axis, (places[-1] + 0.4 * span, bottom), (right, bottom - 0.66), True)
    axis.text(left - 0.06, bottom - 0.25, "pool 2x2", ha="right", fontsize=7, color=INK)
    axis.text(right + 0.06, bottom - 0.25, "up x2", ha="left", fontsize=7, color=INK)
    _arrow(axis, (left - 1.35, 0), (left - 0.87, 0))
    _arrow(axis, (right + 0.87, 0), (right + 1.35, 0))
    axis.text(left - 1.4, 0, "RGB", ha="right", va="center", fontsize=8)
    axis.text(right + 1.4, 0, "vessels", ha="left", va="center", fontsize=8)
    axis.set(xlim=(-2.0, 8.3), ylim=(bottom + 0.5, -0.55))
    axis.set_title(title, fontsize=10, loc="left")


def _canvas(width, height):
    figure, axis = plt.subplots(figsize=(width, height + 0.3), layout="constrained")
    axis.set_axis_off()
    return figure, axis


def _box(axis, x, y, text, *, width, height=0.64):
    # Lines of their own colours have a stripe each.
    stripes = text.split("\n") if "\n*" in text else [text]
    tall = height / len(stripes)
    for number, stripe in enumerate(stripes):
        centre = y + (number - (len(stripes) - 1) / 2) * tall
        colour = STRONG if stripe.startswith("*") else PALE
        corner = (x - width / 2, centre - tall / 2)
        axis.add_patch(plt.Rectangle(corner, width, tall, facecolor=colour, zorder=2))
        words = stripe.lstrip("*")
        axis.text(x, centre, words, ha="center", va="center", fontsize=7.5, zorder=3)
    corner = (x - width / 2, y - height / 2)
    frame = {"facecolor": "none", "edgecolor": INK, "linewidth": 0.8, "zorder": 2}
    axis.add_patch(plt.Rectangle(corner, width, height, **frame))


def _arrow(axis, start, end, text="", *, style="-"):
    axis.annotate(
        "",
        end,
        start,
        zorder=1,  # below the boxes
        arrowprops={
            "arrowstyle": "-|>",
            "color": INK,
            "linestyle": style,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        side = "right" if end[1] > start[1] else "left"
        shift = -0.06 if side == "right" else 0.06
        axis.text(x + shift, y, text, ha=side, va="center", fontsize=7, color=INK)


def _elbow(axis, start, end, horizontal_first):
    """Draws an arrow with one right angle."""
    corner = (end[0], start[1]) if horizontal_first else (start[0], end[1])
    axis.plot([start[0], corner[0]], [start[1], corner[1]], color=INK, lw=1)
    _arrow(axis, corner, end)
