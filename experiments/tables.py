"""Renders every measured number of README.md and docs/results.md from results/*.json.

    python experiments/tables.py            # writes what differs
    python experiments/tables.py --check    # exit status 1 if anything differs

A number gets into those pages by no other way: `tests/test_experiments.py` renders
them again and compares.
"""

import argparse
import csv
import importlib
import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from bootstrap import paired_bootstrap
from runner import (
    RECIPE_NAMES,
    RESULTS,
    ROOT,
    VIEWS,
    find_score,
    key_of,
    label,
    published,
    weights_name,
    with_views,
)

from saunet.data.datasets import DATASETS
from saunet.data.images import write_bytes
from saunet.models import FACTS
from saunet.training import stored_recipe
from saunet.weights import CARD

PAPERS = ("sa_unet", "rsan", "sa_unet_v2", "unet_slides", "ag_net")
# The row a paper is about; the others of its tables are compared with it.
HEADLINES = {"unet_slides": "unet"}
BEGIN = "<!-- begin: rendered by `python experiments/tables.py`; edit nothing here -->"
END = "<!-- end -->"
COLUMNS = ("f1", "auc", "sensitivity", "specificity", "accuracy")
HEADS = ("F1", "AUC", "sensitivity", "specificity", "accuracy")


def main(argv=None):
    """Writes or checks the pages; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    status = 0
    for path, text in pages().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        status = 1
        print(f"{path.relative_to(ROOT)} {'differs' if args.check else 'written'}")
        if not args.check:
            write_bytes(path, text.encode())
    return status if args.check else 0


def pages(results=None, root=ROOT):
    """Returns `{path: text}` of all pages and curves that are rendered."""
    results = load_results() if results is None else results
    readme = (root / "README.md").read_text(encoding="utf-8")
    found = {root / "README.md": replace_block(readme, readme_block(results))}
    found[root / "docs/results.md"] = results_page(results)
    for (paper, dataset), records in results.items():
        if histories := _histories(records):
            found[root / f"docs/curves_{paper}_{dataset}.svg"] = curves(histories)
    return found


def load_results(folder=RESULTS):
    """Returns `{(paper, dataset): [record, ...]}` of all results files."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem == f"{content['paper']}_{content['dataset']}", path
        # As they were trained, but for folds, which may come in any order.
        rows = sorted(content["rows"], key=lambda record: record["fold"] or 0)
        found[content["paper"], content["dataset"]] = rows
    return found


def replace_block(text, block):
    """Returns the text with what lies between the markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no block from {BEGIN} to {END}")
    return f"{before}{BEGIN}\n\n{block}\n{END}{after}"


# ------------------------------------------------------------------ README


# All four, and the other scores of each, are in docs/results.md.
IN_README = (("fov", "pooled"), ("frame", "pooled"), ("frame", "mean"))


def readme_block(results):
    """Returns README's tables: the shipped weights, and others' maps beside them."""
    parts = []
    heads = [""]
    for region, pooling in IN_README:
        heads += [f"F1, {region} {pooling}", "AUC"]
    for dataset in DATASETS:
        lines = []
        for (paper, name), records in results.items():
            if name == dataset and paper in PAPERS:
                for record in shipped(records, name):
                    lines += _readme_lines(paper, dataset, record)
        if not lines:
            continue
        for record in results.get(("others", dataset), ()):
            lines += _readme_lines("others", dataset, record)
        images = len(DATASETS[dataset].test)
        counted = f"the {images} test images"
        counted = counted if images else "the 4 test images of a fold; observer: all 20"
        parts.append(f"### {DATASETS[dataset].title}, {counted}\n")
        parts.append(table(heads, lines, 1) + "\n")
    parts.append("### How the shipped weights were trained\n")
    heads = ("weights", "recipe", "device", "training images", "seed", "hours")
    parts.append(table(heads, _training_lines(results), 3) + "\n")
    return "\n".join(parts)


def _readme_lines(paper, dataset, record):
    """Returns the record's line and, under a network's, that of its published row."""
    scores = {(s["region"], s["pooling"]): s for s in record["scores"]}
    columns = ("f1",) if record.get("binary") else ("f1", "auc")
    lines = [[_name(paper, dataset, record), *_readme_cells(scores, columns)]]
    entries = published(paper).get((dataset, label(record)), [])
    scores = {(e["region"], e["pooling"]): e for e in entries}
    if record["views"] == 1 and paper in PAPERS and scores.keys() & set(IN_README):
        cells = _readme_cells(scores, ("f1", "auc"))
        lines.append([f"{record['row']}, published", *cells])
    return lines


def _readme_cells(scores, columns):
    return [
        _number(scores.get(protocol, {}).get(column) if column in columns else None)
        for protocol in IN_README
        for column in ("f1", "auc")
    ]


def _training_lines(results):
    """Returns a line for each of the shipped weights: how it was trained."""
    lines = []
    for (paper, dataset), records in results.items():
        for record in shipped(records, dataset) if paper in PAPERS else ():
            if record["views"] == 1:
                name = f"`{weights_name(record, dataset)}`"
                facts = (len(record["images"]), record["seed"], record["hours"])
                start = [name, f"`{record['recipe_name']}`", record["device"]]
                lines.append([*start, *map(str, facts)])
    return lines


def shipped(records, dataset):
    """Returns the records of weights that lie in `weights/`, any number of views."""
    runs = [key_of(r) for r in records if is_shipped(r, dataset)]
    return [r for r in records if key_of(r | {"views": 1}) in runs]


def is_shipped(record, dataset):
    """Returns whether a record's scores are those of a card in `weights/`."""
    path = ROOT / "weights" / weights_name(record, dataset) / CARD
    if not path.exists():
        return False
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    f1 = {(s["region"], s["pooling"]): s["f1"] for s in scores}
    return all(f1[s["region"], s["pooling"]] == s["f1"] for s in record["scores"])


