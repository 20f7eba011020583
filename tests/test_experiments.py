"""The papers' scripts: rows that can be run, results that stay, tables that agree."""

import csv
import json
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import fundus_like
from keras import layers
from scipy import stats

from saunet import training
from saunet.data.datasets import DATASETS
from saunet.data.images import part_of, write_png
from saunet.errors import InputError, RunError
from saunet.evaluation import read_probability
from saunet.models import FACTS, MODELS, build_model
from saunet.training import RECIPES, Recipe, changed_fields
from saunet.weights import load_weights, read_card, seen_images

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import bootstrap  # noqa: E402
import charts  # noqa: E402
import maps  # noqa: E402
import others  # noqa: E402
import runner  # noqa: E402
import shipping  # noqa: E402
import tables  # noqa: E402
from records import (  # noqa: E402
    PUBLISHED_SCORES,
    add_results,
    comparison,
    find_score,
    key_of,
    label,
)
from rows import RECIPE_NAMES, Row, estimate_hours, start_digest  # noqa: E402
from shipping import ship, weights_name  # noqa: E402

PAPERS = {paper: __import__(paper) for paper in tables.PAPERS}
ROWS = [(paper, row) for paper, module in PAPERS.items() for row in module.ROWS]
each_row = pytest.mark.parametrize(
    ("paper", "row"), ROWS, ids=[row.run_name(paper, 0) for paper, row in ROWS]
)

# ------------------------------------------------------------------ pages


def test_every_rendered_page_is_what_the_results_say():
    for path, text in tables.pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.relative_to(ROOT)} differs: run `python experiments/tables.py`"
        )


def test_no_curve_without_results():
    rendered = {path for path in tables.pages() if path.suffix == ".svg"}
    docs = ROOT / "docs"
    assert {*docs.glob("curves_*.svg"), *docs.glob("images_*.svg")} == rendered


def test_another_number_in_a_file_is_another_page():
    results = tables.load_results()
    before = tables.pages(results)
    for record in results["others", "drive"]:
        for score in record["scores"]:
            score["f1"] += 0.01
    after = tables.pages(results)
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed == {"README.md", "results.md"}
    for image in results["others", "drive"][0]["per_image"]["fov"]:
        image["f1"] += 0.01
    again = tables.pages(results)
    changed = {path.name for path in after if again[path] != after[path]}
    assert changed == {"results.md", "images_drive.svg"}


def test_the_measured_part_of_readme_has_no_table_outside_the_block():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = readme.partition("## Measured")[2].partition("\n## ")[0]
    assert "|" not in tables.replace_block(measured, "").replace(tables.BEGIN, "")


