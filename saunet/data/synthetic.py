"""Synthetic fundus photographs whose every vessel is known.

Arteries and veins grow from an optic disc along the four arcades around a fovea,
branch after Murray's law, and are painted as absorbing blood on a textured,
unevenly lit background in the colours of DRIVE. All lengths below are in pixels of
DRIVE, whose field of view is about 540 wide; a picture of another size is scaled.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np

from saunet.data.datasets import Sample
from saunet.errors import InputError

SMALLEST = 64  # side in pixels; below it not even the arcades are a pixel wide
LARGEST = 8192  # side in pixels; above it a picture takes gigabytes

FOV_DIAMETER = 540.0
FOV_SHARE = 0.955  # of the shorter side
STEP = 3.0  # length of one straight piece of a vessel
CELL = 6.0  # side of a cell of the map that keeps vessels apart
THINNEST = 0.72  # radius at which a vessel ends
MACULA = 34.0  # radius around the fovea that vessels do not enter
VEIN, ARTERY = 0, 1
BLOOD = 0.85  # share of a vessel's radius that is painted

# Optical depth of blood in red, green and blue: green is absorbed most, as in DRIVE.
ABSORPTION = np.array([0.34, 1.0, 0.65], np.float32)


def synthetic_fundus(seed, *, height=584, width=565):
    """Draws one fundus photograph and the exact map of its vessels.

    A pixel is vessel where its centre is not farther from the axis of a vessel than
    the vessel's radius there. As human labels are, the radius is a little generous:
    the painted blood fills 85 % of it. A picture smaller than DRIVE's shows the wider
    vessels only, none of them less than a pixel wide.

    Args:
        seed: int >= 0; the same seed and size give the same bytes.
        height: int, pixels, 64 to 8192.
        width: int, pixels, 64 to 8192.

    Returns:
        A `Sample` named `synthetic_<seed>`: image `(H, W, 3)` uint8 RGB, vessels
        and fov `(H, W)` uint8 in {0, 1}, vessels only inside the fov.

    Raises:
        InputError: the size is out of range, or the seed is no natural number.
    """
    for name, value, low, high in (
        ("seed", seed, 0, math.inf),
        ("height", height, SMALLEST, LARGEST),
        ("width", width, SMALLEST, LARGEST),
    ):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise InputError(
                f"synthetic fundus {name} {value!r}: expected a whole number from "
                f"{low} to {high}"
            )
    # One stream for the anatomy: the same eye at every size.
    anatomy, paint = (np.random.default_rng([seed, part]) for part in range(2))

    fovea, disc, disc_radius = _landmarks(anatomy)
    vessels = _grow_vessels(anatomy, fovea, disc)
    mirror = -1.0 if anatomy.random() < 0.5 else 1.0  # left or right eye

    diameter = FOV_SHARE * min(height, width)
    scale = diameter / FOV_DIAMETER
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x = (x - np.float32(centre[0])) * np.float32(mirror / scale)
    y = (y - np.float32(centre[1])) / np.float32(scale)
    fov_distance = (FOV_DIAMETER / 2 - np.hypot(x, y)) * np.float32(scale)
    fov = (fov_distance >= 0).astype(np.uint8)

    pieces = _to_pixels(vessels, centre, scale, mirror)
    truth, depth = _draw_vessels(pieces, height, width)
    light = _background(paint, x, y, fovea, disc, disc_radius)
    light *= np.exp(-depth[..., None] * ABSORPTION)
    image = _photograph(paint, light, fov_distance, scale)
    return Sample(
        name=f"synthetic_{seed}",
        image=image,
        vessels=truth & fov,
        fov=fov,
        fov_source="official",
    )


# ---------------------------------------------------------------- anatomy


def _landmarks(rng):
    """Returns fovea (x, y), disc (x, y) and disc radius; the disc is on the left."""
    fovea = rng.normal(0, 9, 2)
    disc = fovea + np.array([-rng.uniform(182, 205), rng.uniform(-24, 6)])
    return fovea, disc, rng.uniform(34, 43)


def _trunks(rng, fovea, disc):
    """Returns the vessels that leave the disc: (kind, radius, way points)."""
    trunks = []
    for up in (-1, 1):
        height = rng.uniform(118, 165)
        for kind in (VEIN, ARTERY):
            # The artery runs beside its vein, on one side of it or the other.
            beside = rng.choice([rng.uniform(0.78, 0.9), 1.13])
            reach = height * (1 if kind == VEIN else beside)
            arcade = [
                disc + np.array([rng.uniform(8, 26), up * rng.uniform(45, 65)]),
                (fovea[0] - rng.uniform(85, 115), fovea[1] + up * 0.84 * reach),
                (fovea[0] + rng.uniform(-15, 30), fovea[1] + up * reach),
                (fovea[0] + 130, fovea[1] + up * reach * rng.uniform(0.72, 1.05)),
                (fovea[0] + 280, fovea[1] + up * reach * rng.uniform(0.4, 1.3)),
            ]
            radius = rng.uniform(3.2, 4.0) if kind == VEIN else rng.uniform(2.5, 3.2)
            trunks.append((kind, radius, arcade))
            # Nasal and polar vessels leave the picture soon.
            nasal = rng.uniform(0.3, 0.8)  # radians
            for share, angle in ((0.7, nasal), (0.65, nasal + rng.uniform(0.5, 1.0))):
                way = 400 * np.array([-math.cos(angle), up * math.sin(angle)])
                trunks.append((kind, share * radius, [disc + 0.2 * way, disc + way]))
    # A few thin vessels go straight to the macula.
    for up in rng.permutation([-1, -1, 1, 1])[: rng.integers(2, 5)]:
        end = fovea + np.array([rng.uniform(-60, -20), up * rng.uniform(25, 60)])
        first = disc + np.array([60, up * rng.uniform(8, 40)])
        way = [first, end, end + np.array([60, up * 25])]
        trunks.append((rng.integers(2), rng.uniform(1.2, 1.8), way))
    return trunks


class _Sprout(NamedTuple):
    """A vessel about to grow: what it is, where it starts, where it is going."""

    radius: float
    kind: int
    x: float
    y: float
    heading: float  # radians
    way: tuple  # points to pass; then onwards, away from the disc
    trunk: bool
    parent: int  # number of the vessel it leaves


def _grow_vessels(rng, fovea, disc):
    """Returns all vessel pieces: `(n, 7)` x0, y0, x1, y1, radius, strength, kind."""
    pending = []
    for kind, radius, way in _trunks(rng, fovea, disc):
        x, y = disc + rng.normal(-2, 4, 2)
        heading = math.atan2(way[0][1] - y, way[0][0] - x)
        pending.append(_Sprout(radius, kind, x, y, heading, tuple(way), True, -1))
    taken = {}  # cell -> {number of the vessel there: its kind}
    pieces = []
    for number in itertools.count():
        if not pending:
            return np.array(pieces)
        # Wide vessels first: the thin ones then fill what is left between them.
        widest = max(range(len(pending)), key=lambda index: pending[index].radius)
        path, branches = _grow(rng, pending.pop(widest), number, taken, fovea, disc)
        pieces += path
        pending += branches


def _grow(rng, sprout, number, taken, fovea, disc):
    """Grows one vessel to its end; returns its pieces and its own sprouts."""
    radius, kind, x, y, heading, way, trunk, parent = sprout
    way = list(way)
    length = math.inf if trunk else rng.uniform(60, 130) * (0.45 + radius)
    # The course wavers about the heading: two rates, wide bends and small ones.
    bends = rng.uniform(0.12, 0.24) if trunk else rng.uniform(0.2, 0.4)
    waver = np.zeros(2)
    keep = np.array([0.97, 0.78])  # per step
    travelled, beside, branch_at = 0.0, 0, rng.uniform(12, 44)
    side = rng.choice([-1, 1])
    gaps, most = ((34, 84), 0.72) if trunk else ((30, 78), 0.88)
    path, branches = [], []
    while radius >= THINNEST and travelled < length:
        waver = keep * waver + np.sqrt(1 - keep**2) * rng.normal(0, bends, 2)
        wish = math.atan2(y - disc[1], x - disc[0])
        if way:
            wish = math.atan2(way[0][1] - y, way[0][0] - x)
            off = abs(math.remainder(wish - heading, math.tau))
            if math.hypot(way[0][0] - x, way[0][1] - y) < 30 or off > 1.8:
                way.pop(0)
                continue
        pull = 0.10 if trunk else 0.03
        heading += pull * math.remainder(wish - heading, math.tau)
        course = heading + 0.7 * waver.sum()
        dx, dy = STEP * math.cos(course), STEP * math.sin(course)

        ahead = taken.get(_cell(x + 3 * dx, y + 3 * dy), {})
        near = [ahead[other] for other in ahead if other not in (number, parent)]
        beside = beside + 1 if near else 0
        # Vessels of a kind never cross; those of two kinds do, but not lengthwise.
        blocked = not trunk and travelled > 2 * STEP and (kind in near or beside > 4)
        left = math.hypot(x, y) > FOV_DIAMETER / 2 + 6
        if blocked or left or math.hypot(x - fovea[0], y - fovea[1]) < MACULA:
            break
        strength = 1.0 if trunk else 1.0 - 0.2 * travelled / length
        path.append((x, y, x + dx, y + dy, radius, strength, kind))
        x, y, travelled = x + dx, y + dy, travelled + STEP
        radius *= math.exp(-STEP / (2200 if trunk else 900))
        taken.setdefault(_cell(x, y), {})[number] = kind

        at_disc = math.hypot(x - disc[0], y - disc[1]) < 65
        if travelled >= branch_at and not at_disc and radius > THINNEST * 1.1:
            side = _emptier_side(taken, x, y, heading, side)
            child = max(rng.uniform(0.4, most) * radius, THINNEST * 1.08)
            # Murray's law: the cubes of the radii add up.
            radius = max(radius**3 - child**3, 0.35 * radius**3) ** (1 / 3)
            turn = side * rng.uniform(0.4, 0.95)
            goal = _macula_goal(rng, x, y, heading + turn, fovea, disc)
            branches.append(
                _Sprout(child, kind, x, y, heading + turn, goal, False, number)
            )
            heading -= 0.2 * turn
            side = -side
            branch_at = travelled + rng.uniform(*gaps)
    return path, branches


def _macula_goal(rng, x, y, heading, fovea, disc):
    """Returns the way of a branch: to the macula if it looks there, else free."""
    looks = math.cos(heading - math.atan2(fovea[1] - y, fovea[0] - x)) > 0.25
    if looks and x > disc[0] + 40:
        return (tuple(fovea + rng.normal(0, 35, 2)),)
    return ()


def _cell(x, y):
    """Returns the key of the cell of the map around a point."""
    return int(x // CELL), int(y // CELL)


def _emptier_side(taken, x, y, heading, default):
    """Returns the side, -1 or 1, on which fewer vessels are in the way."""
    crowd = []
    for side in (-1, 1):
        dx, dy = math.cos(heading + 0.9 * side), math.sin(heading + 0.9 * side)
        crowd.append(
            sum(
                _cell(x + far * dx - across * dy, y + far * dy + across * dx) in taken
                for far in range(12, 66, 6)
                for across in (-8, 0, 8)
            )
        )
    if abs(crowd[0] - crowd[1]) <= 1:
        return default
    return -1 if crowd[0] < crowd[1] else 1


# ---------------------------------------------------------------- drawing


def _to_pixels(vessels, centre, scale, mirror):
    """Returns the visible pieces in pixels of the picture, and how they look.

    Returns:
        `(n, 8)`: x0, y0, x1, y1, radius, kind, depth of blood on the axis, share
        of it that the reflex hides.
    """
    x0, y0, x1, y1, radius, strength, kind = vessels.T
    vein = kind == VEIN
    depth = strength * np.where(vein, 0.15, 0.118) * (2 * BLOOD * radius) ** 0.55
    # A small picture shows fewer vessels, and those not as thin as its scale says.
    pixels = radius * (scale if scale > 1 else math.sqrt(scale))
    # The wall of a wide artery reflects a line of light.
    reflex = np.where(vein, 0.12, 0.42)
    reflex *= np.clip(np.minimum(radius, pixels) - 1.5, 0, 1)
    x0, x1 = (centre[0] + mirror * scale * x for x in (x0, x1))
    y0, y1 = (centre[1] + scale * y for y in (y0, y1))
    pieces = np.stack([x0, y0, x1, y1, pixels, kind, depth, reflex], axis=1)
    return pieces[pixels >= THINNEST]


def _draw_vessels(pieces, height, width):
    """Returns the vessel map, `(H, W)` uint8, and the blood's depth, `(H, W)`."""
    outside = np.full(height * width, np.inf, np.float32)  # distance minus radius
    depth = np.zeros((2, height * width), np.float32)  # veins, arteries
    reach = np.ceil(
        pieces[:, 4] + np.hypot(*(pieces[:, 2:4] - pieces[:, :2]).T) / 2 + 1
    ).astype(int)
    for half in np.unique(reach):
        dy, dx = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, 1, -1)
        group = pieces[reach == half]
        for start in range(0, len(group), 1 + 2_000_000 // dx.size):
            part = group[start : start + 1 + 2_000_000 // dx.size]
            x0, y0, x1, y1, radius, kind, axis, reflex = part.T[..., None]
            column = np.rint((x0 + x1) / 2).astype(int) + dx
            row = np.rint((y0 + y1) / 2).astype(int) + dy
            along_x, along_y = x1 - x0, y1 - y0
            t = (column - x0) * along_x + (row - y0) * along_y
            t = np.clip(t / (along_x**2 + along_y**2), 0, 1)
            distance = np.hypot(column - x0 - t * along_x, row - y0 - t * along_y)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            inside &= distance <= radius + 1
            pixel = (row * width + column)[inside]
            np.minimum.at(outside, pixel, (distance - radius)[inside])
            blood = _blood(distance, radius, axis, reflex)
            for which in (VEIN, ARTERY):
                here = np.broadcast_to(kind == which, inside.shape)[inside]
                np.maximum.at(depth[which], pixel[here], blood[inside][here])
    truth = (outside <= 0).astype(np.uint8).reshape(height, width)
    # Where an artery crosses a vein, the light passes both.
    return truth, depth.sum(axis=0).reshape(height, width)


def _blood(distance, radius, depth, reflex):
    """Returns the optical depth across a vessel: a round tube of blood."""
    tube = np.maximum(BLOOD * radius, 0.9)  # a pixel averages over its own width
    profile = np.sqrt(np.clip(1 - (distance / tube) ** 2, 0, None))
    return depth * profile * (1 - reflex * np.exp(-((distance / (0.3 * tube)) ** 2)))


def _noise(rng, shape, sigma):
    """Returns smooth noise of standard deviation 1 and this size in pixels."""
    # Coarse noise is drawn small and enlarged: fast, and no large blur.
    shrink = max(1.0, sigma / 3)
    small = tuple(math.ceil(side / shrink) + 1 for side in shape)
    noise = rng.standard_normal(small, np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigma / shrink)
    noise *= 2 * math.sqrt(math.pi) * sigma / shrink
    if shrink == 1.0:
        return noise[: shape[0], : shape[1]]
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _background(rng, x, y, fovea, disc, disc_radius):
    """Returns the retina without vessels, `(H, W, 3)` float32, 0 to about 255."""
    scale = 1 / abs(float(x[0, 1] - x[0, 0]))
    shape = x.shape
    red = float(np.clip(rng.normal(212, 26), 150, 255))
    green = red * rng.uniform(0.4, 0.58)
    colour = np.array([red, green, green * rng.uniform(0.5, 0.64)], np.float32)

    radius = np.hypot(x, y) / (FOV_DIAMETER / 2)
    lean = rng.uniform(0, math.tau)
    tilt = rng.uniform(0.02, 0.10) * (x * math.cos(lean) + y * math.sin(lean)) / 270
    uneven = tilt + 0.045 * _noise(rng, shape, 75 * scale)
    choroid = 0.018 * _noise(rng, shape, 14 * scale)
    choroid += 0.022 * _noise(rng, shape, 30 * scale)
    edge = radius**2
    light = np.empty((*shape, 3), np.float32)
    for channel, (fall, much) in enumerate(((0.33, 0.8), (0.2, 1.0), (0.1, 0.6))):
        light[..., channel] = 1 - fall * edge + uneven + much * choroid
    light = np.maximum(light, 0.3) * colour

    dark = np.hypot(x - fovea[0], (y - fovea[1]) * 1.1)
    spot = rng.uniform(0.16, 0.26) * np.exp(-((dark / rng.uniform(24, 32)) ** 2))
    spot += rng.uniform(0.05, 0.12) * np.exp(-((dark / 70) ** 2))
    light *= 1 - spot[..., None] * np.array([0.7, 1.0, 0.8], np.float32)

    far = np.hypot((x - disc[0]) * rng.uniform(1.0, 1.12), y - disc[1]) / disc_radius
    glow = 0.16 * np.exp(-((far / 1.7) ** 2))
    rim = 1 / (1 + np.exp(np.clip((far - 1) * rng.uniform(9, 16), -40, 40)))
    cup = np.exp(-((far / 0.55) ** 2))
    pale = rng.uniform(0.75, 1.1) * np.array([0.25, 0.95, 0.55], np.float32)
    pale = 1 + pale * (1 + rng.uniform(0, 0.45) * cup[..., None])
    light *= 1 + glow[..., None]
    return light * (1 + 0.92 * rim[..., None] * (pale - 1))


def _photograph(rng, light, fov_distance, scale):
    """Returns what the camera makes of the light: `(H, W, 3)` uint8."""
    shape = fov_distance.shape
    fine = max(scale, 0.5)
    texture = 0.022 * _noise(rng, shape, 0.9) + 0.016 * _noise(rng, shape, 2.4 * fine)
    light = light * (1 + texture[..., None])
    light *= np.clip(fov_distance + 0.5, 0, 1)[..., None]  # the aperture
    light = cv2.GaussianBlur(light, (0, 0), max(0.55, 0.65 * scale))
    shared = _noise(rng, shape, 0.6)
    for channel, level in enumerate((7.5, 6.6, 6.8)):  # DRIVE's black
        light[..., channel] += level * (1 - np.clip(fov_distance / 3, 0, 1))
        light[..., channel] += 1.4 * (shared + _noise(rng, shape, 0.6))
    # Bright light is compressed, not cut off.
    knee = 215.0
    bright = light > knee
    light[bright] = knee + 40 * np.tanh((light[bright] - knee) / 40)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)
