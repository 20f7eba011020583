"""Renders the measured numbers of README.md, docs/results.md and docs/train.md.

    python experiments/tables.py            # writes what differs
    python experiments/tables.py --check    # exit status 1 if anything differs

From results/*.json; of docs/train.md the table of what was adapted. A number gets into
them by no other way: `tests/test_experiments.py` renders them again and compares.
"""

import argparse
import csv
import importlib
import itertools
import json
import sys

import numpy as np
from bootstrap import holm, paired_bootstrap
from charts import curves, image_chart
from records import (
    RESULTS,
    VIEWS,
    find_score,
    key_of,
    label,
    published,
    recipe_text,
    with_views,
)
from rows import RECIPE_NAMES, ROOT, start_digest
from shipping import weights_name

from saunet.data.datasets import DATASETS
from saunet.data.images import write_bytes
from saunet.models import FACTS
from saunet.training import changed_fields
from saunet.weights import CARD

PAPERS = ("sa_unet", "rsan", "sa_unet_v2", "unet_slides", "ag_net")
# The row a paper is about; the others of its tables are compared with it.
HEADLINES = {"unet_slides": "unet"}
BEGIN = "<!-- begin: rendered by `python experiments/tables.py`; edit nothing here -->"
END = "<!-- end -->"
COLUMNS = ("f1", "auc", "sensitivity", "specificity", "accuracy", "mcc", "jaccard")
HEADS = ("F1", "AUC", "sensitivity", "specificity", "accuracy", "MCC", "Jaccard")


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


def pages(results=None):
    """Returns `{path: text}` of all pages and curves that are rendered."""
    results = load_results() if results is None else results
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = {ROOT / "README.md": replace_block(readme, readme_block(results))}
    found[ROOT / "docs/results.md"] = results_page(results)
    training = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    found[ROOT / "docs/train.md"] = replace_block(training, adapted_block(results))
    for (paper, dataset), records in results.items():
        if paper in PAPERS and (histories := _histories(paper, dataset, records)):
            found[ROOT / f"docs/curves_{paper}_{dataset}.svg"] = curves(histories)
    for dataset in DATASETS:
        if methods := _shipped_methods(results, dataset):
            found[ROOT / f"docs/images_{dataset}.svg"] = image_chart(methods)
    return found


def load_results():
    """Returns `{(paper, dataset): [record, ...]}` of all results files."""
    found = {}
    for path in sorted(RESULTS.glob("[!.]*.json")):
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
# What a line of STARE's table is a score of.
OF_FOLDS = (
    "the 4 test images of a fold (observer: all 20; published: fold 4, taken to be the "
    "last four images)"
)


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
        counted = f"the {images} test images" if images else OF_FOLDS
        parts.append(f"### {DATASETS[dataset].title}, {counted}\n")
        parts.append(table(heads, lines, 1) + "\n")
    parts.append("### How the shipped weights were trained\n")
    heads = ("weights", "recipe", "loss", "computed in", "stored in", "device")
    heads += ("training images", "seed", "hours")
    parts.append(table(heads, _training_lines(results), 6) + "\n")
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
        lines.append([f"{label(record)}, published", *cells])
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
                recipe = record["recipe"]
                computed = recipe["precision"].replace("mixed_", "mixed ")
                stored = "float16" if "float16" in record["weights"] else "float32"
                facts = (len(record["images"]), record["seed"], record["hours"])
                start = [name, f"`{record['recipe_name']}`", recipe["loss"]]
                turns = [record, *record.get("continued", [])]
                devices = ", then ".join(dict.fromkeys(t["device"] for t in turns))
                lines.append([*start, computed, stored, devices, *map(str, facts)])
    return lines


def shipped(records, dataset):
    """Returns the records of weights that lie in `weights/`, any number of views."""
    runs = [key_of(r) for r in records if is_shipped(r, dataset)]
    return [r for r in records if key_of(r | {"views": 1}) in runs]


def is_shipped(record, dataset):
    """Returns whether a record is that of a card in `weights/`: run and scores."""
    path = ROOT / "weights" / weights_name(record, dataset) / CARD
    if not path.exists():
        return False
    card = json.loads(path.read_text(encoding="utf-8"))
    run = card["training"]
    theirs = [card["data"]["images"], *(run[name] for name in OF_A_RUN)]
    scores = [{k: one[k] for k in one if k not in ABOUT} for one in card["scores"]]
    ours = [record[name] for name in ("images", *OF_A_RUN)]
    return ours == theirs and scores == record["scores"]


