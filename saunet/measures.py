"""Vessel map -> how much vessel there is, how wide, how winding, how branched.

Everything is measured on the mask cut to the field of view (FOV): what lies outside
changes no number. Centreline: Lee's thinning (Lee, Kashyap & Chu 1994, CVGIP:
Graphical Models and Image Processing 56(6)), by scikit-image; on slanted bars it
leaves fewer spurs than Zhang & Suen's. The graph of its pixels, by skan
(Nunez-Iglesias et al. 2018, PeerJ 6:e4312), joins the 8 neighbours; a diagonal step is
sqrt(2) long. docs/measures.md gives every formula, unit and bias.
"""

import json
import math
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from saunet import __version__
from saunet.data.images import (
    image_stem,
    read_fov,
    read_label,
    sides,
    writable_folder,
    write_bytes,
)
from saunet.data.manifest import NAME as MANIFEST
from saunet.data.manifest import Manifest, csv_line, state_of
from saunet.data.pairing import list_results, names_of, pair_trees, place_of
from saunet.errors import InputError, first_of, need
from saunet.quiet import track

MIN_SEGMENT = 10  # pixels; a shorter segment's chord is mostly rounding
PERCENTILES = (5, 25, 75, 95)
CALIBRES = ("mean", "std", "median", *(f"p{q:02}" for q in PERCENTILES))
NEIGHBOURS = np.ones((3, 3), bool)  # 8 of them


def measure_vessels(mask, fov=None, *, micrometres_per_pixel=None):
    """Measures the vessels of one image.

    Args:
        mask: `(H, W)`, 0 where there is no vessel and one other value where there is.
        fov: the same of the field of view; the whole frame unless given.
        micrometres_per_pixel: float; without it the keys that end in `_um` are None.

    Returns:
        Dict of int, float and None, always with the same keys in the same order; None
        where a measure is undefined. docs/measures.md describes each.

    Raises:
        InputError: not two-dimensional or not binary, sizes that differ, a scale that
            is no positive number, or skan is not installed.
    """
    scale = _checked_scale(micrometres_per_pixel)
    mask = _binary(mask, "mask")
    fov = np.ones_like(mask) if fov is None else _binary(fov, "FOV")
    if fov.shape != mask.shape:
        raise InputError(
            f"the mask is {sides(mask)} and the FOV {sides(fov)} pixels: both must be "
            "of the photograph's size"
        )
    vessels = mask & fov
    skeleton = skeletonize(vessels, method="lee") > 0
    inside, found = int(fov.sum()), int(vessels.sum())
    graph = _measure_graph(skeleton)
    calibre = _summarise_calibre(local_calibre(vessels, fov, skeleton))
    return {
        "fov_pixels": inside,
        "vessel_pixels": found,
        "vessel_density": found / inside if inside else None,
        "skeleton_length_px": graph["length"],
        "branch_points": graph["branch_points"],
        "end_points": graph["end_points"],
        **{f"calibre_{name}_px": calibre[name] for name in CALIBRES},
        "tortuosity": graph["tortuosity"],
        "tortuosity_segments": graph["segments"],
        "fractal_dimension": box_dimension(vessels),
        "fractal_dimension_skeleton": box_dimension(skeleton),
        "micrometres_per_pixel": scale,
        "skeleton_length_um": _times(graph["length"], scale),
        **{f"calibre_{name}_um": _times(calibre[name], scale) for name in CALIBRES},
    }


def local_calibre(vessels, fov, skeleton):
    """Returns at each skeleton pixel the diameter of the largest disc in the vessel.

    Twice the Euclidean distance to the nearest background. On the pixels themselves
    that is one too wide for bars of odd width and right for even ones, since
    distances run from centre to centre; on a grid of half pixels, the best of a
    pixel's four taken, it is right for both.

    What lies outside the FOV or the frame is unknown, not background: a vessel that
    leaves the image does not taper towards its rim.

    Args:
        vessels: `(H, W)` bool.
        fov: `(H, W)` bool.
        skeleton: `(H, W)` bool, within `vessels`.

    Returns:
        `(N,)` float in pixels, of the skeleton's pixels row by row; NaN everywhere if
        the FOV holds no background.
    """
    unwalled = vessels | ~fov
    # The nearest background touches what is not background: a tree of these few
    # pixels answers for a twentieth of what a distance map of all of them takes.
    wall = ~unwalled & ndimage.binary_dilation(unwalled, NEIGHBOURS)
    if not wall.any():
        return np.full(np.count_nonzero(skeleton), np.nan)
    distances, _ = cKDTree(_halves(wall)).query(_halves(skeleton))
    # Twice a distance that is counted in half pixels.
    return distances.reshape(-1, 4).max(axis=1)


