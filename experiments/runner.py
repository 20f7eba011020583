"""What the scripts of the papers share: plan, train, score, record, ship, compare.

A script is data: a `Row` for each line of its paper's tables. Results of all papers
have one form, `experiments/results/<paper>_<dataset>.json`:

    paper, dataset, rows: [{
        row, title, seed, recipe_name, views     what it is; no two rows have the same
        fold                                     STARE alone
        parameters, gflops                       counted; GFLOPs at 592x592
        recipe, images, validation, weights      what was trained on what
        fov_diameter                             of the training images, pixels
        versions, backend, device, commit, date, hours
        history                                  loss (and val_loss) of each epoch
        scores                                   one entry a protocol, four in all
        per_image                                region -> one entry an image
    }]

The test images choose nothing: of a recipe that holds images out, the epoch of the
lowest validation loss is scored; of any other, the last one. The threshold is 0.5.
"""

import argparse
import csv
import io
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py

from saunet.quiet import load_framework

load_framework()  # before the rooms below do it, aloud

from saunet.data.datasets import DATASETS, load_dataset
from saunet.data.images import write_bytes
from saunet.data.padding import padded_size
from saunet.distribution import DEVICES
from saunet.errors import InputError, RunError
from saunet.evaluation import (
    REGIONS,
    check_labelled,
    evaluate,
    mean_scores,
    to_json,
)
from saunet.inference import PADDING, Segmenter
from saunet.models import FACTS, build_model
from saunet.profiling import count_flops, count_parameters
from saunet.training import RECIPES, Recipe, train
from saunet.weights import CARD, load_weights, read_card, sha256_of, write_card

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SHIPPED = ROOT / "weights"
THRESHOLD = 0.5
SHIPPED_BYTES = 3_000_000
RECIPE_NAMES = ("paper", "budget", "best")
# Scored as it is, and, in a row of its own, as `saunet predict --tta` averages.
VIEWS = (1, 8)
# What tells two rows of a results file apart.
IDENTITY = ("row", "fold", "recipe_name", "seed", "views")


@dataclass(frozen=True)
class Row:
    """A line of a paper's table.

    Attributes:
        key: Name of the row in files; most often the network's key.
        title: What the paper calls it.
        dataset: Key of `DATASETS`.
        paper: The authors' `Recipe`.
        changes: Fields that make this row what it is under every recipe, such as
            `{"augmentation": "none"}`; the network and the loss do so anyway.
        fold: Of STARE; which images are the test part.
        test_kwargs: Options of the network that differ at the test.
        test_placement: Padding at the test, where it is not that of training.
    """

    key: str
    title: str
    dataset: str
    paper: Recipe
    changes: dict = field(default_factory=dict)
    fold: int | None = None
    test_kwargs: dict = field(default_factory=dict)
    test_placement: str | None = None

    def recipe(self, name, seed=0):
        """Returns the `Recipe` of one of `RECIPE_NAMES`."""
        made = {"paper": lambda row: row.paper, "budget": budget, "best": best}
        return replace(made[name](self), seed=seed)

    def run_name(self, name, seed):
        """Returns the name of the folder of a run."""
        parts = [self.key, self.dataset, name]
        parts += [] if self.fold is None else [f"fold{self.fold}"]
        return "_".join(parts + ([f"seed{seed}"] if seed else []))