OF_A_RUN = ("recipe", "seed", "device", "versions", "commit", "hours")
ABOUT = ("dataset", "split")


def _name(paper, dataset, record):
    title = record["title"] if paper == "others" else None
    return (title or f"`{weights_name(record, dataset)}`") + with_views(record["views"])


# ------------------------------------------------------------------ docs/train.md


def adapted_block(results):
    """Returns the table of rows that began with weights of DRIVE, and by new ones."""
    heads = ("dataset", "network", "recipe", "F1", "AUC", "steps", "hours")
    lines = []
    for (paper, dataset), records in results.items():
        records = [r for r in records if paper in PAPERS and r["views"] == 1]
        adapted = {
            (r["row"], r["fold"]) for r in records if r["recipe_name"] == "finetune"
        }
        for record in records:
            if (record["row"], record["fold"]) not in adapted:
                continue
            where = DATASETS[dataset].title
            if record["fold"] is not None:
                where += f", fold {record['fold']}"
            recipe = record["recipe"]
            score = find_score(record, "frame", "mean")
            title = _recipe_title(paper, dataset, record)
            title += f", seed {record['seed']}" if record["seed"] else ""
            cells = [where, f"`{record['row']}`", title]
            cells += [_number(score["f1"]), _number(score["auc"])]
            a_round = recipe["steps_per_epoch"]  # None: each copy once
            steps = f"{recipe['epochs'] * a_round:,}" if a_round else ""
            lines.append([*cells, steps, f"{record['hours']:.1f}"])
    return table(heads, sorted(lines), 3) + "\n"


# ------------------------------------------------------------------ docs/results.md