def _halves(pixels):
    """Returns the four half pixels of each pixel: `(4 N, 2)`, row and column."""
    quarters = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
    return (2 * np.argwhere(pixels)[:, None] + quarters).reshape(-1, 2)


def box_dimension(pixels, sizes=None):
    """Returns the box-counting dimension of a set of pixels, or None.

    Least-squares slope of log N(s) over log(1 / s), N(s) being the boxes of side s
    that hold a pixel; of retinal vessels Mainster 1990, Eye 4:235-241. The grid starts
    at the corner of the rectangle around the pixels, so that neither a shift nor a
    margin changes the result.

    Args:
        pixels: `(H, W)` bool.
        sizes: box sides in pixels; 2, 4, 8 ... up to a quarter of the rectangle's
            longer side unless given.

    Returns:
        Float, or None with fewer than three sizes: a rectangle under 32 pixels long.
    """
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not rows.size:
        return None
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if sizes is None:
        sizes = [2**k for k in range(1, int(math.log2(max(pixels.shape))) - 1)]
    if len(sizes) < 3:
        return None
    counts = [_count_boxes(pixels, size) for size in sizes]
    return float(np.polyfit(-np.log(sizes), np.log(counts), 1)[0])


def find_masks(inputs):
    """Finds the masks that files and folders stand for.

    Args:
        inputs: paths. Of a folder the pictures named `<stem>_mask`, as `saunet
            predict` writes them, also in the folders below; or all of its own.

    Returns:
        Dict from each mask to the folder of `inputs` that it is from.

    Raises:
        InputError: a path that is not there, or a folder without a picture.
    """
    found = {}
    for path in map(Path, inputs):
        if path.is_dir():
            found |= {mask: path for mask in list_results(path, "mask")}
        elif path.exists():
            found[path] = path.parent
        else:
            raise InputError(f"{path}: no such file or folder: check the path")
    return found


def _read_mask(path):
    """As `read_label`; by its look alone a map of probabilities may pass for one."""
    stem = image_stem(path)
    if stem.endswith("_prob"):
        mask = f"{stem.removesuffix('_prob')}_mask.png"
        raise InputError(f"{path}: a probability map, expected a mask: give {mask}")
    return read_label(path)


def measure_files(
    inputs, out, fov=None, *, micrometres_per_pixel=None, workers=1, progress=False
):
    """Measures the masks in files and folders, and writes a CSV of one row each.

    A file that cannot be read or measured is skipped, unless all are. Until the last
    is measured the rows are in `<out>.part`. If the run is killed they stay there, and
    the next one measures only what is missing or has changed.

    Args:
        inputs: as of `find_masks`.
        out: the CSV; a cell is empty where a measure is undefined.
        fov: folder of FOV pictures, paired with the masks by
            `saunet.data.pairing.pair_files`, in sub-folders of the same names.
        micrometres_per_pixel: as of `measure_vessels`.
        workers: most processes that measure side by side; at most one for 25 masks is
            started. With more than 1 a script needs `if __name__ == "__main__":`.
        progress: show a bar on stderr.

    Returns:
        `{"images": [{"file": str, **measure_vessels}], "skipped": {file: reason},
        "warnings": [str]}`; a warning is of a folder whose masks, by the manifest that
        `saunet predict` left in it, are not all of its last run.

    Raises:
        InputError: nothing to measure, a mask without its FOV, nowhere to write,
            another table in its place, or as `measure_vessels` of the scale and skan,
            said before computing; a full disk, or a process that ended, most likely for
            want of memory.
    """
    out = Path(out)
    if out.suffix.lower() != ".csv" or out.is_dir() or not out.parent.is_dir():
        raise InputError(
            f"{out}: expected a file ending in .csv in a folder that exists: choose "
            "another with --out"
        )
    _refuse_another(out)
    scale = _checked_scale(micrometres_per_pixel)
    need("skan", "measures")
    roots = find_masks(inputs)
    fovs = {} if fov is None else _pair_fovs(roots, fov)
    writable_folder(out.parent)
    masks = {_state(path, fovs.get(path), scale): path for path in roots}
    part = out.with_name(f"{out.name}.part")
    rows = _read_part(part, masks)
    todo = {state: path for state, path in masks.items() if state not in rows}
    jobs = [(path, fovs.get(path)) for path in todo.values()]
    measured = _in_processes(partial(_measure_file, scale), jobs, workers)
    skipped = {}
    try:
        with part.open("a", encoding="ascii") as file:
            shown = track(measured, "measuring", progress, total=len(jobs))
            for state, (name, row, reason) in zip(todo, shown, strict=True):
                if row is None:
                    skipped[name] = reason
                    continue
                rows[state] = {"file": name, **row}
                file.write(json.dumps([state, rows[state]]) + "\n")
                file.flush()
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror or error}): give a folder "
            "with free space"
        ) from error
    found = [rows[state] for state in masks if state in rows]
    if found:
        cells = (["" if v is None else str(v) for v in row.values()] for row in found)
        table = "".join(map(csv_line, [found[0], *cells]))
        write_bytes(out, table.encode("utf-8", "surrogateescape"))
    with suppress(OSError):  # Windows, where another process holds it
        part.unlink()
    if not found:
        raise InputError(first_of(skipped.values()))
    return {"images": found, "skipped": skipped, "warnings": _warnings(roots)}