def budget(row):
    """Two CPU cores and one to four hours: the recipe `cpu` with the row's own loss.

    The number of steps is what SA-UNet's GFLOPs allow on DRIVE, so that a larger
    network or photograph costs no more computing, and sees fewer views. The folds of
    STARE, five networks for one row, have half the batch and as many steps.
    """
    kwargs = dict(row.paper.model_kwargs)
    if "rate" in kwargs:
        kwargs["rate"] = 0.1
    base = replace(
        RECIPES["cpu"],
        model=row.paper.model,
        model_kwargs=kwargs,
        loss=row.paper.loss,
        loss_kwargs=row.paper.loss_kwargs,
    )
    gflops = FACTS[row.paper.model].gflops
    batch_size = 8 if gflops < 100 and row.fold is None else 4
    whole = _whole_pixels(row.dataset)
    crops = base.epochs - base.whole_epochs

    def pixels(batch, whole):
        views = crops * batch * base.crop**2
        return views + base.whole_epochs * max(1, batch // 4) * whole

    allowed = 100 * 26.6 * pixels(8, _whole_pixels("drive"))
    steps = int(allowed / (gflops * pixels(batch_size, whole)))
    changes = {"batch_size": batch_size, "steps_per_epoch": min(100, steps)}
    return replace(base, **(changes | row.changes))


def best(row):
    """Ours: twice the steps of `budget`, half of the views upright, BCE and MCC.

    By what networks of `budget` do on DRIVE's training images: there they score as on
    the test, so they are trained too little, and SA-UNet takes the rim of the frame for
    a vessel, which no view that is turned by any angle shows as it is.
    """
    longer = {
        "loss": "bce_mcc",
        "loss_kwargs": {},
        "upright": 0.5,
        "epochs": 120,
        "whole_epochs": 30,
        "learning_rates": ((120, 2e-3),),
    }
    return replace(budget(row), **(longer | row.changes))


def _whole_pixels(dataset):
    height, width = padded_size(*DATASETS[dataset].size)
    return height * width


# ------------------------------------------------------------------ command line


def run(paper, rows, argv=None):
    """Runs a paper's script: parses the command line and does what it says.

    Args:
        paper: Key of the paper; begins the names of its results.
        rows: Sequence of `Row`.
        argv: List of str; the command line's by default.

    Returns:
        The exit status: 0, 1 where a training had to end, or 2 after one line about
        bad input.
    """
    try:
        args = _parse(paper, rows, argv)
        chosen = _choose(rows, args)
        jobs = [(row, args.recipe, seed) for row in chosen for seed in args.seeds]
        _print_plan(jobs)
        if args.dry_run:
            return 0
        data = _check_jobs(paper, jobs, args)
        done, status = [], 0
        for number, (row, name, seed) in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {row.run_name(name, seed)}", flush=True)
            try:
                records = _run_job(paper, row, name, seed, args, *data[_part(row)])
            except RunError as error:  # of this row: the others can go on
                print(f"error: {error}", file=sys.stderr)
                status = 1
            else:
                done += [(row.dataset, record) for record in records]
        print()
        print(comparison(done, published(paper)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parse(paper, rows, argv):
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    keys = list(dict.fromkeys(row.key for row in rows))
    parser = argparse.ArgumentParser(
        description=f"Train and score the rows of {paper}: {', '.join(keys)}."
    )
    parser.add_argument("--data-dir", help="the dataset's folder, or the one above")
    parser.add_argument("--dataset", nargs="+", choices=datasets, default=datasets)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: all")
    folds = sorted({row.fold for row in rows} - {None})
    if folds:
        parser.add_argument(
            "--folds",
            nargs="+",
            type=int,
            choices=folds,
            default=folds,
            metavar="K",
            help="of the rows that have folds; default: all",
        )
    parser.add_argument("--recipe", choices=RECIPE_NAMES, default="budget")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--runs", default="runs", help="where run folders are kept")
    parser.add_argument("--results", default=str(RESULTS), help="where JSON is written")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what is there"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument(
        "--devices", choices=DEVICES, default="one", help="all: every GPU there is"
    )
    parser.add_argument(
        "--ship", action="store_true", help="put the weights into weights/, with a card"
    )
    return parser.parse_args(argv)


def _choose(rows, args):
    keys = list(dict.fromkeys(row.key for row in rows))
    for key in args.rows or ():
        if key not in keys:
            raise InputError(f"--rows {key}: no such row; there are {', '.join(keys)}")
    chosen = [
        row
        for row in rows
        if row.dataset in args.dataset
        and row.key in (args.rows or keys)
        and (row.fold is None or row.fold in args.folds)
    ]
    if not chosen:
        raise InputError(
            f"no row {' or '.join(args.rows)} of {' or '.join(args.dataset)}: leave "
            "out --rows or --dataset"
        )
    return chosen


def _print_plan(jobs):
    print(f"{'run':<44}{'parameters':>12}{'GFLOPs':>10}{'hours':>8}")
    total = 0.0
    for row, name, seed in jobs:
        recipe = row.recipe(name, seed)
        facts = FACTS[recipe.model]
        hours = estimate_hours(recipe, row.dataset)
        total += hours
        print(
            f"{row.run_name(name, seed):<44}{facts.total:>12,}{facts.gflops:>10.3f}"
            f"{hours:>8.1f}"
        )
    print(
        f"about {total:.1f} hours in all on 2 CPU cores; a GPU is not in the estimate"
    )


def estimate_hours(recipe, dataset):
    """Returns the hours a run takes on two CPU cores, at most (no early stopping).

    From the measured seconds of a step on 4x128x128 pixels, in proportion.
    """
    with (ROOT / "benchmarks/results/one_epoch.csv").open(newline="") as file:
        times = {
            row["model"]: float(row["seconds_per_step"]) for row in csv.DictReader(file)
        }
    whole = _whole_pixels(dataset)
    images = len(DATASETS[dataset].train) or 16
    held_out = recipe.validation
    images -= held_out if isinstance(held_out, int) else len(held_out)
    copies = 13 if recipe.augmentation == "thirteen" else 1
    if recipe.augmentation == "random" and recipe.crop:
        crops = recipe.epochs - recipe.whole_epochs
        batch = max(1, recipe.batch_size // 4)
        pixels = crops * recipe.batch_size * recipe.crop**2
        pixels = (pixels + recipe.whole_epochs * batch * whole) * recipe.steps_per_epoch
    elif recipe.steps_per_epoch:
        pixels = recipe.epochs * recipe.steps_per_epoch * recipe.batch_size * whole
    else:
        pixels = recipe.epochs * images * copies * whole
    return pixels / (4 * 128**2) * times[recipe.model] / 3600


# ------------------------------------------------------------------ one run


def _check_jobs(paper, jobs, args):
    """Raises InputError for whatever would end a job after the hours of others.

    Returns:
        `{(dataset, fold): (training samples, test samples)}`.
    """
    if args.data_dir is None:
        raise InputError("--data-dir is missing: give the folder of the datasets")
    if args.ship and len(args.seeds) > 1:
        raise InputError(
            f"--ship takes the weights of one seed, received {len(args.seeds)}: ship "
            "one of them afterwards, with --resume"
        )
    data = {}
    for row, name, seed in jobs:
        path = _results_path(paper, row, args)
        stored = _stored(path, paper, row, name, seed)
        folder = Path(args.runs) / row.run_name(name, seed)
        if stored and not args.resume:
            raise InputError(
                f"{path} already holds {row.run_name(name, seed)}: add --resume to "
                "leave it as it is, or choose another seed with --seeds"
            )
        if args.ship:
            _check_place(row, folder)
        if _part(row) not in data:
            parts = [
                load_dataset(row.dataset, args.data_dir, part, fold=row.fold)
                for part in ("train", "test")
            ]
            check_labelled(parts[1])
            data[_part(row)] = parts
    return data


def _part(row):
    return row.dataset, row.fold


def _results_path(paper, row, args):
    return Path(args.results) / f"{paper}_{row.dataset}.json"


def _stored(path, paper, row, name, seed):
    """Returns the rows of a run that a results file holds: all of them, or none."""
    records = {key_of(r): r for r in read_results(path, paper, row.dataset)["rows"]}
    wanted = [(row.key, row.fold, name, seed, views) for views in VIEWS]
    return [records[k] for k in wanted] if all(k in records for k in wanted) else []


def _run_job(paper, row, name, seed, args, samples, tests):
    """Trains, scores and records one run; returns its rows, one a number of views."""
    path = _results_path(paper, row, args)
    folder = Path(args.runs) / row.run_name(name, seed)
    stored = _stored(path, paper, row, name, seed)
    if stored and not (args.ship and folder.exists()):
        print(f"already in {path}")
        return stored
    recipe = row.recipe(name, seed)
    resume = args.resume and (folder / "run.json").exists()
    train(recipe, samples, folder, resume=resume, devices=args.devices)
    records = [
        record_of(row, name, recipe, folder, tests, views, seed) for views in VIEWS
    ]
    add_results(path, paper, row.dataset, records)
    print(f"written to {path}")
    if args.ship:
        ship(records[0], row, folder)
    return records


def record_of(row, name, recipe, folder, tests, views, seed):
    """Returns the results row of a finished run: see the head of this file."""
    folder = Path(folder)
    run = json.loads((folder / "run.json").read_text())
    weights = "best.weights.h5" if run["validation"] else "last.weights.h5"
    weights = shippable(folder / weights).name
    segmenter = make_segmenter(row, name, recipe, folder / weights)
    model = segmenter.model
    scores, per_image = score(segmenter, tests, views)
    return {
        "row": row.key,
        "title": row.title,
        "fold": row.fold,
        "recipe_name": name,
        "seed": seed,
        "views": views,
        "parameters": count_parameters(model),
        "gflops": round(count_flops(model, (592, 592, 3)) / 1e9, 3),
        "weights": weights,
        **run,
        "history": _history(folder / "log.csv"),
        "scores": scores,
        "per_image": per_image,
    }


def make_segmenter(row, name, recipe, weights):
    """Returns the `Segmenter` of a run, in float32, as users load it."""
    model = build_model(recipe.model, **_test_kwargs(row, name, recipe))
    load_weights(model, weights)
    padding = _test_padding(row, name, recipe)
    return Segmenter(model, threshold=THRESHOLD, padding=padding)


def _test_kwargs(row, name, recipe):
    # What the authors test with belongs to their recipe alone.
    return recipe.model_kwargs | (row.test_kwargs if name == "paper" else {})


def _test_padding(row, name, recipe):
    # Random views are of the photograph's middle, whatever `placement` says.
    trained = "centered" if recipe.augmentation == "random" else recipe.placement
    tested = row.test_placement if name == "paper" else None
    return {**PADDING, "placement": tested or trained}


def score(segmenter, samples, views=1):
    """Returns the four protocols' scores, and the images' ones of each region."""
    maps = [segmenter.predict(sample.image, views=views) for sample in samples]
    return score_maps(maps, samples)


def score_maps(maps, samples):
    """As `score`, of probability maps `(H, W)` in [0, 1], one a sample."""
    scores, per_image = [], {}
    for region in REGIONS:
        pooled = evaluate(
            maps, samples, region=region, pooling="pooled", threshold=THRESHOLD
        )
        rows = pooled.pop("per_image")
        scores += [pooled, pooled | {"pooling": "mean"} | mean_scores(rows)]
        per_image[region] = rows
    # Through JSON, where what is undefined is null.
    return json.loads(to_json(scores)), json.loads(to_json(per_image))


def _history(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [n for n in ("loss", "val_loss") if n in rows[0]]
    return {n: [round(float(row[n]), 5) for row in rows] for n in names}


# ------------------------------------------------------------------ files


def key_of(record):
    """Returns what tells a record from every other one of its file."""
    return tuple(record[name] for name in IDENTITY)


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
    results = read_results(path, paper, dataset)
    rows = {key_of(record): record for record in results["rows"]}
    rows |= {key_of(record): record for record in records}
    path.parent.mkdir(parents=True, exist_ok=True)
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
            for score_name in PUBLISHED_SCORES:
                value, published_one = ours[score_name], entry.get(score_name)
                if published_one is None and (entry is not OURS_ALONE or not value):
                    continue
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


# ------------------------------------------------------------------ weights


def weights_name(record, dataset):
    """Returns the folder of a row's weights in `weights/`."""
    name = f"{record['row']}_{dataset}"
    return name if record["fold"] is None else f"{name}_fold{record['fold']}"


def shippable(path):
    """Returns the weights that are scored and shipped: as trained, or halved.

    Where a file is over 3 MB and would not be in half precision, its kernels are
    stored in float16 in a file beside it, and that is scored: RSAN's 4.2 MB. All
    other arrays, such as the variances of normalisation, stay in float32.
    """
    if not SHIPPED_BYTES < path.stat().st_size < 2 * SHIPPED_BYTES:
        return path
    halved = path.with_name(path.name.replace(".weights", "_float16.weights"))
    content = io.BytesIO()
    with h5py.File(path, "r") as source, h5py.File(content, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = target.create_group(name)
            else:
                array = item[()]
                made = target.create_dataset(
                    name, data=array.astype("float16") if array.ndim > 1 else array
                )
            made.attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    write_bytes(halved, content.getvalue())
    return halved


HALVED = "Kernels are stored in float16, and were scored so: in float32 they take 4 MB."


def ship(record, row, folder, root=None):
    """Puts a run's weights into `weights/<row>_<dataset>/`, with a card.

    Weights of more than 3 MB stay where they are: their results are enough. Other
    weights that lie there already are never replaced.

    Returns:
        The folder, or None for weights that are too large.
    """
    source = Path(folder) / record["weights"]
    if source.stat().st_size > SHIPPED_BYTES:
        print(f"{source} is larger than {SHIPPED_BYTES / 1e6:.0f} MB: not shipped")
        return None
    target = _check_place(row, Path(folder), root)
    name, digest = target.name, sha256_of(source)
    target.mkdir(parents=True, exist_ok=True)
    weights = target / "model.weights.h5"
    write_bytes(weights, source.read_bytes())
    write_card(target, card_of(name, record, row, digest))
    print(f"shipped to {target}")
    return target


def _check_place(row, folder, root=None):
    """Returns the folder for the weights of a run, if it does not hold other ones."""
    name = weights_name({"row": row.key, "fold": row.fold}, row.dataset)
    target = Path(root or SHIPPED) / name
    own = [sha256_of(path) for path in folder.glob("*.weights.h5")]
    if (target / CARD).exists() and read_card(target)["sha256"] not in own:
        raise InputError(
            f"{target} holds the weights of another run: remove that folder first if "
            "these are to take its place"
        )
    return target


def card_of(folder, record, row, digest):
    """Returns the card of shipped weights."""
    dataset, name = DATASETS[row.dataset], record["recipe_name"]
    recipe = row.recipe(name, record["seed"])
    unseen = [image["name"] for image in record["per_image"]["frame"]]
    about = {"dataset": dataset.title, "split": "test"}
    held_out = record["validation"]
    split = "official training part" if dataset.train else "training part of "
    split += "" if dataset.train else f"fold {row.fold}"
    if held_out:
        split += f", without {', '.join(held_out)}, which chose the epoch"
    height, width = dataset.size
    halved = "float16" in record["weights"]
    return {
        "name": folder,
        "model": recipe.model,
        "model_kwargs": _test_kwargs(row, name, recipe),
        "weights": "model.weights.h5",
        "sha256": digest,
        **({"storage": HALVED} if halved else {}),
        "preprocessing": {
            "scale": "divided by 255",
            "padding": _test_padding(row, name, recipe),
            "fov_diameter": record["fov_diameter"],
        },
        "threshold": {
            "value": THRESHOLD,
            "chosen_on": "no image; fixed beforehand, as in the papers",
        },
        "data": {
            "dataset": dataset.title,
            "split": split,
            "images": record["images"],
            "never_seen": unseen,
        },
        "scores": [about | score for score in record["scores"]],
        "training": {
            "recipe": record["recipe"],
            "seed": record["seed"],
            "device": record["device"],
            "versions": record["versions"],
            "commit": record["commit"],
            "hours": record["hours"],
        },
        "limits": (
            f"Trained on {len(record['images'])} photographs of one camera "
            f"({width}x{height} pixels). Never seen, neither for training nor for any "
            f"choice: {dataset.title} {', '.join(unseen)}. `saunet predict` scales "
            "photographs of other cameras until their field of view is as wide as in "
            f'{dataset.title}; from Python `scale="auto"` does.'
        ),
        "licence": (
            "Weights under Apache-2.0 as far as they are ours; "
            f"{dataset.title}'s own terms (research) apply to what was learnt from it."
        ),
    }
