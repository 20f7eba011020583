"""HTML and SVG: the pieces of a page that is one file and asks nobody for anything.

`page.html` beside this file is the frame: the style, and the thirty lines of JavaScript
that sort a table. Its content security policy forbids every request, and every script
and style but these two. Pictures are data URIs, charts are SVG.

Titles, captions, labels and bodies are HTML already: names from outside go through
`html.escape` first. Values and facts are escaped here.
"""

import base64
import hashlib
import math
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np

from saunet import __version__

CHART = {"left": 64, "right": 348, "top": 30, "bottom": 256}  # of 360 x 300


def document(title, sections):
    """Returns a whole page.

    Args:
        title: str, escaped here.
        sections: list of str, HTML.
    """
    frame = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    style, script = (
        frame.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        for tag in ("style", "script")
    )
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src {_fingerprint(style)}; script-src {_fingerprint(script)}"
    )
    today = datetime.now(UTC).date().isoformat()
    return Template(frame).substitute(
        title=escape(title),
        policy=policy,
        about=f"saunet {__version__}, {today}",
        body="\n".join(sections),
    )


def section(title, *parts):
    """Returns a heading and what belongs to it."""
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def details(title, content):
    """Returns what is shown when its title is pressed."""
    return f"<details><summary>{title}</summary>{content}</details>"


def facts(values):
    """Returns a list of names and values; both are escaped."""
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def number(value):
    """Returns how a number is shown: integers whole, others by four decimals."""
    if isinstance(value, int):
        return f"{value:,}"
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def table(name, caption, columns, rows, *, foot=None, chosen=None, sortable=False):
    """Returns a table that scrolls by itself where it is wider than the page.

    Args:
        name: str, the table's id, and its name to a screen reader.
        caption: str.
        columns: dict from key to label; the first is that of the rows' headings.
        rows: list of (heading, values): str or (str, anchor), and a list of numbers,
            which are also kept unrounded as `data-value`; None is an empty cell.
        foot: (heading, values) below, not sorted; or None.
        chosen: index of the row to mark, or None.
        sortable: bool; whether pressing a column's heading sorts by it.
    """
    first, *others = columns
    head = "".join(
        f'<th scope="col" data-key="{key}" '
        f'data-kind="{"text" if key == first else "number"}">'
        + (f'<button type="button">{label}</button>' if sortable else label)
        + "</th>"
        for key, label in columns.items()
    )

    def row(heading, values, mark=""):
        name, anchor = heading if isinstance(heading, tuple) else (heading, None)
        name = escape(name)
        link = f'<a href="#{anchor}">{name}</a>' if anchor else name
        cells = "".join(
            "<td></td>"
            if value is None
            else f'<td data-value="{value!r}">{number(value)}</td>'
            for value, _ in zip(values, others, strict=True)
        )
        return f'<tr{mark}><th scope="row" data-value="{name}">{link}</th>{cells}</tr>'

    marks = {chosen: ' class="chosen" aria-current="true"'}
    body = "".join(row(*line, marks.get(i, "")) for i, line in enumerate(rows))
    below = f"<tfoot>{row(*foot)}</tfoot>" if foot else ""
    return (
        f'<p class="faint" id="{name}-caption">{caption}</p>'
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">'
        f'<table id="{name}" aria-describedby="{name}-caption">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{below}</table></div>"
    )


def figure(anchor, title, pictures, side):
    """Returns an image's pictures side by side.

    Args:
        anchor: str, the id to link to.
        title: str.
        pictures: list of (what it is, array, what it shows): `(H, W)` or RGB
            `(H, W, 3)` uint8 between two str.
        side: int, largest height and width in pixels; larger arrays are scaled down.
    """
    shown = "".join(
        f"<figure>{_image(array, side, f'{title}, {what}: {text}')}"
        f"<figcaption>{what}</figcaption></figure>"
        for what, array, text in pictures
    )
    return (
        f'<article class="image" id="{anchor}"><h3>{title}</h3>'
        f'<div class="pictures">{shown}</div></article>'
    )