def _refuse_another(out):
    """Raises InputError where a table lies that is not of `measure_files`."""
    try:
        with out.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline()
    except OSError:  # not there, or to be said when it is written
        return
    # As a spreadsheet may have saved it.
    columns = re.split("[,;\t]", header.strip().replace('"', ""))
    if header and columns[:2] != ["file", "fov_pixels"]:
        raise InputError(
            f"{out}: holds something else than measures: choose another file with --out"
        )


def _warnings(roots):
    """Returns a line for each way in which a folder's masks are not of one run."""
    lines = []
    for root in dict.fromkeys(roots.values()):
        folders = (root.absolute(), *root.absolute().parents)
        home = next((f for f in folders if (f / MANIFEST).is_file()), None)
        if home is None:
            continue
        try:
            manifest = Manifest(home)
        except InputError:  # another program's table
            continue
        masks = [path for path, its_root in roots.items() if its_root == root]
        places = {path: place_of(path.absolute(), home, "mask") for path in masks}
        # What the manifest does not claim was drawn by hand.
        noted = {
            path: manifest.rows[place]
            for path, place in places.items()
            if manifest.claims(place)
        }
        old = [path for path, row in noted.items() if row["status"] != "done"]
        if old:
            lines.append(
                f"{root}: {len(old)} of {len(masks)} masks are of an earlier run, for "
                "the last one failed on their photographs or was stopped: "
                f"{names_of(old, root)}"
            )
        kinds = {row["settings"] for row in noted.values()} - {""}
        if len(kinds) > 1:
            lines.append(
                f"{root}: its masks were made with {len(kinds)} different settings, "
                "which manifest.csv has: predict all of them anew to compare them"
            )
    return lines


def _state(path, fov, scale):
    """Returns what decides the measures of a mask, as one str."""
    files = [(os.path.abspath(file), *state_of(file)) for file in (path, fov) if file]
    return json.dumps([__version__, scale, *files])


def _read_part(part, masks):
    """Returns the rows, by state, that a killed run has left of these masks."""
    rows = {}
    try:
        lines = part.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return rows
    except OSError as error:
        raise InputError(
            f"{part}: cannot be read ({error.strerror}): choose another file with --out"
        ) from error
    whole = [line for line in lines if line.endswith(b"\n")]  # not half a row
    try:
        for line in lines:
            if not b'["['.startswith(line[:3]):
                raise ValueError(line)
        for state, row in map(json.loads, whole):
            if state in masks:
                rows[state] = {**row, "file": str(masks[state])}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{part}: not what a killed `saunet measure` leaves: move it away, or "
            "choose another file with --out"
        ) from error
    write_bytes(part, b"".join(whole))
    return rows


def _measure_file(scale, paths):
    """Returns the mask's name, its measures or None, and why there are none."""
    path, fov = paths
    try:
        inside = None if fov is None else read_fov(fov)
        row = measure_vessels(_read_mask(path), inside, micrometres_per_pixel=scale)
    except (InputError, MemoryError) as error:
        reason = str(error) or "too large for the memory"
        # The file's name is in the reader's message, not in `measure_vessels`'.
        return str(path), None, reason if str(path) in reason else f"{path}: {reason}"
    return str(path), row, None