def test_published_counts_are_ours():
    """To the digits that are published; Attention U-Net's GFLOPs are nobody's."""
    with (ROOT / "experiments" / "published_costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    for row in rows:
        facts = FACTS[row["key"]]
        for published, ours in (
            (row["parameters"], facts.total),
            (row["trainable"], facts.trainable),
        ):
            if published.endswith("M"):
                assert float(published[:-1]) == round(ours / 1e6, 2)
            elif published:
                assert int(published) == ours
        if row["gflops"] and row["key"] != "attention_unet":
            last = 10.0 ** -len(row["gflops"].partition(".")[2])
            # Ours is itself rounded to three digits.
            assert abs(float(row["gflops"]) - facts.gflops) <= last / 2 + 5e-4


def test_what_is_shipped_is_what_is_recorded():
    cards = {path.parent.name for path in (ROOT / "weights").glob("*/card.json")}
    recorded = {
        weights_name(record, dataset)
        for (paper, dataset), records in tables.load_results().items()
        for record in records
        if paper in PAPERS and tables.is_shipped(record, dataset)
    }
    assert cards == recorded


def test_peers_get_the_scores_they_are_known_for():
    """The values of other people's scorers, rounded as they give them."""
    results = tables.load_results()

    def scores(dataset, row, region):
        (record,) = [r for r in results["others", dataset] if r["row"] == row]
        return find_score(record, region, "pooled")

    assert round(scores("drive", "second_observer", "fov")["f1"], 4) == 0.7891
    assert round(scores("drive", "second_observer", "frame")["f1"], 4) == 0.7889
    assert round(scores("chase_db1", "second_observer", "frame")["f1"], 3) == 0.797
    assert round(scores("stare", "second_observer", "frame")["f1"], 3) == 0.742
    for region, f1, auc in (("fov", 0.8273, 0.9810), ("frame", 0.8271, 0.9870)):
        lwnet = scores("drive", "lwnet", region)
        assert (round(lwnet["f1"], 4), round(lwnet["auc"], 4)) == (f1, auc)


# ------------------------------------------------------------------ rows


@each_row
def test_a_row_has_three_recipes_of_its_network(paper, row):
    assert row.paper.model in MODELS
    assert row.dataset in DATASETS
    for name in set(RECIPE_NAMES) - {"finetune"}:
        recipe = row.recipe(name, seed=3)
        assert recipe.seed == 3
        assert recipe.model == row.paper.model
        assert recipe.model_kwargs.get("rate", 0) < 0.25
        assert asdict(recipe) | row.changes == asdict(recipe) or name == "paper"
        assert recipe.whole_epochs < recipe.epochs
        if recipe.schedule != "plateau":
            assert sum(n for n, _ in recipe.learning_rates) == recipe.epochs
        assert estimate_hours(recipe, row.dataset) > 0
    assert estimate_hours(row.recipe("budget"), row.dataset) < 4


@each_row
def test_the_best_recipe_is_the_budget_twice_over(paper, row):
    """By our loss, but where the loss is what a row of the paper is about."""
    budget, best = (row.recipe(name) for name in ("budget", "best"))
    assert best.epochs == 2 * budget.epochs
    assert best.whole_epochs == 2 * budget.whole_epochs
    assert best.steps_per_epoch == budget.steps_per_epoch
    assert best.upright == (0.5 if best.augmentation == "random" else 0)
    ladder = paper == "sa_unet_v2" and row.dataset == "drive"
    assert best.loss == (row.paper.loss if ladder else "bce_mcc")


def test_a_row_is_trained_on_from_its_shipped_weights_of_drive():
    rows = {(r.key, r.dataset, r.fold): r for _, r in ROWS}
    assert rows["sa_unet_v2", "stare", 4].recipe("finetune") == RECIPES["finetune"]
    adapted = rows["sa_unet", "chase_db1", None].recipe("finetune", seed=2)
    assert (adapted.model, adapted.start_from) == ("sa_unet", "sa_unet_drive")
    assert (adapted.seed, adapted.epochs) == (2, RECIPES["finetune"].epochs)
    rsan = rows["rsan", "drive", None].recipe("finetune")
    assert (rsan.start_from, rsan.loss) == ("rsan_drive", "bce_mcc")
    # of its network other weights are shipped, which were trained by another loss
    with pytest.raises(InputError, match="no weights sa_unet_v2_bce_drive are shipped"):
        rows["sa_unet_v2_bce", "drive", None].recipe("finetune")


def test_the_page_of_training_says_what_weights_of_drive_are_worth():
    def record(recipe_name, **changes):
        made = record_like("sa_unet_v2") | {"recipe_name": recipe_name, "hours": 0.26}
        row = rows["sa_unet_v2", "chase_db1", None]
        recipe = row.recipe(recipe_name, changes.get("seed", 0))
        made["recipe"] = json.loads(json.dumps(asdict(recipe)))
        made["start_sha256"] = start_digest(recipe)
        return made | changes

    rows = {(r.key, r.dataset, r.fold): r for _, r in ROWS}

    assert adapted_lines([record("budget")]) == []
    records = [record(name) for name in ("budget", "finetune")]
    lines = adapted_lines([*records, record("finetune", views=8)])
    assert [line[:3] for line in lines] == [
        ["CHASE_DB1", "`sa_unet_v2`", "budget"],
        ["CHASE_DB1", "`sa_unet_v2`", "finetune"],
    ]
    assert lines[1][5:] == ["1,000", "0.3"]
    # by the authors' recipe an epoch is each copy once
    (line,) = adapted_lines([*records, record("paper", seed=1)])[2:]
    assert line[2:] == ["paper, seed 1", *lines[0][3:5], "", "0.3"]
    folds = [record(name, fold=3) for name in ("finetune", "budget")]
    assert adapted_lines(folds, "stare")[0][0] == "STARE, fold 3"


def adapted_lines(records, dataset="chase_db1"):
    text = tables.adapted_block({("sa_unet_v2", dataset): records})
    return [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]


def test_every_option_of_a_row_is_one_of_its_network():
    options = {
        (row.paper.model, *sorted(recipe.model_kwargs.items()))
        for _, row in ROWS
        for recipe in (row.paper, row.recipe("budget"))
    }
    for model, *kwargs in options:
        known = MODELS[model].__kwdefaults__
        assert {name for name, _ in kwargs} <= set(known)


def test_no_two_rows_share_a_folder():
    names = [row.run_name("paper", 0) for _, row in ROWS]
    assert len(set(names)) == len(names)


def test_the_budget_of_the_small_networks_is_the_recipe_cpu():
    rows = {(row.key, row.dataset, row.fold): row for _, row in ROWS}
    cpu = RECIPES["cpu"]
    sa_unet = replace(cpu, model="sa_unet", model_kwargs={"rate": 0.1}, loss="bce")
    assert rows["sa_unet", "drive", None].recipe("budget") == sa_unet
    assert rows["sa_unet_v2", "drive", None].recipe("budget") == cpu
    bce = rows["sa_unet_v2_bce", "drive", None].recipe("budget")
    assert bce == replace(cpu, loss="bce")


def test_a_table_says_in_what_a_run_departs_from_its_recipe():
    rows = {(p, r.key, r.dataset, r.fold): r for p, r in ROWS}
    results = tables.load_results()
    table = tables.results_page(results)
    for (paper, dataset), records in results.items():
        for record in records if paper in PAPERS else ():
            row = rows[paper, record["row"], dataset, record["fold"]]
            recipe = row.recipe(record["recipe_name"], record["seed"])
            known = {"loss"}  # of SA-UNet, once trained as SA-UNetv2 is
            differs = changed_fields(record["recipe"], recipe)
            assert differs.keys() <= known
            for name, (then, _) in differs.items():
                assert f"`{name}={then}`" in table


def test_the_estimate_is_in_proportion_to_the_pixels():
    """4,500 steps of 8 crops and 1,500 of two photographs of 592x592, as measured."""
    with (ROOT / "benchmarks/results/one_epoch.csv").open(newline="") as file:
        (row,) = [r for r in csv.DictReader(file) if r["model"] == "sa_unet_v2"]
    steps = 4500 * 8 * 256**2 / (4 * 128**2) + 1500 * 2 * 592**2 / (4 * 128**2)
    hours = steps * float(row["seconds_per_step"]) / 3600
    assert estimate_hours(RECIPES["cpu"], "drive") == pytest.approx(hours)


def test_published_scores_belong_to_rows():
    with (ROOT / "experiments/published.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = {
        (paper, row.dataset, label({"row": row.key, "fold": row.fold}))
        for paper, row in ROWS
    }
    ours = [x for x in lines if x["paper"] != "cited"]
    assert {(x["paper"], x["dataset"], x["row"]) for x in ours} <= rows
    assert {x["dataset"] for x in lines} <= DATASETS.keys()
    for line in lines:
        protocol = (line["region"], line["pooling"])
        assert protocol in {("frame", "pooled"), ("frame", "mean"), ("fov", "mean")} | {
            ("", "")
        }
        assert all(0.6 < float(line[s]) < 1 for s in PUBLISHED_SCORES if line[s])


# ------------------------------------------------------------------ runs

TINY = Recipe(
    model="sa_unet_v2",
    model_kwargs={},
    crop=16,
    batch_size=2,
    epochs=2,
    steps_per_epoch=2,
    learning_rates=((2, 1e-2),),
)
ROW = Row("sa_unet_v2", "Tiny", "drive", TINY)
TRAIN = [fundus_like(32, 32, seed=i, name=f"2{i}") for i in range(3)]
TEST = [fundus_like(30, 34, seed=9 + i, name=f"0{i}") for i in range(2)]


def toy_network(name, **kwargs):
    x = inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(1, 3, padding="same", name="vessels_conv")(x)
    x = layers.Activation("sigmoid", dtype="float32", name="vessels")(x)
    return keras.Model(inputs, x, name=name)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Returns a function that runs one row on toys, with the given options."""
    monkeypatch.setattr(training, "build_model", toy_network)
    monkeypatch.setattr(runner, "build_model", toy_network)
    monkeypatch.setattr(training, "_tensorboard", lambda folder: [])
    monkeypatch.setattr(
        runner,
        "load_dataset",
        lambda name, folder, split, fold: TRAIN if split == "train" else TEST,
    )

    def run(*options, row=ROW):
        folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
        argv = ["--data-dir", "x", "--recipe", "paper", *folders, *options]
        return runner.run("toys", [row], [str(word) for word in argv])

    run.path = tmp_path / "results/toys_drive.json"
    run.runs = tmp_path / "runs"
    return run


def rows_in(path, views=1):
    rows = json.loads(path.read_text())["rows"]
    return [row for row in rows if row["views"] == views]


def test_a_run_is_recorded_with_its_images_and_compared(toy, capsys):
    assert toy() == 0
    (row,) = rows_in(toy.path)
    assert (row["row"], row["seed"], row["recipe_name"]) == ("sa_unet_v2", 0, "paper")
    assert row["parameters"] == {"total": 28, "trainable": 28, "non_trainable": 0}
    # 592 x 592 sums of 27 products, a bias, and the sigmoid
    assert row["gflops"] == pytest.approx(592**2 * 55 / 1e9, abs=1e-3)
    assert row["images"] == ["20", "21", "22"]
    assert [i["name"] for i in row["per_image"]["frame"]] == ["00", "01"]
    assert len(row["history"]["loss"]) == 2
    frame = find_score(row, "frame", "mean")
    f1 = [i["f1"] or 0 for i in row["per_image"]["frame"]]
    assert frame["f1"] is None or frame["f1"] == pytest.approx(np.mean(f1))
    out = capsys.readouterr().out
    assert "sa_unet_v2_drive_paper" in out
    assert "hours in all" in out


def test_rows_are_added_and_none_is_lost(toy):
    assert toy() == 0
    (first,) = rows_in(toy.path)
    assert toy("--seeds", 1, 2) == 0
    rows = rows_in(toy.path)
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert rows[0] == first
    assert rows[1]["history"] != first["history"]
    assert not list(toy.path.parent.glob(".*"))


def test_half_a_file_of_results_is_not_read(tmp_path, monkeypatch):
    """Of rows that are being added now."""
    part_of(tmp_path / "rsan_drive.json").write_text('{"paper"')
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.load_results() == {}


def test_runs_that_end_together_keep_their_rows(toy):
    """Each reads the file, adds its row and writes it."""
    assert toy() == 0
    (row,) = rows_in(toy.path)

    def add(seed):
        add_results(toy.path, "sa_unet_v2", "drive", [{**row, "seed": seed}])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(1, 41)))
    assert sorted(r["seed"] for r in rows_in(toy.path)) == list(range(41))


def test_a_run_in_the_way_is_seen_before_the_training(toy, monkeypatch, capsys):
    assert toy() == 0
    toy.path.unlink()
    monkeypatch.setattr(runner, "train", None)  # calling it is an error
    assert toy("--seeds", 1, 0) == 2
    assert "already holds a run: add --resume" in capsys.readouterr().err
    other = json.loads((toy.runs / "sa_unet_v2_drive_paper/run.json").read_text())
    other["recipe"]["epochs"] = 99
    (toy.runs / "sa_unet_v2_drive_paper/run.json").write_text(json.dumps(other))
    assert toy("--seeds", 1, 0, "--resume") == 2
    assert "holds a run by another recipe" in capsys.readouterr().err


def test_a_finished_run_is_only_scored(toy, monkeypatch):
    assert toy() == 0
    (first,) = rows_in(toy.path)
    toy.path.unlink()
    monkeypatch.setattr(keras.Model, "fit", None)  # calling it is an error
    assert toy("--resume") == 0
    assert rows_in(toy.path) == [first]
    before = toy.path.read_bytes()
    assert toy("--resume") == 0
    assert toy.path.read_bytes() == before


def test_what_is_recorded_is_not_trained_again_unasked(toy, capsys):
    assert toy() == 0
    assert toy() == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "--resume" in message


def test_a_changed_recipe_is_a_row_of_its_own(toy):
    """Its name is as before: the former run neither bars the way nor is lost."""
    assert toy() == 0
    former = json.loads(toy.path.read_text())["rows"]
    changed = replace(ROW, paper=replace(TINY, loss="dice"))
    assert toy("--runs", toy.runs / "changed", row=changed) == 0
    rows = json.loads(toy.path.read_text())["rows"]
    assert rows[: len(former)] == former
    assert [r["recipe"]["loss"] for r in rows] == ["bce", "bce", "dice", "dice"]
    groups = tables._by_recipe(rows)
    assert [(*key[:2], len(group)) for key, group in groups.items()] == [
        ("paper", views, 1) for views in (1, 1, 8, 8)
    ]


def test_folds_are_chosen_by_number(capsys):
    arguments = ["--dry-run", "--dataset", "stare", "--folds", "4", "2"]
    assert runner.run("sa_unet_v2", PAPERS["sa_unet_v2"].ROWS, arguments) == 0
    planned = re.findall(r"^sa_unet_v2\S+", capsys.readouterr().out, re.M)
    assert planned == [f"sa_unet_v2_stare_budget_fold{k}" for k in (2, 4)]


def test_a_dry_run_writes_nothing(toy, capsys):
    assert toy("--dry-run") == 0
    assert not toy.path.parent.exists()
    assert not toy.runs.exists()
    assert "sa_unet_v2_drive_paper" in capsys.readouterr().out


def test_labels_that_are_absent_are_missed_before_the_training(
    toy, monkeypatch, capsys
):
    unlabelled = [replace(sample, vessels=None) for sample in TEST]
    parts = {"train": TRAIN, "test": unlabelled}
    monkeypatch.setattr(runner, "load_dataset", lambda n, d, part, fold: parts[part])
    assert toy() == 2
    assert "no labels for 00, 01" in capsys.readouterr().err
    assert not toy.runs.exists()


def test_weights_in_the_way_are_seen_before_the_training(
    toy, tmp_path, monkeypatch, capsys
):
    assert toy() == 0
    (record,) = rows_in(toy.path)
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "weights")
    place = ship(record, ROW, toy.runs / "sa_unet_v2_drive_paper")
    assert place == tmp_path / "weights/sa_unet_v2_drive"
    (toy.runs / "sa_unet_v2_drive_paper").rename(tmp_path / "elsewhere")
    toy.path.unlink()
    capsys.readouterr()
    assert toy("--ship") == 2
    assert "remove that folder first" in capsys.readouterr().err
    assert not list(toy.runs.glob("*"))
    assert toy("--ship", "--seeds", 0, 1) == 2
    assert "one seed" in capsys.readouterr().err


def test_what_would_end_a_later_job_is_said_before_the_first(
    toy, tmp_path, monkeypatch, capsys
):
    assert toy() == 0
    other = toy.runs / "sa_unet_v2_drive_paper_seed2"
    other.mkdir()
    (other / "train.log").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr(runner, "train", None)  # calling it is an error
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "weights")
    for options, message in (
        (("--seeds", 1, 2), "_seed2 is not empty"),
        (("--seeds", 1, "--results", tmp_path / "file"), "another folder with --resul"),
        (
            ("--seeds", 1, "--runs", tmp_path / "file" / "a"),
            "another folder with --run",
        ),
        (("--ship", "--resume", "--runs", tmp_path), "its weights are not in"),
    ):
        capsys.readouterr()
        assert toy(*options) == 2
        assert message in capsys.readouterr().err
    assert not list(toy.runs.glob("*seed1*"))


@pytest.mark.parametrize(
    ("error", "status"),
    [(RunError("the loss became nan"), 1), (InputError("no shares of 2 devices"), 2)],
)
def test_a_training_that_cannot_go_on_ends_alone(
    error, status, toy, monkeypatch, capsys
):
    real = training.train

    def train(recipe, *args, **kwargs):
        if recipe.seed == 1:
            raise error
        return real(recipe, *args, **kwargs)

    monkeypatch.setattr(runner, "train", train)
    assert toy("--seeds", 1, 0) == status
    out, err = capsys.readouterr()
    assert err == f"error: {error}\n"
    assert "published" in out
    assert [row["seed"] for row in rows_in(toy.path)] == [0]


def test_rows_that_a_dataset_does_not_have_are_refused(capsys):
    arguments = ["--dry-run", "--dataset", "stare", "--rows", "unet_32"]
    assert runner.run("sa_unet_v2", PAPERS["sa_unet_v2"].ROWS, arguments) == 2
    assert "no row unet_32 of stare" in capsys.readouterr().err


def test_an_unknown_row_is_one_line(toy, capsys):
    assert toy("--rows", "sa_nuet") == 2
    assert "no such row; there are sa_unet_v2" in capsys.readouterr().err


def test_a_damaged_results_file_is_left_alone(toy, capsys):
    toy.path.parent.mkdir()
    toy.path.write_text('{"rows": [1]}')
    assert toy() == 2
    assert "is not a file of results" in capsys.readouterr().err
    assert toy.path.read_text() == '{"rows": [1]}'


def test_images_held_out_choose_the_epoch(toy):
    row = replace(ROW, paper=replace(TINY, validation=("21",)))
    assert toy(row=row) == 0
    (record,) = rows_in(toy.path)
    assert record["weights"] == "best.weights.h5"
    assert record["images"] == ["20", "22"]
    assert len(record["history"]["val_loss"]) == 2


def test_shipped_weights_say_what_they_never_saw(toy, tmp_path):
    assert toy() == 0
    (record,) = rows_in(toy.path)
    folder = toy.runs / "sa_unet_v2_drive_paper"
    target = ship(record, ROW, folder, tmp_path / "weights")
    card = read_card(target)
    assert card["data"]["images"] == ["20", "21", "22"]
    assert card["data"]["never_seen"] == ["00", "01"]
    assert "Never seen" in (target / "README.md").read_text()
    assert card["scores"][0]["f1"] == record["scores"][0]["f1"]
    assert card["preprocessing"].get("fov_diameter") == record.get("fov_diameter")
    model = toy_network("again")
    model.load_weights(target / card["weights"])
    assert "start_images" not in card["data"]
    # once more is fine; other weights never take the place
    ship(record, ROW, folder, tmp_path / "weights")
    model.set_weights([w + 1 for w in model.get_weights()])
    model.save_weights(folder / "last.weights.h5")
    with pytest.raises(InputError, match="another run"):
        ship(record, ROW, folder, tmp_path / "weights")
    assert read_card(target) == card


def test_shipped_weights_say_what_they_began_with(toy, tmp_path):
    assert toy() == 0
    (record,) = rows_in(toy.path)
    record["start_images"] = ["01", "30"]
    row = replace(ROW, paper=replace(TINY, start_from="sa_unet_v2_drive"))
    folder = toy.runs / "sa_unet_v2_drive_paper"
    target = ship(record, row, folder, tmp_path / "weights")
    readme = (target / "README.md").read_text()
    assert "in the weights it began with: 2 images (01, 30)" in readme
    assert "from sa_unet_v2_drive's weights. The test part trained nothing" in readme
    assert "or that of the weights it began with, was made when" in readme
    assert seen_images(target) == ["01", "20", "21", "22", "30"]


def test_a_run_from_other_weights_is_another_run(toy):
    """Such as shipped ones that have since been replaced."""
    assert toy() == 0
    (record,) = rows_in(toy.path)
    other = record | {"start_sha256": "78538bde"}
    assert key_of(other) != key_of(record)
    groups = tables._by_recipe([record, other])
    assert [len(group) for group in groups.values()] == [1, 1]
    assert tables.departures(ROW, other) == ["start_sha256=78538bde"]
    assert tables.departures(ROW, record) == []


def test_views_are_a_row_of_their_own_of_the_same_weights(toy):
    assert toy() == 0
    (one,), (eight,) = rows_in(toy.path), rows_in(toy.path, views=8)
    differing = {name for name in one if one[name] != eight[name]}
    assert differing == {"views", "scores", "per_image"}


def test_weights_a_little_too_large_are_halved_and_scored_so(
    toy, tmp_path, monkeypatch
):
    folder = toy.runs / "sa_unet_v2_drive_paper"
    assert toy() == 0
    size = (folder / "last.weights.h5").stat().st_size
    monkeypatch.setattr(shipping, "SHIPPED_BYTES", size - 1)
    toy.path.unlink()
    assert toy("--resume") == 0
    (record,) = rows_in(toy.path)
    assert record["weights"] == "last_float16.weights.h5"
    target = ship(record, ROW, folder, tmp_path / "weights")
    trained, shipped = toy_network("trained"), toy_network("shipped")
    trained.load_weights(folder / "last.weights.h5")
    shipped.load_weights(target / "model.weights.h5")  # Keras's own reader
    load_weights(toy_network("ours"), target / "model.weights.h5")
    for one, other in zip(trained.get_weights(), shipped.get_weights(), strict=True):
        kept = one.astype("float16").astype("float32") if one.ndim > 1 else one
        np.testing.assert_array_equal(other, kept)
    assert any(
        (one != other).any()
        for one, other in zip(trained.get_weights(), shipped.get_weights(), strict=True)
    )


def test_large_weights_are_not_shipped(toy, tmp_path, monkeypatch):
    assert toy() == 0
    monkeypatch.setattr(shipping, "SHIPPED_BYTES", 100)
    folder = toy.runs / "sa_unet_v2_drive_paper"
    record = rows_in(toy.path)[0]
    assert ship(record, ROW, folder, tmp_path / "weights") is None
    assert not (tmp_path / "weights").exists()


def test_the_comparison_subtracts_only_where_the_protocol_is_known():
    score = dict.fromkeys(PUBLISHED_SCORES, 0.8)
    score |= {"region": "frame", "pooling": "pooled"}
    record = {"row": "a", "fold": None, "views": 1, "scores": [score]}
    known = {"region": "frame", "pooling": "pooled", "f1": 0.82}
    text = comparison([("drive", record)], {("drive", "a"): [known]})
    assert text.splitlines()[1].split()[-4:] == ["f1", "0.8000", "0.8200", "-0.0200"]
    assert len(text.splitlines()) == 2
    score["mcc"] = None  # of an empty map
    text = comparison([("drive", record)], {("drive", "a"): [known | {"mcc": 1}]})
    assert text.splitlines()[2].split()[-3:] == ["mcc", "undefined", "1.0000"]
    unknown = {"region": "", "pooling": "", "f1": 0.82}
    text = comparison([("drive", record)], {("drive", "a"): [unknown]})
    assert "0.8200" not in text
    score["f1"] = 0.0  # a score, too
    assert text.count("\n") == comparison([("drive", record)], {}).count("\n")


def test_the_authors_test_settings_belong_to_their_recipe_alone():
    (row, _) = PAPERS["ag_net"].ROWS
    for name, outputs in (("paper", "side_8"), ("budget", None)):
        assert row.network_kwargs(name).get("outputs") == outputs
    stare = next(row for _, row in ROWS if row.fold == 4)
    for name, placement in (("paper", "bottom_right"), ("budget", "centered")):
        assert stare.padding(name)["placement"] == placement


# ------------------------------------------------------------------ statistics


def test_the_p_value_is_the_exact_one_of_scipy():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.3, 1, (2, 9))
    exact = stats.permutation_test(
        (ours, theirs),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert bootstrap.paired_bootstrap(ours, theirs).p == pytest.approx(exact.pvalue)


@pytest.mark.parametrize(
    ("gaps", "p"),
    [
        ([1], 1),
        ([1, 1], 0.5),
        ([1, 2, 3], 0.25),
        ([1, -1], 1),
        ([0.1] * 5, 2 / 32),
        ([0.01, 0.02, 0.03, -0.05, -0.01], 1),
    ],
)
def test_p_values_by_hand(gaps, p):
    assert bootstrap.paired_bootstrap(gaps, np.zeros(len(gaps))).p == p


def test_the_interval_is_that_of_the_mean():
    gap = np.random.default_rng(0).normal(0.01, 0.02, 400)
    found = bootstrap.paired_bootstrap(gap + 0.8, np.full(400, 0.8))
    error = 1.96 * gap.std() / 20
    assert found.mean == pytest.approx(gap.mean())
    assert found.low == pytest.approx(gap.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(gap.mean() + error, abs=0.1 * error)
    assert found.p < 0.001
    assert found == bootstrap.paired_bootstrap(gap + 0.8, np.full(400, 0.8))


def test_equal_methods_do_not_differ():
    same = bootstrap.paired_bootstrap([0.8, 0.7] * 10, [0.8, 0.7] * 10)
    assert same == (0, 0, 0, 1, 20)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="expected one"):
        bootstrap.paired_bootstrap([1, 2], [1, 2, 3])


def test_holm_by_hand():
    assert bootstrap.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert bootstrap.holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert bootstrap.holm([]) == []


# ------------------------------------------------------------------ tables


def record_like(row="sa_unet_v2", seed=0, f1=0.8, fold=None):
    found = next(r for _, r in ROWS if (r.key, r.fold) == (row, fold))
    scores = [
        {"region": region, "pooling": pooling, "f1": f1, "auc": 0.98}
        | dict.fromkeys(("sensitivity", "specificity", "accuracy"), 0.9)
        | dict.fromkeys(("mcc", "jaccard"), 0.7)
        for region in ("fov", "frame")
        for pooling in ("pooled", "mean")
    ]
    images = [{"name": f"{fold}{i}", "f1": f1, "auc": 0.9} for i in range(4)]
    return {
        "row": row,
        "title": row,
        "fold": fold,
        "seed": seed,
        "recipe_name": "budget",
        "recipe": json.loads(json.dumps(asdict(found.recipe("budget", seed)))),
        "views": 1,
        "images": [],
        "device": "a desk",
        "versions": {},
        "commit": None,
        "hours": 1.5,
        "scores": scores,
        "per_image": {"fov": images, "frame": images},
        "history": {"loss": [0.5, 0.25], "val_loss": [0.5, 0.4]},
    }


def test_seeds_become_a_mean_and_a_deviation():
    records = [record_like(seed=0, f1=0.8), record_like(seed=1, f1=0.82)]
    page = tables.results_page({("sa_unet_v2", "drive"): records})
    # sqrt(2) / 100 is the deviation of two numbers 0.02 apart
    assert "| budget | 0, 1 | 260,521 | 21.190 | 0.8100 ± 0.0141 |" in page
    assert "| 0.8282 | -0.0182 |" in page


def test_the_page_says_so_while_no_row_is_by_the_authors_settings():
    said = "No row is trained by them yet"
    results = {("sa_unet_v2", "drive"): [record_like()]}
    assert said in tables.results_page(results)
    results["sa_unet_v2", "drive"].append(record_like() | {"recipe_name": "paper"})
    assert said not in tables.results_page(results)


def test_five_folds_become_a_mean_over_all_images():
    records = [record_like(fold=fold, f1=0.7 + fold / 100) for fold in range(5)]
    page = tables.results_page({("sa_unet_v2", "stare"): records})
    assert "| SA-UNetv2, all 20 images | budget | 0 |  |  | 0.7200 |" in page
    other = [record_like("sa_unet_gn_silu", fold=fold, f1=0.5) for fold in range(4)]
    page = tables.results_page({("sa_unet_v2", "stare"): [*records, *other]})
    assert page.count("all 20 images") == 1
    page = tables.results_page({("sa_unet_v2", "stare"): records[:4]})
    assert "all 16 images" not in page


@pytest.mark.parametrize(("folds", "images"), [(5, [20]), (4, [4] * 4)])
def test_five_folds_are_compared_as_one_method(folds, images):
    records = [record_like(fold=fold, f1=0.7 + fold / 100) for fold in range(folds)]
    pairs = {f"{fold}{i}": 0.6 for fold in range(5) for i in range(4)}
    human = [{"name": name, "f1": f1} for name, f1 in pairs.items()]
    other = {"row": "observer", "title": "observer", "seed": None, "views": 1}
    other |= {"fold": None, "recipe_name": None, "per_image": {"fov": human}}
    results = {("sa_unet_v2", "stare"): records, ("others", "stare"): [other]}
    lines = tables._difference_lines(results, "stare")
    assert [int(line[2]) for line in lines] == images
    if folds == 5:
        assert lines[0][:2] == ["sa_unet_v2, budget", "observer"]
        assert lines[0][3] == "+0.1200"


def test_folds_by_two_recipes_of_one_name_are_two_methods():
    """One fold trained anew is no method of five."""
    old = [record_like(fold=fold, f1=0.7) for fold in range(5)]
    new = [record_like(fold=fold, f1=0.9) for fold in range(5)]
    for record in new:
        record["recipe"] = {**record["recipe"], "epochs": 99}
    for anew in (new, new[:1]):
        found = tables._comparable("sa_unet_v2", "stare", [*old, *anew])
        whole = [r for _, r in found if r["fold"] is None]
        assert len(whole) == len(anew) // 5 + 1
        for record, f1 in zip(whole, (0.7, 0.9), strict=False):
            assert {image["f1"] for image in record["per_image"]["fov"]} == {f1}


def test_what_is_compared_differs_in_recipe_or_in_network():
    def record(row, recipe):
        made = record_like(row) | {"recipe_name": recipe}
        found = next(r for _, r in ROWS if r.key == row)
        made["recipe"] = json.loads(json.dumps(asdict(found.recipe(recipe))))
        return made

    rows, recipes = ("sa_unet_v2", "unet_32"), ("budget", "best")
    records = [record(row, recipe) for row in rows for recipe in recipes]
    records[0]["recipe"]["loss"] = "dice"
    lines = tables._difference_lines({("sa_unet_v2", "drive"): records}, "drive")
    assert [line[:2] for line in lines] == [
        ["sa_unet_v2, budget, `loss=dice`", "sa_unet_v2, best"],
        ["sa_unet_v2, budget, `loss=dice`", "unet_32, budget"],
        ["sa_unet_v2, best", "unet_32, best"],
    ]


def test_a_table_has_one_protocol_and_says_which():
    page = tables.results_page({})
    stare = page.partition("### STARE")[2].partition("\n## ")[0]
    assert "The whole frame, mean of the images." in stare
    slides = page.partition("`experiments/unet_slides.py`")[2].partition("\n## ")[0]
    assert "the protocol of the published scores is not known" in slides
    assert slides.count("validation images |") == 6


def test_the_chart_has_a_mark_for_each_image_and_method():
    text = charts.image_chart({"a": {"x": 0.8, "y": 0.7}, "b": {"y": 0.75, "z": 0.1}})
    marks = re.findall(r'cx="([\d.]+)" cy="([\d.]+)".*<title>(.*?)</title>', text)
    # y comes first, since a's F1 of it is lower; z is no image of a's
    assert [title for *_, title in marks] == [
        "a, y: 0.7000",
        "a, x: 0.8000",
        "b, y: 0.7500",
    ]
    (left, low, _), (right, high, _), (middle, _, _) = marks
    assert left == middle
    assert float(left) < float(right)
    assert (float(high), float(low)) == (charts.TOP, charts.TOP + charts.HEIGHT)


def test_curves_go_down_by_the_logarithm_to_the_last_epoch():
    text = charts.curves({"a": {"loss": [0.8, 0.4, 0.2]}})
    (line,) = [x for x in text.splitlines() if x.startswith("<polyline")]
    points = line.partition('points="')[2].partition('"')[0].split()
    (_, first), (_, second), (x, third) = (map(float, p.split(",")) for p in points)
    assert x == charts.LEFT + charts.WIDTH
    assert third - second == pytest.approx(second - first, abs=0.11)
    assert charts.TOP < first < third < charts.TOP + charts.HEIGHT
    for tick in (0.2, 0.3, 0.5, 0.7):  # the losses' own range, no more
        assert f">{tick}</text>" in text
    assert ">0.1</text>" not in text
    assert ">1</text>" in text  # an epoch


def test_an_observer_is_scored_against_the_first():
    samples = [replace(s, second_observer=s.vessels) for s in TEST]
    record = others.observer(samples)
    assert [s["f1"] for s in record["scores"]] == [1, 1, 1, 1]
    assert record["binary"]


def test_without_a_second_observer_there_is_one_line():
    with pytest.raises(InputError, match="no labels of the second observer for 00, 01"):
        others.observer([replace(s, second_observer=None) for s in TEST])


def test_maps_without_a_name_are_refused(monkeypatch, capsys):
    loaded = {"drive": TEST}
    monkeypatch.setattr(others, "load_dataset", lambda name, *_: loaded[name])
    arguments = ["--data-dir", "x", "--dataset", "drive", "--maps", "lwnet"]
    assert others.main(arguments) == 2
    assert "--maps lwnet: expected NAME=FOLDER" in capsys.readouterr().err


def test_photographs_are_no_maps(monkeypatch, tmp_path, capsys):
    """In place of the maps, a folder of colour pictures of the same names."""
    for sample in TEST:
        write_png(tmp_path / f"{sample.name}.png", sample.image)
    monkeypatch.setattr(others, "load_dataset", lambda *_: TEST)
    arguments = ["--data-dir", "x", "--dataset", "drive", "--results", str(tmp_path)]
    assert others.main([*arguments, "--maps", f"lwnet={tmp_path}"]) == 2
    assert "00.png" in capsys.readouterr().err


def test_where_results_cannot_be_written_nothing_is_scored(monkeypatch, capsys):
    monkeypatch.setattr(others, "load_dataset", lambda *_: pytest.fail("loaded"))
    arguments = ["--data-dir", "x", "--dataset", "drive", "--results", "/dev/null/x"]
    assert others.main(arguments) == 2
    assert "cannot write to /dev/null/x" in capsys.readouterr().err


class Guess:
    """A segmenter whose maps are the green channel."""

    name = "toy"
    threshold = 0.5

    def predict(self, image):
        return image[..., 1] / np.float32(255)


def test_maps_are_written_with_an_archive_and_a_picture(tmp_path, capsys):
    maps.write_maps(Guess(), TEST, tmp_path)
    names = [f"{sample.name}_prob.png" for sample in TEST]
    assert sorted(p.name for p in (tmp_path / "toy").iterdir()) == [
        *names,
        "best_worst.png",
    ]
    with zipfile.ZipFile(tmp_path / "toy.zip") as archive:
        assert archive.namelist() == names
    wanted = Guess().predict(TEST[0].image)
    found = read_probability(tmp_path / "toy" / names[0])
    np.testing.assert_allclose(found, wanted, atol=1 / 65535)
    first = (tmp_path / "toy.zip").read_bytes()
    maps.write_maps(Guess(), TEST, tmp_path)
    assert (tmp_path / "toy.zip").read_bytes() == first


def test_maps_are_of_what_a_network_never_saw(monkeypatch):
    names = ("im0001", "im0005")
    card = read_card(ROOT / "weights/sa_unet_v2_stare_fold0")
    images = {"all": [replace(s, name=n) for s, n in zip(TEST, names, strict=True)]}
    monkeypatch.setattr(maps, "load_dataset", lambda key, folder, part: images[part])
    (sample,) = maps.unseen_samples("sa_unet_v2_stare_fold0", "x")
    assert sample.name == "im0001"
    card["data"]["never_seen"] = ["im0005"]
    monkeypatch.setattr(maps, "read_card", lambda folder: card)
    with pytest.raises(InputError, match="was trained on im0005"):
        maps.unseen_samples("sa_unet_v2_stare_fold0", "x")


def test_ag_net_takes_the_weights_of_all_outputs_for_one():
    sizes = {
        name: [w.shape for w in build_model("ag_net", outputs=name).weights]
        for name in ("all", "side_8")
    }
    assert sizes["all"] == sizes["side_8"]