def _image(array, side, alt):
    scale = min(1, side / max(array.shape[:2]))
    size = [max(1, round(length * scale)) for length in array.shape[1::-1]]
    if scale < 1:
        array = cv2.resize(array, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    if array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_RGB2BGR)
        # At half the chroma thin vessels lose the colours that tell errors.
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    data = base64.b64encode(cv2.imencode(".jpg", array, options)[1]).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{alt}" '
        f'width="{size[0]}" height="{size[1]}">'
    )


def legend(colours):
    """Returns what colours mean.

    Args:
        colours: dict from meaning to RGB, each 0 to 255.
    """
    items = "".join(
        '<li><svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">'
        f'<rect width="1" height="1" fill="rgb{colour}"/></svg>{meaning}</li>'
        for meaning, colour in colours.items()
    )
    return f'<ul class="legend" aria-label="colours">{items}</ul>'


def charts(*drawn):
    """Returns charts side by side."""
    inside = "".join(f"<figure>{one}</figure>" for one in drawn)
    return f'<div class="charts">{inside}</div>'


def chart(title, labels, spans, lines, *, dot=None, guide=None):
    """Draws curves as SVG. Points with NaN are left out; few points are ringed.

    Args:
        title: str, above it; also its name to a screen reader.
        labels: (str, str), of the axes.
        spans: ((low, high), (low, high)), the ends of the axes.
        lines: dict from class of the style ("one", "two") to points, `(N, 2)`.
        dot: a point to ring, or None.
        guide: two points to join by a dashed line, or None.
    """
    left, right, top, bottom = CHART.values()

    def place(points):
        points = np.asarray(points, float).reshape(-1, 2)
        points = points[np.isfinite(points).all(axis=1)]
        (x0, x1), (y0, y1) = spans
        x = left + (points[:, 0] - x0) / (x1 - x0) * (right - left)
        y = bottom - (points[:, 1] - y0) / (y1 - y0) * (bottom - top)
        return np.stack([x, y], axis=1).round(1)

    parts = []
    for value in _ticks(*spans[1]):
        y = place([(spans[0][0], value)])[0, 1]
        parts.append(
            f'<path class="grid" d="M{left} {y:g}H{right}"/>'
            f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{value:g}</text>'
        )
    for value in _ticks(*spans[0]):
        x = place([(value, spans[1][0])])[0, 0]
        parts.append(
            f'<path class="grid" d="M{x:g} {top}V{bottom}"/>'
            f'<text x="{x:g}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
        )
    if guide is not None:
        parts.append(_polyline(place(guide), "guide"))
    for name, points in lines.items():
        placed = place(points)
        parts.append(_polyline(placed, f"line {name}"))
        if len(placed) < 30:
            parts += [_ring(*point, name) for point in placed]
    if dot is not None:
        parts += [_ring(*point, "two") for point in place([dot])]
    middle = (left + right) // 2, (top + bottom) // 2
    return (
        f'<svg class="chart" viewBox="0 0 360 300" role="img" aria-label="{title}">'
        f'<text class="title" x="{left}" y="16">{title}</text>{"".join(parts)}'
        f'<text x="{middle[0]}" y="{bottom + 34}" text-anchor="middle">{labels[0]}'
        f'</text><text transform="translate(11 {middle[1]}) rotate(-90)" '
        f'text-anchor="middle">{labels[1]}</text></svg>'
    )


def span(values):
    """Returns the ends of an axis that holds the values, never the same twice."""
    low, high = min(values, default=0), max(values, default=1)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _polyline(points, name):
    # Of many thresholds on one spot of the drawing one is enough.
    moved = np.any(np.diff(points, axis=0, prepend=np.nan) != 0, axis=1)
    points = " ".join(f"{x:g},{y:g}" for x, y in points[moved])
    return f'<polyline class="{name}" points="{points}"/>'


def _ring(x, y, name):
    return f'<circle class="dot {name}" cx="{x:g}" cy="{y:g}" r="4"/>'


def _ticks(low, high):
    """Returns three to eight round numbers within an axis."""
    third = (high - low) / 3 * (1 + 1e-9)  # 0.7 - 0.4 is a little less than 0.3
    power = 10 ** math.floor(math.log10(third))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= third)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _fingerprint(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
