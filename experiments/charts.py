"""Charts as SVG text: the same numbers give the same text."""

import numpy as np

# Okabe and Ito's palette, then three that lie between its colours.
INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK += ("#882255", "#999933", "#888888")
WIDTH, HEIGHT, LEFT, TOP = 640, 260, 50, 12
# Between the epochs that are labelled, and where a scale of logarithms has its lines.
STEPS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))
TICKS = tuple(m * 10**e for e in range(-6, 4) for m in (1, 1.5, 2, 3, 5, 7))


def curves(histories):
    """Draws the losses of runs as SVG text, the same for the same numbers.

    Args:
        histories: `{name: {"loss": [...], "val_loss": [...]}}`; val_loss, dashed,
            may be absent.

    Returns:
        str, a whole SVG file.
    """
    losses = [value for h in histories.values() for one in h.values() for value in one]
    low, high = 0.95 * min(losses), 1.02 * max(losses)
    longest = max(len(h["loss"]) for h in histories.values())

    def across(epoch):
        return LEFT + WIDTH * epoch / longest

    def down(loss):
        return TOP + HEIGHT * np.log(high / loss) / np.log(high / low)

    parts = _grid([t for t in TICKS if low <= t <= high], down, "{:g}")
    for number, (name, history) in enumerate(histories.items()):
        ink = INK[number % len(INK)]
        for kind, values in history.items():
            points = " ".join(
                f"{across(epoch):.1f},{down(value):.1f}"
                for epoch, value in enumerate(values, 1)
            )
            dashes = ' stroke-dasharray="5 4"' if kind == "val_loss" else ""
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{ink}"{dashes}/>'
            )
        parts += _key(number, name, f'<path d="M0 -4h24" stroke="{ink}"/>')
    step = next(s for s in STEPS if longest <= 8 * s)
    for epoch in range(step, longest + 1, step):
        parts.append(
            f'<text x="{across(epoch):.1f}" y="{TOP + HEIGHT + 18}" '
            f'text-anchor="middle">{epoch}</text>'
        )
    parts.append(
        f'<text x="{LEFT + WIDTH}" y="{TOP + 12}" text-anchor="end">'
        "loss by epoch; of validation, dashed</text>"
    )
    return _svg(parts, len(histories))


def image_chart(methods):
    """Draws the F1 of each image by several methods as SVG text.

    Args:
        methods: `{name: {image: F1}}`; the first one's images and their order count.
    """
    first = next(iter(methods.values()))
    images = sorted(first, key=first.get)
    values = [scores[i] for scores in methods.values() for i in images if i in scores]
    low = np.floor(20 * min(values)) / 20
    high = np.ceil(20 * max(values)) / 20
    step = WIDTH / len(images)

    def down(value):
        return TOP + HEIGHT * (high - value) / (high - low)

    def place(index, value):
        return f"{LEFT + step * (index + 0.5):.1f}", f"{down(value):.1f}"

    parts = _grid(np.linspace(high, low, 6), down, "{:.2f}")
    for number, (name, scores) in enumerate(methods.items()):
        ink = INK[number % len(INK)]
        for index, image in enumerate(images):
            if image in scores:
                x, y = place(index, scores[image])
                title = f"<title>{name}, {image}: {scores[image]:.4f}</title>"
                parts.append(
                    f'<circle cx="{x}" cy="{y}" r="4" fill="{ink}">{title}</circle>'
                )
        parts += _key(number, name, f'<circle cx="12" cy="-4" r="4" fill="{ink}"/>')
    for index, image in enumerate(images):
        x, _ = place(index, low)
        parts.append(
            f'<text x="{x}" y="{TOP + HEIGHT + 18}" font-size="10" '
            f'text-anchor="middle">{image.removeprefix("im0")}</text>'
        )
    return _svg(parts, len(methods))


def _grid(ticks, down, form):
    """Returns a line and its value for each tick; `down` gives a value's y."""
    return [
        f'<path d="M{LEFT} {down(tick):.1f}h{WIDTH}" stroke="#ddd"/>'
        f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">'
        f"{form.format(tick)}</text>"
        for tick in ticks
    ]


def _key(number, name, mark):
    """Returns a line below the chart: a mark and what it stands for."""
    y = TOP + HEIGHT + 40 + 16 * number
    return [
        f'<g transform="translate({LEFT} {y})">{mark}</g>'
        f'<text x="{LEFT + 30}" y="{y}">{name}</text>'
    ]


def _svg(parts, lines):
    """Returns the whole file, with room for so many lines below the chart."""
    height = TOP + HEIGHT + 40 + 16 * lines
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 16} '
        f'{height}" font-family="sans-serif" font-size="12" stroke-width="1.5">'
    )
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    body = "\n".join(parts).replace("<text ", '<text stroke="none" ')
    return f"{head}\n{ground}\n{body}\n</svg>\n"
