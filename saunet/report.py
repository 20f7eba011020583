"""One HTML page about a training run, or about a folder of vessel maps.

What was run, scores by protocol, curves, calibration, a table of the images that
sorts, and the images, worst first. Numbers are those of `saunet.evaluation`, unrounded
in each cell's `data-value`. How a page is written is in `saunet.page`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import numpy as np

from saunet import page, viz
from saunet.data import runs
from saunet.data.images import (
    image_stem,
    read_fov,
    read_image,
    read_label,
    read_mask,
    sides,
    writable_folder,
    write_bytes,
)
from saunet.data.manifest import Manifest
from saunet.data.pairing import (
    list_results,
    list_tree,
    pair_trees,
    pair_truth,
    place_of,
    shared_names,
)
from saunet.errors import InputError
from saunet.evaluation import (
    check_labelled,
    check_protocol,
    read_map,
    read_probability,
    summarise_all,
)
from saunet.metrics import calibration, count_levels, pr_curve, roc_curve
from saunet.quiet import track

SCORES = {
    "f1": "F1",
    "auc": "AUC",
    "pr_auc": "PR AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "precision": "precision",
    "jaccard": "Jaccard",
    "mcc": "MCC",
    "cldice": "clDice",
}
COUNTS = {"tp": "TP", "fp": "FP", "fn": "FN", "tn": "TN"}
REGIONS = {"fov": "field of view", "frame": "whole frame"}
POOLINGS = {"pooled": "all images' pixels together", "mean": "mean over images"}
SORT_HINT = "Press a heading to sort by it, again to reverse."
WORST = 5  # images that are shown larger
LARGE, SMALL = 640, 360  # pixels, the longer side of a picture
MANY = 40  # images; of more than these the small pictures are smaller still
LISTED = ("images", "validation")


@dataclass(frozen=True)
class Case:
    """One image of a report.

    The arrays are functions without arguments that return them, so that a folder
    of large maps is never in memory as a whole.

    Attributes:
        name: shown, and unique.
        probability: `(H, W)` floats in [0, 1].
        photograph: `(H, W, 3)` uint8 RGB, or None.
        vessels: `(H, W)` in {0, 1}, or None; all images of a report, or none.
        fov: `(H, W)` in {0, 1}, or None.
        shows: what the photograph is, in a word: "overlay" has vessels drawn on it.
    """

    name: str
    probability: Callable
    photograph: Callable | None = None
    vessels: Callable | None = None
    fov: Callable | None = None
    shows: str = "photograph"


def is_run(folder):
    """Returns whether a folder is a training run's (else it holds vessel maps).

    Raises:
        InputError: no such folder, or it is both.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder: expected one that `saunet train` or "
            "`saunet predict` wrote"
        )
    run = runs.is_run(folder)
    if run and any(folder.glob("[!.]*_prob.png")):
        raise InputError(
            f"{folder} holds a training run and vessel maps: expected one of the two; "
            "move the maps to a folder of their own"
        )
    return run


def maps_page(
    folder,
    *,
    truth=None,
    fov=None,
    images=None,
    region=None,
    pooling="pooled",
    threshold=0.5,
):
    """Returns the page about a folder of vessel maps.

    Args:
        folder: what `saunet predict` wrote, or pictures that are probability maps.
        truth: folder of labels, paired as by `saunet.evaluation.score_folders`;
            without it the page shows no score.
        fov: folder of field-of-view masks.
        images: folder of the photographs; it may hold more.
        region: "fov" or "frame"; what there are masks for, by default.
        pooling: "pooled" or "mean".
        threshold: float in [0, 1]; vessel if the probability is greater.

    Returns:
        str, HTML.

    Raises:
        InputError: as `saunet.evaluation.score_folders`, or a photograph is missing
            or has another size than its map.
    """
    folder = Path(folder)
    region = region or ("fov" if fov else "frame")
    check_protocol(region, pooling, threshold)
    if fov and not truth:
        raise InputError("--fov without --truth: add the folder of the labels")
    if truth and region == "fov" and not fov:
        raise InputError(
            "region fov needs the field-of-view masks: pass their folder with --fov, "
            "or use --region frame"
        )
    if not list_tree(folder):
        raise InputError(
            f"{folder}: holds neither a training run (run.json) nor vessel maps "
            "(<stem>_prob.png): give a folder that `saunet train` or `saunet predict` "
            "wrote"
        )
    paths = list_results(folder, "prob")
    labels = pair_truth(paths, folder, truth) if truth else {}
    masks = pair_trees(paths, folder, fov) if fov else {}
    photographs = pair_trees(paths, folder, images) if images else {}
    if truth:
        names = shared_names(paths, folder)
    else:
        names = {path: place_of(path, folder) for path in paths}
    cases = [
        Case(
            names[path],
            partial(read_map, path),
            **_photograph(path, photographs.get(path)),
            vessels=partial(read_label, labels[path]) if truth else None,
            fov=partial(read_fov, masks[path]) if fov else None,
        )
        for path in paths
    ]
    facts = {
        "Maps": f"{len(cases)} in {folder}",
        "Network": _made_by(folder, paths),
        "Truth": truth or "none given (--truth): nothing is scored",
        "Field of view": fov or "none given (--fov)",
        "Photographs": images or "none given (--images)",
        "Threshold": f"a vessel is a probability above {threshold:g}",
    }
    note = _other_threshold(paths, threshold)
    sections = [
        page.section("What was run", page.facts(facts), note),
        *_results(cases, region, pooling, threshold),
    ]
    return page.document(f"Vessel maps in {folder.resolve().name}", sections)


