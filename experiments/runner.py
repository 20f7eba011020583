"""What the scripts of the papers share: plan, train, score, record, ship, compare.

A script is data: a `Row` for each line of its paper's tables. The test images choose
nothing: of a recipe that holds images out, the epoch of the lowest validation loss is
scored; of any other, the last one. The threshold is 0.5.
"""

import argparse
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from records import (
    RESULTS,
    THRESHOLD,
    VIEWS,
    add_results,
    comparison,
    key_of,
    published,
    read_results,
    score_maps,
)
from rows import RECIPE_NAMES, estimate_hours, start_digest
from shipping import check_place, ship, shippable

from saunet.data.datasets import load_dataset
from saunet.data.images import writable_folder
from saunet.data.runs import read_run
from saunet.distribution import DEVICES
from saunet.errors import InputError, RunError
from saunet.evaluation import check_labelled
from saunet.inference import Segmenter
from saunet.models import FACTS, build_model
from saunet.profiling import count_flops, count_parameters
from saunet.training import changed_fields, check_new, train
from saunet.viz import read_log
from saunet.weights import load_weights, run_weights

# Of a data set's own photographs their names say enough.
PIXELS = ("seen_sha256", "images_sha256", "labels_sha256")


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
            except (RunError, InputError) as error:  # of this row: the others go on
                print(f"error: {error}", file=sys.stderr)
                status = max(status, 1 if isinstance(error, RunError) else 2)
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
        f"about {total:.1f} hours in all on 2 CPU cores in float32; bfloat16 and GPUs "
        "are not in the estimate"
    )


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
        if args.ship and stored and not (folder / "run.json").exists():
            raise InputError(
                f"--ship: {path} holds {row.run_name(name, seed)}, but its weights are "
                f"not in {folder}: give the folder of the runs with --runs"
            )
        if (folder / "run.json").exists():
            if not stored and not args.resume:
                raise InputError(
                    f"{folder} already holds a run: add --resume to go on with it, or "
                    "choose another folder with --runs"
                )
            recipe, used = row.recipe(name, seed), args.ship or not stored
            run = read_run(folder)
            if (
                not stored
                and "hours" not in run
                and run.get("start_sha256") != start_digest(recipe)
            ):
                raise InputError(
                    f"{folder} holds an unfinished run from other weights than today's "
                    f"{recipe.start_from}: choose another folder with --runs"
                )
            if used and changed_fields(run["recipe"], recipe):
                raise InputError(
                    f"{folder} holds a run by another recipe: choose another folder "
                    "with --runs"
                )
        elif not stored:
            check_new(folder)
        if args.ship:
            check_place(row, folder)
        if _part(row) not in data:
            parts = [
                load_dataset(row.dataset, args.data_dir, part, fold=row.fold)
                for part in ("train", "test")
            ]
            check_labelled(parts[1])
            data[_part(row)] = parts
    writable_folder(args.results, "--results")
    writable_folder(args.runs, "--runs")
    return data


def _part(row):
    return row.dataset, row.fold


def _results_path(paper, row, args):
    return Path(args.results) / f"{paper}_{row.dataset}.json"


def _stored(path, paper, row, name, seed):
    """Returns the rows of a run that a results file holds: all of them, or none."""
    records = {key_of(r): r for r in read_results(path, paper, row.dataset)["rows"]}
    run = {"row": row.key, "fold": row.fold, "recipe_name": name, "seed": seed}
    recipe = row.recipe(name, seed)
    run |= {"recipe": asdict(recipe), "start_sha256": start_digest(recipe)}
    wanted = [key_of({**run, "views": views}) for views in VIEWS]
    return [records[k] for k in wanted] if all(k in records for k in wanted) else []


def _run_job(paper, row, name, seed, args, samples, tests):
    """Trains, scores and records one run; returns its rows, one a number of views."""
    path = _results_path(paper, row, args)
    folder = Path(args.runs) / row.run_name(name, seed)
    stored = _stored(path, paper, row, name, seed)
    if stored and not args.ship:
        print(f"already in {path}")
        return stored
    resume = args.resume and (folder / "run.json").exists()
    recipe = row.recipe(name, seed)
    train(recipe, samples, folder, resume=resume, devices=args.devices)
    records = [record_of(row, name, seed, folder, tests, views) for views in VIEWS]
    add_results(path, paper, row.dataset, records)
    print(f"written to {path}")
    if args.ship:
        ship(records[0], row, folder)
    return records


def record_of(row, name, seed, folder, tests, views):
    """Returns the results row of a finished run: see the head of `records`."""
    folder = Path(folder)
    run = read_run(folder)
    weights = shippable(run_weights(folder)).name
    segmenter = make_segmenter(row, name, folder / weights)
    model = segmenter.model
    maps = [segmenter.predict(sample.image, views=views) for sample in tests]
    scores, per_image = score_maps(maps, tests)
    log = read_log(folder / "log.csv")
    losses = [name for name in ("loss", "val_loss") if name in log]
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
        **{k: v for k, v in run.items() if k not in PIXELS},
        "engine": f"{segmenter.engine.name} {version(segmenter.engine.name)}",
        "history": {n: [round(v, 5) for v in log[n]] for n in losses},
        "scores": scores,
        "per_image": per_image,
    }


def make_segmenter(row, name, weights):
    """Returns the `Segmenter` of a run, in float32, as users load it."""
    model = build_model(row.paper.model, **row.network_kwargs(name))
    load_weights(model, weights)
    return Segmenter(model, threshold=THRESHOLD, padding=row.padding(name))