def results_page(results):
    """Returns docs/results.md."""
    trained = {r.get("recipe_name") for rows in results.values() for r in rows}
    parts = [INTRODUCTION.format(untrained="" if "paper" in trained else UNTRAINED)]
    for paper in PAPERS:
        module = importlib.import_module(paper)
        title = module.__doc__.partition("\n")[0].removesuffix(".")
        parts.append(f"## {title}")
        parts.append(
            f"`experiments/{paper}.py`, which says where each setting is from."
        )
        if costs := _cost_lines(paper):
            heads = ("network", "published in", *COSTS)
            heads += tuple(f"published {c}" for c in COSTS)
            parts.append(table(heads, costs, 2))
        parts += [row["note"] for row in _costs(paper) if row["note"]]
        for dataset in dict.fromkeys(row.dataset for row in module.ROWS):
            records = results.get((paper, dataset), [])
            rows = [row for row in module.ROWS if row.dataset == dataset]
            parts.append(f"### {DATASETS[dataset].title}")
            humans = results.get(("others", dataset), [])
            parts.append(_paper_table(paper, dataset, rows, records, humans))
            if len(records) > 1:
                parts.append(_all_protocols(paper, dataset, records))
            if _histories(paper, dataset, records):
                parts.append(f"![Training curves](curves_{paper}_{dataset}.svg)")
            if lost := [r for r in records if r["views"] == 1 and not r["history"]]:
                names = ", ".join(_run_title(paper, dataset, r) for r in lost)
                parts.append(f"No curve of {names}: the log was not kept.")
            if note := getattr(module, "NOTES", {}).get(dataset):
                parts.append(note)
    parts += [PUBLISHED, table(PUBLISHED_HEADS, _published_lines(), 5)]
    parts.append("## Others, by the same scorer")
    for (paper, dataset), records in results.items():
        if paper == "others":
            parts.append(f"### {DATASETS[dataset].title}")
            parts.append(_all_protocols(paper, dataset, records))
    parts.append(IMAGES)
    for dataset in DATASETS:
        if methods := _shipped_methods(results, dataset):
            parts.append(f"### {DATASETS[dataset].title}")
            heads = ("", "best image", "worst image", "F1 of the best", "of the worst")
            parts.append(table(heads, _extreme_lines(methods), 3))
            parts.append(f"![F1 of each image](images_{dataset}.svg)")
    parts.append(DIFFERENCES)
    for dataset in DATASETS:
        if lines := _difference_lines(results, dataset):
            parts += [f"### {DATASETS[dataset].title}", table(COMPARED, lines, 2)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Results

<!-- rendered by `python experiments/tables.py`; edit nothing on this page -->

Every score is read from `experiments/results/*.json`, which also holds the scores of
each image, the recipe, the versions and the device; published ones are in
`experiments/published.csv`, [all of them below](#all-published-scores), and
`experiments/published_costs.csv`. "SA-UNet slides" are
its authors' own on their paper; "U-Net slides" are those of De Lange, Van de Sompele
and Nijs, "Image Segmentation: Exploring U-Nets"; lwnet is the network of Galdran et al.
(https://github.com/agaldran/lwnet), whose public maps are scored here.

Of CHASE_DB1 and STARE, which have no official ones, the fields of view are found in the
images. A row that is not trained yet has no score. The threshold is 0.5 for all; no
test image chose it, a weight or an epoch. "8 views": the mean over an image's flips and
quarter turns, which is `--tta`. The `difference` is ours minus the published score, by
the protocol that was published; where the source does not say by which protocol, there
is none.

There are four recipes:

- `paper`: the authors' settings.{untrained}
- `budget`, half an hour to four hours on two CPU cores: the recipe `cpu` of `saunet
  train` (AdamW, one cycle, random views, DropBlock 0.1) with the loss of the paper; a
  larger network gets fewer steps, a fold of STARE half the batch.
- `best`, ours: `budget` with twice the steps, half of the views upright (turned by
  quarter turns alone), and the loss BCE and MCC. It was made after the test scores of
  `budget` were known. `budget` scored no better on the training images than on the test
  images: so `best` trains longer. And SA-UNet by `budget` drew a false vessel along the
  edge of DRIVE's frame, five to ten pixels inside it, which costs F1 in the frame and
  none in the field of view: turned views never show that edge as it is, upright ones
  do.
- `finetune`: 1,000 more steps by BCE and MCC, from the network's weights for DRIVE
  shipped at the time; the published networks for STARE and CHASE_DB1 saw nothing of
  DRIVE.

Where a run departs from its recipe otherwise, that stands after the recipe's name; a
`start_sha256` is of weights no longer shipped.

To train a row again, its results beside the recorded ones (by `budget`; add `--recipe
best` for the row by `best`):

```
python experiments/rsan.py --data-dir DATA --dataset drive --rows rsan \\
    --results runs/results
```

`sa_unet_v2_fold0` is `--dataset stare --rows sa_unet_v2 --folds 0`. Without `--results`
a row that is recorded is refused, with `--resume` it is shown.

`python experiments/maps.py --data-dir DATA` writes the vessel maps of the shipped
weights on their test images, an archive of them for a release, and a picture of the
best and the worst image. No photograph of a data set is part of this repository."""

# While no record is by that recipe.
UNTRAINED = """ No row is trained by them yet, so a `difference`
  is one of recipe and network together."""

PUBLISHED = """## All published scores

As the sources print them: of the rows above by their keys, of others by name. Region
and pooling are by the source or its authors' code, empty where neither says. Scores of
different sources can be of different images, regions and poolings."""

PUBLISHED_HEADS = ("dataset", "network", "published in", "region", "pooling")
PUBLISHED_HEADS += HEADS

IMAGES = """## Image by image

F1 inside the field of view of each test image, by the shipped weights, one view, the
second observer and others' maps; images in the order of the first method's F1. The
folds of STARE are one method: each image by the network that never saw it."""

DIFFERENCES = """## Which differences are more than chance among images

F1 of each test image inside the field of view, first method minus second, seed 0. The
interval is the paired bootstrap over images (10,000 draws), p that of the sign-flip
test; Holm's p corrects it for the number of comparisons in the table. Where that is
below 0.05, other photographs of the kind would most likely show the difference, too.
What another training seed would change this does not say: two networks trained once
each can differ by more than their kind does."""

COMPARED = ("first", "second", "images", "mean difference of F1")
COMPARED += ("95 % interval", "p", "Holm's p")
COSTS = ("parameters", "trainable", "GFLOPs")


def _costs(paper):
    """Returns the rows of `published_costs.csv` that a paper gives."""
    with (RESULTS.parent / "published_costs.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["paper"] == paper]


def _cost_lines(paper):
    """Returns a line for each network whose cost the paper gives: ours, published."""
    lines = []
    for row in _costs(paper):
        facts = FACTS[row["key"]]
        ours = (f"{facts.total:,}", f"{facts.trainable:,}", f"{facts.gflops:,.3f}")
        given = (row["parameters"], row["trainable"], row["gflops"])
        given = (f"{int(n):,}" if n.isdecimal() else n for n in given)
        lines.append([f"`{row['key']}`", row["source"], *ours, *given])
    return lines


def _published_lines():
    """Returns a line for each entry of `published.csv`, by dataset."""
    with (RESULTS.parent / "published.csv").open(newline="", encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    lines = []
    for dataset in DATASETS:
        for entry in (e for e in entries if e["dataset"] == dataset):
            name = entry["row"] if entry["paper"] == "cited" else f"`{entry['row']}`"
            where = [entry[k] for k in ("source", "region", "pooling")]
            scores = [entry[k] for k in COLUMNS]
            lines.append([DATASETS[dataset].title, name, *where, *scores])
    return lines


def _paper_table(paper, dataset, rows, records, humans):
    """Returns the paper's table: ours, published, difference, by its protocol."""
    theirs = published(paper)
    entries = [theirs.get((dataset, _row_name(row)), [{}])[0] for row in rows]
    known = [entry for entry in entries if entry.get("region")]
    protocol = (known[0]["region"], known[0]["pooling"]) if known else PROTOCOL
    heads = ["row", "recipe", "seeds", "parameters", "GFLOPs"]
    heads += ["F1", "published", "difference", "AUC", "published", "difference"]
    lines = []
    for row, entry in zip(rows, entries, strict=True):
        facts = FACTS[row.paper.model]
        costs = [f"{facts.total:,}", f"{facts.gflops:,.3f}"]
        ran = [r for r in records if (r["row"], r["fold"]) == (row.key, row.fold)]
        title = f"{row.title} (`{_row_name(row)}`)"
        for (recipe, views, *_), group in (_by_recipe(ran) or {("", 1): []}).items():
            what = recipe + with_views(views) or "not trained"
            changed = departures(row, group[0]) if group else []
            what += "".join(f", `{d}`" for d in changed)
            seeds = ", ".join(str(r["seed"]) for r in group)
            cells = _compared(group, protocol, entry)
            lines.append([title, what, seeds, *costs, *cells, entry.get("source", "")])
    lines += _over_folds(rows, records, protocol)
    for human in (r for r in humans if r.get("binary")):
        # On all images of STARE, whose folds share them out.
        f1 = _number(find_score(human, *protocol)["f1"])
        lines.append([human["title"], *[""] * 4, f1, *[""] * 6])
    caption = f"{TITLES[protocol[0]]}, {POOLED[protocol[1]]}"
    unsaid = any(entries) and not known
    caption += "; the protocol of the published scores is not known." if unsaid else "."
    return f"{caption}\n\n{table([*heads, 'published in'], lines, 3, 1)}"


# Of a table where no protocol was published.
PROTOCOL = ("fov", "pooled")
TITLES = {"fov": "Inside the field of view", "frame": "The whole frame"}
POOLED = {"pooled": "pooled pixels", "mean": "mean of the images"}


def _row_name(row):
    return label({"row": row.key, "fold": row.fold})


def departures(row, record):
    """Returns `field=value` of each field in which a run's recipe is not the row's.

    A recipe that was improved leaves runs behind that had the former one.
    """
    recipe = row.recipe(record["recipe_name"], record["seed"])
    changed = changed_fields(record["recipe"], recipe)
    parts = [f"{name}={then}" for name, (then, _) in changed.items()]
    began = record.get("start_sha256")
    if began != start_digest(recipe):
        parts.append(f"start_sha256={began[:8]}")
    return parts


def _compared(group, protocol, entry):
    """Returns ours, published and difference of F1 and of AUC, as cells."""
    cells = []
    for column in ("f1", "auc"):
        values = [find_score(record, *protocol)[column] for record in group]
        known = entry.get(column)
        same = (entry.get("region"), entry.get("pooling")) == protocol
        gap = ""
        if same and values and known is not None:
            gap = f"{np.mean(values) - known:+.4f}"
        cells += [_mean(values), _number(known), gap]
    return cells


def _over_folds(rows, records, protocol):
    """Returns a line for each row, recipe and seed whose folds are all there."""
    region, pooling = protocol
    if pooling != "mean":
        return []  # folds share no pixels, but a mean of all images they have
    lines = []
    for row in rows:
        own = [r for r in records if r["row"] == row.key] if row.fold == 0 else []
        for (recipe, views, *_), group in _by_recipe(own).items():
            for seed in sorted({r["seed"] for r in group}):
                parts = [r for r in group if r["seed"] == seed]
                if _all_folds(parts):
                    images = [i for r in parts for i in r["per_image"][region]]
                    f1, auc = (np.mean([i[c] for i in images]) for c in ("f1", "auc"))
                    what = [recipe + with_views(views), str(seed), "", ""]
                    title = f"{row.title}, all {len(images)} images"
                    scores = [_number(f1), "", "", _number(auc), "", "", ""]
                    lines.append([title, *what, *scores])
    return lines


def _all_protocols(paper, dataset, records):
    lines = []
    for record in records:
        recipe = ""
        if paper in PAPERS:
            recipe = f"{_recipe_title(paper, dataset, record)}, seed {record['seed']}"
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
        for record in records:
            if (record["recipe_name"], record["views"]) == (name, views):
                key = name, views, recipe_text(record)
                groups.setdefault(key, []).append(record)
    return groups


def _difference_lines(results, dataset):
    """Compares the papers' own networks with all, and their rows with them."""
    heads, pairs = [], []
    for paper in PAPERS:
        ours = _comparable(paper, dataset, results.get((paper, dataset), []))
        key = HEADLINES.get(paper, paper)
        own = [m for m in ours if m[1]["row"] == key]
        heads += own
        pairs += itertools.product(own, [m for m in ours if m not in own])
    heads += _comparable("", dataset, results.get(("others", dataset), []))
    pairs = [*itertools.combinations(heads, 2), *pairs]
    found = []
    for (name, one), (other_name, other) in pairs:
        both = [_f1_by_image(one), _f1_by_image(other)]
        shared = [image for image in both[0] if image in both[1]]
        recipes = {one["recipe_name"], other["recipe_name"]} - {None}
        # Networks by one recipe, or one network by two.
        if not shared or (len(recipes) > 1 and one["row"] != other["row"]):
            continue
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


def _comparable(paper, dataset, records):
    """Returns `(name, record)` of one seed and view of each row.

    The folds of a row are one method, compared on all of their images, once all of
    them are there.
    """
    records = [r for r in records if r["seed"] in (0, None) and r["views"] == 1]
    found = []
    for record in records:
        folds = [r for r in records if _method_of(r) == _method_of(record)]
        if _all_folds(folds):
            images = [image for r in folds for image in r["per_image"]["fov"]]
            name = record["row"]
            record = record | {"fold": None, "per_image": {"fov": images}}
        else:
            name = label(record)
        if paper:
            name = f"{name}, {_recipe_title(paper, dataset, record)}"
        else:
            name = record["title"]
        found.append((name, record))
    return list(dict(found).items())


def _method_of(record):
    return record["row"], record["recipe_name"], recipe_text(record)


def _recipe_title(paper, dataset, record):
    """Returns the recipe's name, and in what the run departs from it."""
    parts = departures(_row_of(paper, dataset, record), record)
    return ", ".join([record["recipe_name"], *(f"`{part}`" for part in parts)])


def _row_of(paper, dataset, record):
    """Returns the `Row` of a record; any fold's of folds in one."""
    (row, *_) = (
        row
        for row in importlib.import_module(paper).ROWS
        if (row.key, row.dataset) == (record["row"], dataset)
        and record["fold"] in (None, row.fold)
    )
    return row


def _all_folds(records):
    return {r["fold"] for r in records} == set(range(5))


def _f1_by_image(record):
    return {
        image["name"]: image["f1"]
        for image in record["per_image"]["fov"]
        if image["f1"] is not None
    }


# ------------------------------------------------------------------ images


def _shipped_methods(results, dataset):
    """Returns `{name: {image: F1}}` of the shipped weights and of others' maps."""
    methods = {}
    for (paper, name), records in results.items():
        if name == dataset and paper in PAPERS:
            for record in shipped(records, dataset):
                if record["views"] == 1:
                    title = f"{record['row']}_{dataset}"
                    methods.setdefault(title, {}).update(_f1_by_image(record))
    if methods:
        for record in results.get(("others", dataset), ()):
            methods[record["title"]] = _f1_by_image(record)
    return methods


def _extreme_lines(methods):
    lines = []
    for name, scores in methods.items():
        best, worst = max(scores, key=scores.get), min(scores, key=scores.get)
        lines.append([name, best, worst, *map(_number, (scores[best], scores[worst]))])
    return lines


def _histories(paper, dataset, records):
    return {
        _run_title(paper, dataset, r).replace("`", ""): r["history"]
        for r in records
        if r["views"] == 1 and r.get("history")
    }


def _run_title(paper, dataset, record):
    recipe = _recipe_title(paper, dataset, record)
    return f"{label(record)}, {recipe}, seed {record['seed']}"


# ------------------------------------------------------------------ Markdown


def table(heads, lines, words, last=0):
    """Returns a Markdown table: columns of words, of numbers, and `last` of words."""
    numbers = len(heads) - words - last
    rule = ["---"] * words + ["---:"] * numbers + ["---"] * last
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