def run_page(
    folder,
    samples=None,
    *,
    about="",
    region=None,
    pooling="pooled",
    threshold=0.5,
    progress=False,
):
    """Returns the page about a training run; with samples, also scores its weights.

    The weights are the best ones where the run kept some by validation, else the
    last. They are evaluated in float32, whatever they were trained in.

    Args:
        folder: the run folder.
        samples: list of `Sample` with vessels, or None.
        about: str, what the samples are.
        region: "fov" (by default) or "frame".
        pooling: "pooled" or "mean".
        threshold: float in [0, 1]; vessel if the probability is greater.
        progress: show a bar on stderr while segmenting.

    Returns:
        str, HTML.

    Raises:
        InputError: the folder's files are not a run's, or as
            `saunet.evaluation.evaluate`.
    """
    folder, region = Path(folder), region or "fov"
    check_protocol(region, pooling, threshold)
    run = runs.read_run(folder)
    recipe = {name: json.dumps(value) for name, value in run["recipe"].items()}
    sections = [
        page.section(
            "What was run",
            page.facts(_run_facts(run)),
            page.details("The recipe", page.facts(recipe)),
        ),
        page.section("Training", *_training(folder)),
    ]
    if samples is None:
        hint = "No score: name the images with --dataset and --data-dir."
        sections.append(page.section("Scores", f'<p class="faint">{hint}</p>'))
    else:
        check_labelled(samples)
        from saunet.inference import load_run
        from saunet.weights import run_weights

        segmenter = load_run(folder)
        cases = _segment(segmenter, samples, progress)
        sources = sorted({sample.fov_source for sample in samples})
        which, engine = run_weights(folder).name, segmenter.engine.name
        facts = {
            "Weights": f"{which}, evaluated in float32 by {engine}",
            "Images": f"{len(samples)} of {about}",
            "Field of view": " and ".join(sources),
            "Threshold": f"a vessel is a probability above {threshold:g}",
        }
        sections.append(page.section("What was evaluated", page.facts(facts)))
        sections += _results(cases, region, pooling, threshold)
    return page.document(f"Training run {folder.resolve().name}", sections)


