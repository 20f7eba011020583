"""A line of a paper's table as data: its network, and its recipe by four names.

`paper`: the authors' settings. `budget`: two CPU cores, half an hour to four. `best`:
ours, twice as many steps. `finetune`: from the network's shipped weights of DRIVE.
"""

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path

from saunet.quiet import load_framework

load_framework()  # before the rooms below do it, aloud

from saunet.data.datasets import DATASETS
from saunet.data.padding import padded_size
from saunet.errors import InputError
from saunet.inference import PADDING
from saunet.models import FACTS
from saunet.training import RECIPES, Recipe
from saunet.weights import find_weights, list_pretrained, sha256_of

ROOT = Path(__file__).resolve().parents[1]
RECIPE_NAMES = ("paper", "budget", "best", "finetune")


@dataclass(frozen=True)
class Row:
    """A line of a paper's table.

    Attributes:
        key: Name of the row in files; most often the network's key.
        title: What the paper calls it.
        dataset: Key of `DATASETS`.
        paper: The authors' `Recipe`.
        changes: Fields that make this row what it is under every recipe, such as
            `{"augmentation": "none"}`; the network does so anyway.
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
        """Returns the `Recipe` of one of `RECIPE_NAMES`.

        Raises:
            InputError: finetune, and there are no such weights to begin with.
        """
        made = {"budget": budget, "best": best, "finetune": finetune}
        recipe = self.paper if name == "paper" else made[name](self)
        return replace(recipe, seed=seed)

    def network_kwargs(self, name):
        """Returns the options of the network that is tested, and shipped."""
        # What the authors test with belongs to their recipe alone.
        theirs = self.test_kwargs if name == "paper" else {}
        return self.recipe(name).model_kwargs | theirs

    def padding(self, name):
        """Returns the padding of photographs at the test."""
        tested = self.test_placement if name == "paper" else None
        return {**PADDING, "placement": tested or self.recipe(name).placement}

    def run_name(self, name, seed):
        """Returns the name of the folder of a run."""
        parts = [self.key, self.dataset, name]
        parts += [] if self.fold is None else [f"fold{self.fold}"]
        return "_".join(parts + ([f"seed{seed}"] if seed else []))


def budget(row):
    """Two CPU cores, half an hour to four: the recipe `cpu` with the row's own loss.

    The number of steps is what SA-UNet's GFLOPs allow on DRIVE, so that a larger
    network or photograph costs no more computing, and sees fewer views. The folds of
    STARE, five networks for one row, have half the batch and as many steps.
    """
    kwargs = dict(row.paper.model_kwargs)
    if "rate" in kwargs:
        kwargs["rate"] = 0.1
    gflops = FACTS[row.paper.model].gflops
    base = replace(
        RECIPES["cpu"],
        model=row.paper.model,
        batch_size=8 if gflops < 100 and row.fold is None else 4,
        model_kwargs=kwargs,
        loss=row.paper.loss,
        loss_kwargs=row.paper.loss_kwargs,
    )
    allowed = 100 * 26.6 * _pixels_a_step(RECIPES["cpu"], "drive")
    steps = int(allowed / (gflops * _pixels_a_step(base, row.dataset)))
    return replace(base, **({"steps_per_epoch": min(100, steps)} | row.changes))


def best(row):
    """Ours: twice the steps of `budget`, half of the views upright, BCE and MCC.

    Made after the test scores of `budget` were known: on DRIVE's training images its
    networks score no better, so they are trained too little; and SA-UNet takes the rim
    of the frame for a vessel, which no view that is turned by any angle shows as it is.
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


def finetune(row):
    """Its shipped weights of DRIVE, trained on: `saunet train --recipe finetune`."""
    start = f"{row.key}_drive"
    if start not in list_pretrained():
        raise InputError(
            f"--recipe finetune: no weights {start} are shipped: choose --rows among "
            "those whose weights of DRIVE are, such as sa_unet"
        )
    own = {
        "model": row.paper.model,
        "model_kwargs": budget(row).model_kwargs,
        "start_from": start,
    }
    return replace(RECIPES["finetune"], **(own | row.changes))


def start_digest(recipe):
    """Returns the SHA-256 of the weights that a recipe begins with; None: new ones."""
    if recipe.start_from is None:
        return None
    return sha256_of(find_weights(recipe.start_from)[0])


def _whole_pixels(dataset):
    height, width = padded_size(*DATASETS[dataset].size)
    return height * width


def _pixels_a_step(recipe, dataset):
    """Returns the pixels of one step of every epoch, on crops and whole photographs."""
    crops = (recipe.epochs - recipe.whole_epochs) * recipe.batch_size * recipe.crop**2
    batch = max(1, recipe.batch_size // 4)
    return crops + recipe.whole_epochs * batch * _whole_pixels(dataset)


def estimate_hours(recipe, dataset):
    """Returns the hours a run takes on two CPU cores, at most (no early stopping).

    In float32: SA-UNet's `budget`, in bfloat16, took half of them. From the measured
    seconds of a step on 4x128x128 pixels, in proportion.
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
    if recipe.crop:
        pixels = _pixels_a_step(recipe, dataset) * recipe.steps_per_epoch
    elif recipe.steps_per_epoch:
        pixels = recipe.epochs * recipe.steps_per_epoch * recipe.batch_size * whole
    else:
        pixels = recipe.epochs * images * copies * whole
    return pixels / (4 * 128**2) * times[recipe.model] / 3600