def _in_processes(function, jobs, workers):
    """As `map`, by up to `workers` processes; each takes seconds to start."""
    workers = min(workers, len(jobs) // 25)
    if workers < 2:
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(
        workers,
        get_context("spawn"),  # a fork would inherit the threads of TensorFlow
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is the parent's to handle
    )
    try:
        yield from pool.map(function, jobs)
    except BrokenProcessPool as error:
        raise InputError(
            "a process ended while it measured, most likely for want of memory: "
            "measure with fewer --workers"
        ) from error
    except OSError as error:
        raise InputError(
            f"{workers} processes cannot be started ({error.strerror or error}): "
            "measure with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _pair_fovs(roots, fov):
    """Returns the FOV picture of each mask; input by input, for names may recur."""
    pairs = {}
    for root in dict.fromkeys(roots.values()):
        paths = [path for path, its_root in roots.items() if its_root == root]
        pairs |= pair_trees(paths, root, fov)
    return pairs


def _measure_graph(skeleton):
    """Measures the graph of a skeleton's pixels: its length, points and tortuosity.

    Returns:
        Dict: length in pixels; branch_points: groups of touching pixels with three or
        more neighbours; end_points: pixels with one; tortuosity: of the segments
        between these, arc over chord (Hart et al. 1999, Int J Med Inform 53:239-252),
        mean weighted by arc, None without a segment; segments: how many count.
    """
    if ndimage.label(skeleton, NEIGHBOURS)[1] == skeleton.sum():
        # No two pixels touch, and skan refuses a graph without an edge.
        return {
            "length": 0.0,
            "branch_points": 0,
            "end_points": 0,
            "tortuosity": None,
            "segments": 0,
        }
    need("skan", "measures")
    import skan  # and numba with it: two seconds that only measuring needs

    graph = skan.Skeleton(skeleton, keep_images=False)
    # Neighbours in the image: skan's graph drops some edges to cut the small rings
    # at branch points, and would show ends where it cut. A pixel counts itself.
    near = ndimage.convolve(skeleton.view(np.uint8), NEIGHBOURS, mode="constant")
    joints, branch_points = ndimage.label(skeleton & (near > 3), NEIGHBOURS)
    arcs, winding = [], []
    for index, arc in enumerate(graph.path_lengths()):
        path = graph.path_coordinates(index)
        first, last = path[0], path[-1]
        joint = joints[tuple(first)]
        # A closed segment has no chord, nor one that returns to its branch point.
        closed = (first == last).all() or (joint and joint == joints[tuple(last)])
        if arc >= MIN_SEGMENT and not closed:
            arcs.append(arc)
            winding.append(arc / math.dist(first, last))
    return {
        "length": float(graph.path_lengths().sum()),
        "branch_points": branch_points,
        "end_points": int((skeleton & (near == 2)).sum()),
        "tortuosity": float(np.average(winding, weights=arcs)) if arcs else None,
        "segments": len(arcs),
    }


def _summarise_calibre(values):
    """Returns the `CALIBRES` of one value a skeleton pixel; None if there is none."""
    if not values.size or np.isnan(values).any():
        return dict.fromkeys(CALIBRES)
    numbers = (
        values.mean(),
        values.std(),
        np.median(values),
        *np.percentile(values, PERCENTILES),
    )
    return dict(zip(CALIBRES, map(float, numbers), strict=True))


def _count_boxes(pixels, size):
    margins = [(0, -side % size) for side in pixels.shape]
    padded = np.pad(pixels, margins)
    height, width = padded.shape
    boxes = padded.reshape(height // size, size, width // size, size)
    return int(boxes.any(axis=(1, 3)).sum())


def _binary(array, what):
    array = np.asarray(array)
    if array.ndim != 2 or not array.size:
        raise InputError(f"a {what} of shape {array.shape}: expected (H, W)")
    high = array.max()
    if not (high >= 0 and ((array == 0) | (array == high)).all()):
        raise InputError(
            f"a {what} of more than two values: expected 0 and one other; apply a "
            "threshold first"
        )
    return array != 0


def _checked_scale(scale):
    if scale is None:
        return None
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"{scale} micrometres per pixel: expected a positive number")
    return float(scale)


def _times(value, scale):
    return None if value is None or scale is None else value * scale