def check_out(path):
    """Returns the path of a page; InputError unless it can be one.

    Said before the hours that a page may take.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise InputError(f"{path}: expected the name of a file that ends in .html")
    if not path.parent.is_dir():
        raise InputError(
            f"{path.parent}: no such folder: choose an existing one with --out"
        )
    writable_folder(path.parent)
    return path


def write_page(html, path):
    """Writes a page, whole or not at all; returns its size in bytes."""
    # A file name may hold bytes that are no UTF-8: they become question marks.
    content = html.encode("utf-8", "replace")
    write_bytes(path, content)
    return len(content)


# Reading.


def _made_by(folder, paths):
    """Returns which network and settings made the maps, as `saunet predict` noted."""
    try:
        noted = Manifest(folder).rows.items()
        rows = {place: row for place, row in noted if row["status"] == "done"}
    except InputError:  # another program's table
        rows = {}
    noted = Counter(
        rows.get(place_of(path, folder), {}).get("settings") or "not recorded"
        for path in paths
    )
    if len(noted) == 1:
        return next(iter(noted))
    of_all = f"of {len(paths)} maps"
    return "; ".join(f"{count} {of_all}: {made}" for made, count in noted.items())


def _photograph(path, photograph):
    """Returns the `Case` fields that show the eye: the photograph, or the overlay."""
    if photograph is not None:
        return {"photograph": partial(read_image, photograph)}
    beside = path.with_name(f"{image_stem(path).removesuffix('_prob')}_overlay.png")
    if beside != path and beside.is_file():
        return {"photograph": partial(read_image, beside), "shows": "overlay"}
    return {}


def _other_threshold(paths, threshold):
    """Returns a note where the masks in the folder were made by another threshold."""
    differing = pixels = 0
    for path in paths:
        beside = path.with_name(f"{image_stem(path).removesuffix('_prob')}_mask.png")
        if beside == path or not beside.is_file():
            continue
        mask, vessels = read_mask(beside), read_probability(path) > threshold
        if mask.shape == vessels.shape:
            differing += int(np.count_nonzero(mask != vessels))
            pixels += mask.size
    # 16 bits round a probability: a few pixels may fall on the other side.
    if differing <= 1e-4 * pixels:
        return ""
    return (
        f'<p class="note">The masks in the folder differ from these in '
        f"{differing / pixels:.2%} of the pixels: they were made with another "
        "threshold. Everything here is at the threshold above.</p>"
    )


def _segment(segmenter, samples, progress):
    shown = track(samples, "segmenting", progress)
    maps = [segmenter.predict(sample.image) for sample in shown]

    def case(sample, probability):
        return Case(
            sample.name,
            lambda: probability,
            lambda: sample.image,
            lambda: sample.vessels,
            lambda: sample.fov,
        )

    return list(map(case, samples, maps))


# The sections of a page.


def _results(cases, region, pooling, threshold):
    """Returns the sections about the images, scored where their truth is known."""
    if cases[0].vessels is None:
        return _unscored(cases, threshold)

    def items():
        for case in cases:
            fov = case.fov() if case.fov else None
            yield case.name, case.probability(), case.vessels(), fov

    regions = REGIONS if all(case.fov for case in cases) else ("frame",)
    scored = summarise_all(items, regions=regions, threshold=threshold)
    chosen = scored[region, pooling]
    rows = {row["name"]: row for row in chosen["per_image"]}
    anchors = {case.name: f"image-{i}" for i, case in enumerate(cases, 1)}

    def figures(some, side):
        return "".join(
            _scored_figure(case, rows[case.name], anchors, region, threshold, side)
            for case in some
        )

    sections = [
        page.section("Scores", _headline(chosen), _protocol_table(scored, chosen)),
        page.section("Curves", *_curves(cases, scored[region, "pooled"])),
        page.section("Each image", _image_table(chosen, anchors)),
    ]
    legend = page.legend(viz.LEGEND)
    by_f1 = sorted(cases, key=lambda case: _undefined_last(rows[case.name]["f1"]))
    worst = figures(by_f1[:WORST], LARGE)
    if len(cases) <= WORST:
        return [*sections, page.section("The images, worst F1 first", legend, worst)]
    names = {case.name for case in by_f1[WORST:]}
    others = figures((c for c in cases if c.name in names), _small(cases))
    return [
        *sections,
        page.section("The worst five, by F1", legend, worst),
        page.section("The others", legend, f'<div class="others">{others}</div>'),
    ]


def _unscored(cases, threshold):
    """Returns the sections about maps without truth."""
    rows, figures = [], ""
    for index, case in enumerate(cases, 1):
        probability = case.probability()
        share = float(np.mean(probability > threshold))
        mean = float(probability.mean(dtype=np.float64))
        anchor = f"image-{index}"
        rows.append(((case.name, anchor), [share, mean, *probability.shape[::-1]]))
        pictures = _pictures(case, probability, threshold)
        figures += page.figure(anchor, escape(case.name), pictures, _small(cases))
    columns = {
        "name": "image",
        "vessels": "vessel share",
        "probability": "mean probability",
        "width": "width",
        "height": "height",
    }
    caption = f"{SORT_HINT} Shares are of the whole frame."
    return [
        page.section(
            "Each image", page.table("images", caption, columns, rows, sortable=True)
        ),
        page.section("The images", f'<div class="others">{figures}</div>'),
    ]


def _headline(result):
    names = ("f1", "auc", "sensitivity", "specificity", "accuracy")
    numbers = "".join(
        f"<li><b>{page.number(result[name])}</b>{SCORES[name]}</li>" for name in names
    )
    return (
        f"<p>{_protocol(result)}. Images: {result['images']}.</p>"
        f'<ul class="headline">{numbers}</ul>'
    )


def _protocol(result):
    return (
        f"Region: {REGIONS[result['region']]}. Pooling: {POOLINGS[result['pooling']]}. "
        f"Threshold: {result['threshold']:g}"
    )


def _protocol_table(scored, chosen):
    caption = (
        "The same maps by each protocol; the numbers above are those of the marked "
        "one. Only scores of one protocol can be compared."
    )
    if len(scored) == 2:
        caption += " Those of the field of view need its masks."
    rows = [
        (f"{region}, {pooling}", [result[key] for key in SCORES])
        for (region, pooling), result in scored.items()
    ]
    columns = {"protocol": "region, pooling", **SCORES}
    index = list(scored).index((chosen["region"], chosen["pooling"]))
    return page.table("protocols", caption, columns, rows, chosen=index)


def _image_table(result, anchors):
    columns = {"name": "image", **SCORES, **COUNTS}
    keys = (*SCORES, *COUNTS)
    rows = [
        ((row["name"], anchors[row["name"]]), [row[key] for key in keys])
        for row in result["per_image"]
    ]
    sums = dict.fromkeys(COUNTS)  # a mean over images has none
    if result["pooling"] == "pooled":
        sums = {key: sum(row[key] for row in result["per_image"]) for key in COUNTS}
    foot = (result["pooling"], [{**sums, **result}[key] for key in keys])
    caption = f"{SORT_HINT} {_protocol(result)}."
    return page.table("images", caption, columns, rows, foot=foot, sortable=True)


def _scored_figure(case, row, anchors, region, threshold, side):
    probability = case.probability()
    errors = viz.error_map(
        probability > threshold,
        case.vessels(),
        case.fov() if region == "fov" else None,
    )
    told = (
        f"{row['tp']:,} vessel pixels found, {row['fp']:,} false, {row['fn']:,} missed"
    )
    scores = f"F1 {page.number(row['f1'])}, AUC {page.number(row['auc'])}"
    pictures = [*_pictures(case, probability, threshold), ("errors", errors, told)]
    title = f"{escape(case.name)}: {scores}"
    return page.figure(anchors[case.name], title, pictures, side)


def _pictures(case, probability, threshold):
    """Returns what it is, the array, and what it shows, of each picture but errors."""
    pictures = []
    if case.photograph:
        photograph = case.photograph()
        if photograph.shape[:2] != probability.shape:
            raise InputError(
                f"{case.name}: the {case.shows} is {sides(photograph)} and the map "
                f"{sides(probability)} pixels: both must be of one size"
            )
        drawn = ", the vessels found drawn on it" if case.shows == "overlay" else ""
        pictures.append((case.shows, photograph, f"the eye{drawn}"))
    gray = np.rint(probability * 255).astype(np.uint8)
    mask = np.where(probability > threshold, 255, 0).astype(np.uint8)
    return [
        *pictures,
        ("probability", gray, "of a vessel, white is 1"),
        ("mask", mask, f"white where the probability is above {threshold:g}"),
    ]


def _curves(cases, pooled):
    """Returns the ROC and precision-recall curves and the calibration.

    Args:
        cases: list of `Case` with vessels.
        pooled: the result whose region counts, of all images' pixels together.
    """
    levels = count_levels(_inside(case, pooled["region"]) for case in cases)
    bins, error = calibration(levels)
    if not levels.any(axis=1).all():
        return ["<p>No curves: all pixels of the truth are of one kind.</p>"]
    unit, diagonal = ((0, 1), (0, 1)), ((0, 0), (1, 1))
    recall, precision = pooled["sensitivity"], pooled["precision"]
    ringed = f"the threshold {pooled['threshold']:g}"
    return [
        f"<p>All pixels of the {REGIONS[pooled['region']]}, all images together; "
        f"{ringed} is ringed in orange.</p>",
        page.charts(
            page.chart(
                f"ROC, AUC {page.number(pooled['auc'])}",
                ("1 - specificity", "sensitivity"),
                unit,
                {"one": roc_curve(levels)},
                dot=(1 - pooled["specificity"], recall),
                guide=diagonal,
            ),
            page.chart(
                f"Precision and recall, AUC {page.number(pooled['pr_auc'])}",
                ("recall", "precision"),
                unit,
                {"one": pr_curve(levels)},
                dot=(recall, precision),
            ),
            page.chart(
                f"Calibration, expected error {page.number(error)}",
                ("mean probability", "share of vessels"),
                unit,
                {"one": [(b["probability"], b["vessels"]) for b in bins]},
                guide=diagonal,
            ),
        ),
        page.details("The calibration in numbers", _calibration_table(bins, error)),
    ]


def _inside(case, region):
    """Returns the probabilities and labels of the pixels that count."""
    pixels = case.fov().astype(bool) if region == "fov" else ...
    return case.probability()[pixels], case.vessels()[pixels]


def _calibration_table(bins, error):
    caption = (
        "Below the chart's diagonal the network is too sure of vessels, above it not "
        "sure enough. The expected error is the distance from the diagonal, weighted "
        "by pixels."
    )
    columns = {
        "bin": "probability",
        "pixels": "pixels",
        "mean": "mean probability",
        "share": "share of vessels",
        "distance": "distance",
    }
    rows = [
        (
            f"{b['low']:.1f} to {b['high']:.1f}",
            [
                b["pixels"],
                b["probability"],
                b["vessels"],
                abs(b["probability"] - b["vessels"]),
            ],
        )
        for b in bins
    ]
    total = sum(b["pixels"] for b in bins)
    mean, share = (
        math.fsum(b["pixels"] * b[key] for b in bins if b["pixels"]) / total
        for key in ("probability", "vessels")
    )
    foot = ("all", [total, mean, share, error])
    return page.table("calibration", caption, columns, rows, foot=foot)


def _run_facts(run):
    unknown = "not recorded"
    names = {key: ", ".join(map(str, run.get(key, ()))) for key in LISTED}
    versions = " ".join(f"{name} {v}," for name, v in run.get("versions", {}).items())
    return {
        "Network": run["recipe"]["model"],
        "Trained on": f"{len(run.get('images', ()))} images: {names['images']}",
        "Held out": names["validation"] or "none",
        "Seed": run["recipe"].get("seed", unknown),
        "Device": run.get("device", unknown),
        "Versions": versions.rstrip(",") or unknown,
        "Commit": run.get("commit") or unknown,
        "Started": run.get("date", unknown),
        "Took": f"{run['hours']:g} hours" if "hours" in run else "not finished",
    }


def _training(folder):
    """Returns what the log of a run tells: its last losses, and the curves."""
    path = folder / "log.csv"
    if not path.is_file():
        return ['<p class="faint">No epoch is whole yet.</p>']
    log = viz.read_log(path)

    def points(name):
        pairs = zip(log["epoch"], log.get(name, ()), strict=False)
        return [(epoch, value) for epoch, value in pairs if math.isfinite(value)]

    loss, val_loss, rate = map(points, ("loss", "val_loss", "learning_rate"))
    told = (
        f"{len(log['epoch'])} epochs. The last one's loss: "
        f"{page.number(log['loss'][-1])}."
    )
    epochs = page.span(log["epoch"])
    title, lines = "Loss", {"one": loss}
    if val_loss:
        best, lowest = min(val_loss, key=lambda point: point[1])
        told += f" Validation was best at epoch {best:g}: {page.number(lowest)}."
        title, lines = (
            "Loss: training blue, validation orange",
            {**lines, "two": val_loss},
        )
    losses = page.span([value for line in lines.values() for _, value in line])
    drawn = [page.chart(title, ("epoch", "loss"), (epochs, losses), lines)]
    if rate:
        drawn.append(
            page.chart(
                "Learning rate at the end of each epoch",
                ("epoch", "learning rate"),
                (epochs, page.span([0, *(value for _, value in rate)])),
                {"one": rate},
            )
        )
    return [f"<p>{told}</p>", page.charts(*drawn)]


def _undefined_last(score):
    return (math.isnan(score), score)


def _small(cases):
    """Returns the side of small pictures: less of many, which are one page, too."""
    return round(SMALL * min(1, math.sqrt(MANY / len(cases))))