def _name(paper, dataset, record):
    title = record["title"] if paper == "others" else None
    return (title or f"`{weights_name(record, dataset)}`") + with_views(record["views"])


# ------------------------------------------------------------------ docs/results.md


def results_page(results):
    """Returns docs/results.md."""
    parts = [INTRODUCTION]
    for paper in PAPERS:
        module = importlib.import_module(paper)
        title = module.__doc__.partition("\n")[0].removesuffix(".")
        parts.append(f"## {title}")
        parts.append(
            f"`experiments/{paper}.py`, which says where each setting is from."
        )
        if costs := _cost_lines(paper):
            heads = ("network", "source", *COSTS, *(f"published {c}" for c in COSTS))
            parts.append(table(heads, costs, 2))
        for dataset in dict.fromkeys(row.dataset for row in module.ROWS):
            records = results.get((paper, dataset), [])
            rows = [row for row in module.ROWS if row.dataset == dataset]
            parts.append(f"### {DATASETS[dataset].title}")
            humans = results.get(("others", dataset), [])
            parts.append(_paper_table(paper, dataset, rows, records, humans))
            if len(records) > 1:
                parts.append(_all_protocols(paper, dataset, records))
            if _histories(records):
                parts.append(f"![Training curves](curves_{paper}_{dataset}.svg)")
    parts.append("## Others, by the same scorer")
    for (paper, dataset), records in results.items():
        if paper == "others":
            parts.append(f"### {DATASETS[dataset].title}")
            parts.append(_all_protocols(paper, dataset, records))
    parts.append(DIFFERENCES)
    for dataset in DATASETS:
        if lines := _difference_lines(results, dataset):
            heads = ("one", "other", "images", "F1", "95 % interval", "p", "Holm's p")
            parts += [f"### {DATASETS[dataset].title}", table(heads, lines, 2)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Results

<!-- rendered by `python experiments/tables.py`; edit nothing on this page -->

Every number is read from `experiments/results/*.json`, which also holds the scores of
each image, the recipe, the versions and the device; published ones are in
`experiments/published.csv` and `experiments/published_costs.csv`. A row that is not
trained yet has no score. The three recipes: `paper`, the authors' settings; `budget`,
one to four hours on two CPU cores, the same computation for every network, each with
the loss of its paper; `best`, ours, twice as long. What a run had otherwise stands
behind its recipe. The threshold is 0.5 for all; the test images choose nothing.
"8 views": the mean over an image's flips and quarter turns, which is `--tta`. The
`difference` is ours minus the published score, by the protocol that was published;
where the source does not say by which protocol, there is none.

`python experiments/maps.py --data-dir DATA` writes the vessel maps of the shipped
weights on their test images, an archive of them for a release, and a picture of the
best and the worst image. No photograph of a data set is part of this repository."""

DIFFERENCES = """## Which differences are real

F1 of each test image inside the field of view, first method minus second, seed 0. The
interval is the paired bootstrap over images; p is from the sign-flip test, then
corrected for the number of comparisons in the table by Holm's method. This says what
other photographs would change, not what another training seed would: two networks
trained once each can differ by more than their kind does."""


COSTS = ("parameters", "trainable", "GFLOPs")


def _cost_lines(paper):
    """Returns a line for each network whose cost the paper gives: ours, published."""
    lines = []
    with (RESULTS.parent / "published_costs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["paper"] == paper:
                facts = FACTS[row["key"]]
                ours = (f"{facts.total:,}", f"{facts.trainable:,}")
                given = (row["parameters"], row["trainable"], row["gflops"])
                given = (f"{int(n):,}" if n.isdecimal() else n for n in given)
                name = f"`{row['key']}`"
                gflops = f"{facts.gflops:,.3f}"
                lines.append([name, row["source"], *ours, gflops, *given])
    return lines


def _paper_table(paper, dataset, rows, records, humans):
    """Returns the paper's table: ours, published, difference, in its protocol."""
    theirs = published(paper)
    heads = ["row", "recipe", "seeds", "protocol", "parameters", "GFLOPs"]
    heads += ["F1", "published", "difference", "AUC", "published", "difference"]
    lines = []
    for row in rows:
        name = row.key if row.fold is None else f"{row.key}_fold{row.fold}"
        entry = theirs.get((dataset, name), [NOTHING_PUBLISHED])[0]
        protocol = (entry["region"] or "fov", entry["pooling"] or "pooled")
        facts = FACTS[row.paper.model]
        costs = [f"{facts.total:,}", f"{facts.gflops:,.3f}"]
        ran = [r for r in records if (r["row"], r["fold"]) == (row.key, row.fold)]
        title = f"{row.title} (`{name}`)"
        for (recipe, views), group in (_by_recipe(ran) or {("", 1): []}).items():
            what = recipe + with_views(views) or "not trained"
            for difference in sorted({d for r in group for d in departures(row, r)}):
                what += f", `{difference}`"
            seeds = ", ".join(str(r["seed"]) for r in group)
            start = [title, what, seeds, " ".join(protocol), *costs]
            lines.append([*start, *_compared(group, protocol, entry)])
    for human in (r for r in humans if r.get("binary")):
        # On all images of STARE, whose folds share them out.
        cells = [_number(find_score(human, *protocol)["f1"]), "", "", "", "", ""]
        lines.append([human["title"], "", "", " ".join(protocol), "", "", *cells])
    lines += _over_folds(records)
    return table(heads, lines, 4)


def departures(row, record):
    """Returns `field=value` of each field in which a run's recipe is not the row's.

    A recipe that was improved leaves runs behind that had the former one.
    """
    now = json.loads(
        json.dumps(asdict(row.recipe(record["recipe_name"], record["seed"])))
    )
    then = stored_recipe(record["recipe"])
    return [f"{k}={then[k]}" for k in now if then[k] != now[k]]


NOTHING_PUBLISHED = {"region": "", "pooling": ""}


def _compared(group, protocol, entry):
    """Returns ours, published and difference of F1 and of AUC, as cells."""
    cells = []
    for column in ("f1", "auc"):
        values = [find_score(record, *protocol)[column] for record in group]
        known = entry.get(column)
        comparable = values and known is not None and entry["region"]
        gap = f"{np.mean(values) - known:+.4f}" if comparable else ""
        cells += [_mean(values), _number(known), gap]
    return cells


def _over_folds(records):
    """Returns a line for each recipe and seed whose folds are all there."""
    lines = []
    for (recipe, views), group in _by_recipe(records).items():
        for seed in sorted({r["seed"] for r in group}):
            parts = [r for r in group if r["seed"] == seed]
            if _all_folds(parts):
                images = [i for r in parts for i in r["per_image"]["frame"]]
                means = [np.mean([i[c] for i in images]) for c in ("f1", "auc")]
                what = recipe + with_views(views)
                start = [f"all {len(images)} images", what, str(seed), "frame mean"]
                f1, auc = map(_number, means)
                lines.append([*start, "", "", f1, "", "", auc, "", ""])
    return lines


def _all_protocols(paper, dataset, records):
    lines = []
    for record in records:
        recipe = record["recipe_name"] or ""
        recipe += f", seed {record['seed']}" if recipe else ""
        start = [_name(paper, dataset, record), recipe]
        for score in record["scores"]:
            cells = [_number(score[column]) for column in COLUMNS]
            if record.get("binary"):
                cells[COLUMNS.index("auc")] = ""
            lines.append([*start, score["region"], score["pooling"], *cells])
    heads = ("", "recipe", "region", "pooling", *HEADS)
    return table(heads, lines, 4)


def _by_recipe(records):
    """Groups records of one row by recipe and views: a group differs by seed alone."""
    groups = {}
    for name, views in itertools.product(RECIPE_NAMES, VIEWS):
        group = [r for r in records if (r["recipe_name"], r["views"]) == (name, views)]
        if group:
            groups[name, views] = group
    return groups


def _difference_lines(results, dataset):
    """Compares the papers' own networks with all, and their rows with them."""
    heads, pairs = [], []
    for paper in PAPERS:
        ours = _comparable(paper, results.get((paper, dataset), []))
        key = HEADLINES.get(paper, paper)
        own = [m for m in ours if m[1]["row"] == key]
        heads += own
        pairs += [(own[0], m) for m in ours if own and m is not own[0]]
    heads += _comparable("", results.get(("others", dataset), []))
    pairs = [*itertools.combinations(heads, 2), *pairs]
    seen, found = set(), []
    for (name, one), (other_name, other) in pairs:
        both = [_f1_by_image(one), _f1_by_image(other)]
        shared = [image for image in both[0] if image in both[1]]
        if (name, other_name) in seen or not shared:
            continue
        seen.add((name, other_name))
        values = [[scores[image] for image in shared] for scores in both]
        found.append((name, other_name, paired_bootstrap(*values)))
    adjusted = holm([gap.p for _, _, gap in found])
    return [
        [
            name,
            other,
            str(gap.images),
            f"{gap.mean:+.4f}",
            f"{gap.low:+.4f} to {gap.high:+.4f}",
            f"{gap.p:.4f}",
            f"{p:.4f}",
        ]
        for (name, other, gap), p in zip(found, adjusted, strict=True)
    ]


def _comparable(paper, records):
    """Returns `(name, record)` of one seed and view of each row.

    The folds of a row are one method, compared on all of their images, once all of
    them are there.
    """
    records = [r for r in records if r["seed"] in (0, None) and r["views"] == 1]
    found = []
    for record in records:
        same = ("row", "recipe_name")
        folds = [r for r in records if all(r[k] == record[k] for k in same)]
        if _all_folds(folds):
            images = [image for r in folds for image in r["per_image"]["fov"]]
            name = record["row"]
            record = record | {"fold": None, "per_image": {"fov": images}}
        else:
            name = label(record)
        name = f"{name}, {record['recipe_name']}" if paper else record["title"]
        found.append((name, record))
    return list(dict(found).items())


def _all_folds(records):
    return {r["fold"] for r in records} == set(range(5))


def _f1_by_image(record):
    return {
        image["name"]: image["f1"]
        for image in record["per_image"]["fov"]
        if image["f1"] is not None
    }


def holm(p_values):
    """Returns Holm's adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


# ------------------------------------------------------------------ curves


def _histories(records):
    return {
        f"{label(r)}, {r['recipe_name']}, seed {r['seed']}": r["history"]
        for r in records
        if r["views"] == 1 and r.get("history")
    }


INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT, LEFT, TOP = 640, 260, 50, 12


def curves(histories):
    """Draws the losses of runs as SVG text, the same for the same numbers.

    Args:
        histories: `{name: {"loss": [...], "val_loss": [...]}}`; val_loss, dashed,
            may be absent.

    Returns:
        str, a whole SVG file.
    """
    losses = [value for h in histories.values() for one in h.values() for value in one]
    top = max(losses) * 1.02
    longest = max(len(h["loss"]) for h in histories.values())
    parts = []
    for tick in range(6):
        y = TOP + HEIGHT * tick / 5
        parts.append(
            f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/><text x="{LEFT - 6}" '
            f'y="{y + 4:.1f}" text-anchor="end">{top * (1 - tick / 5):.2f}</text>'
        )
    for number, (name, history) in enumerate(histories.items()):
        ink = INK[number % len(INK)]
        for kind, values in history.items():
            points = " ".join(
                f"{LEFT + WIDTH * (i + 1) / longest:.1f},"
                f"{TOP + HEIGHT * (1 - value / top):.1f}"
                for i, value in enumerate(values)
            )
            dashes = ' stroke-dasharray="5 4"' if kind == "val_loss" else ""
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{ink}"{dashes}/>'
            )
        y = TOP + HEIGHT + 40 + 16 * number
        parts.append(
            f'<path d="M{LEFT} {y - 4}h24" stroke="{ink}"/>'
            f'<text x="{LEFT + 30}" y="{y}">{name}</text>'
        )
    parts.append(
        f'<text x="{LEFT + WIDTH}" y="{TOP + HEIGHT + 18}" text-anchor="end">'
        f"epoch {longest}; loss above, of validation dashed</text>"
    )
    height = TOP + HEIGHT + 40 + 16 * len(histories)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 10} '
        f'{height}" font-family="sans-serif" font-size="12" stroke-width="1.5">'
    )
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    body = "\n".join(parts).replace("<text ", '<text stroke="none" ')
    return f"{head}\n{ground}\n{body}\n</svg>\n"


# ------------------------------------------------------------------ Markdown


def table(heads, lines, words):
    """Returns a Markdown table whose columns after the first `words` are numbers."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def _number(value):
    return "" if value is None else f"{value:.4f}"


def _mean(values):
    """Returns the mean over seeds, and the standard deviation if there are several."""
    if len(values) < 2:
        return _number(*values or [None])
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


if __name__ == "__main__":
    sys.exit(main())
