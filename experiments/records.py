"""Records of runs and published scores.

A record is a row of `experiments/results/<paper>_<dataset>.json`:

paper, dataset, rows: [{
row, title, seed, recipe_name, views     what it is
fold                                     STARE alone
parameters, gflops                       counted; GFLOPs at 592x592
recipe, images, validation, weights      what was trained on what
fov_diameter                             of the training images, pixels
start_images, start_sha256               of weights that the run began with
versions, backend, device, commit, date, hours
continued                                what went on with a stopped run, if another
engine                                   what computed the scored maps, its version
history                                  loss (and val_loss) of each epoch
scores                                   one entry a protocol, four in all
per_image                                region -> one entry an image
}]
"""

import csv
import json
from pathlib import Path

from saunet.quiet import load_framework

load_framework()  # before the rooms below do it, aloud

from saunet.data.images import writable_folder, write_bytes
from saunet.data.lock import lock_folder
from saunet.errors import InputError
from saunet.evaluation import check_labelled, summarise_all, to_json
from saunet.training import stored_recipe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
THRESHOLD = 0.5
# Scored as it is, and, in a row of its own, as `saunet predict --tta` averages.
VIEWS = (1, 8)
# What tells two rows of a results file apart, besides their recipes.
IDENTITY = ("row", "fold", "recipe_name", "seed", "views")


def score_maps(maps, samples):
    """Scores maps by all four protocols.

    Args:
        maps: List of `(H, W)` probabilities in [0, 1], one a sample.
        samples: List of `Sample`.

    Returns:
        The four protocols' scores, and the images' ones of each region.
    """
    check_labelled(samples)

    def items():
        for values, sample in zip(maps, samples, strict=True):
            yield sample.name, values, sample.vessels, sample.fov

    scores, per_image = [], {}
    for (region, _), result in summarise_all(items, threshold=THRESHOLD).items():
        per_image[region] = result.pop("per_image")
        scores.append(result)
    # Through JSON, where what is undefined is null.
    return json.loads(to_json(scores)), json.loads(to_json(per_image))


def key_of(record):
    """Returns what tells a record from every other one of its file.

    A recipe that was changed is another one, of the same name, and so is one that
    began with other weights. Its precision does not count: "auto" becomes that of the
    machine.
    """
    return (*(record[name] for name in IDENTITY), recipe_text(record))


def recipe_text(record):
    """Returns a record's recipe, less seed and precision, as text that compares."""
    if "recipe" not in record:
        return ""  # of others' maps
    chosen = {"seed": None, "precision": None}
    began = {"start_sha256": record.get("start_sha256")}
    return json.dumps(stored_recipe(record["recipe"]) | chosen | began, sort_keys=True)


def read_results(path, paper, dataset):
    """Returns the content of a results file, or an empty one if there is none."""
    path = Path(path)
    if not path.exists():
        return {"paper": paper, "dataset": dataset, "rows": []}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        [key_of(record) for record in results["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a file of results ({error!r}): restore it from its origin"
        ) from error
    return results


def add_results(path, paper, dataset, records):
    """Adds rows to a results file; one with the same identity is replaced."""
    path = Path(path)
    writable_folder(path.parent, "--results")
    with lock_folder(path.parent, wait=True):  # rows may be trained side by side
        results = read_results(path, paper, dataset)
        rows = {key_of(record): record for record in results["rows"]}
        rows |= {key_of(record): record for record in records}
        text = json.dumps({**results, "rows": list(rows.values())}, indent=1)
        write_bytes(path, (text + "\n").encode())


def published(paper):
    """Returns `{(dataset, label): [entry, ...]}` of `published.csv`."""
    found = {}
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["paper"] != paper:
                continue
            scores = {
                name: float(line[name]) for name in PUBLISHED_SCORES if line[name]
            }
            entry = {k: line[k] for k in ("region", "pooling", "source")} | scores
            found.setdefault((line["dataset"], line["row"]), []).append(entry)
    return found


PUBLISHED_SCORES = (
    "sensitivity",
    "specificity",
    "f1",
    "accuracy",
    "auc",
    "mcc",
    "jaccard",
)


def comparison(records, theirs):
    """Returns a table of text: ours, published, difference, of each published score.

    Args:
        records: List of `(dataset, record)`.
        theirs: What `published` returns.
    """
    line = "{:<28}{:<13}{:<13}{:>8}{:>11}{:>12}".format
    lines = [line("row", "protocol", "score", "ours", "published", "difference")]
    for dataset, record in records:
        name = label(record) + with_views(record["views"])
        entries = theirs.get((dataset, label(record)), [])
        # Without the protocol of a published score a difference would mean nothing.
        entries = [e for e in entries if e["region"]] or [OURS_ALONE]
        for entry in entries:
            ours = find_score(record, entry["region"], entry["pooling"])
            alone = entry is OURS_ALONE
            for score_name in (n for n in PUBLISHED_SCORES if alone or n in entry):
                value, published_one = ours[score_name], entry.get(score_name)
                # Undefined, such as the MCC of a map without a vessel, is None.
                cells = ["undefined" if value is None else f"{value:.4f}", "", ""]
                if published_one is not None:
                    cells[1] = f"{published_one:.4f}"
                    if value is not None:
                        cells[2] = f"{value - published_one:+.4f}"
                protocol = f"{entry['region']} {entry['pooling']}"
                lines.append(line(name, protocol, score_name, *cells))
    return "\n".join(lines)


def with_views(views):
    """Returns what a table adds to the name of a row that is a mean over views."""
    return f", {views} views" if views > 1 else ""


def label(record):
    """Returns the row's name, with its fold if it has one: as `published.csv` says."""
    fold = record["fold"]
    return record["row"] if fold is None else f"{record['row']}_fold{fold}"


OURS_ALONE = {"region": "frame", "pooling": "pooled"}


def find_score(record, region, pooling):
    """Returns the scores of a record by one protocol."""
    (found,) = (
        score
        for score in record["scores"]
        if (score["region"], score["pooling"]) == (region, pooling)
    )
    return found
