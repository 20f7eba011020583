"""The recipes: each can be built and run, and says what its paper says."""

import json
from dataclasses import asdict

import pytest

from saunet.layers import DropBlock2D
from saunet.models import MODELS, build_model
from saunet.training import RECIPES, Recipe, make_optimizer, with_epochs

each = pytest.mark.parametrize("name", RECIPES)


@each
def test_a_recipe_builds_its_network_and_optimizer(name):
    recipe = RECIPES[name]
    assert recipe.model in MODELS
    model = build_model(recipe.model, **recipe.model_kwargs)
    rates = {x.rate for x in model.layers if isinstance(x, DropBlock2D)}
    assert rates == {recipe.model_kwargs["rate"]}
    # "keep .82" read as a drop rate is a port in circulation
    assert max(rates) < 0.5
    make_optimizer(recipe, 10).build(model.trainable_variables)


@each
def test_a_recipe_is_plain_data(name):
    stored = json.loads(json.dumps(asdict(RECIPES[name])))
    stored["learning_rates"] = tuple(map(tuple, stored["learning_rates"]))
    stored["plateau"] = tuple(stored["plateau"])
    if isinstance(stored["validation"], list):
        stored["validation"] = tuple(stored["validation"])
    assert Recipe(**stored) == RECIPES[name]


@each
def test_the_rates_of_a_recipe_add_up_to_its_epochs(name):
    recipe = RECIPES[name]
    assert recipe.whole_epochs < recipe.epochs
    if recipe.schedule != "plateau":
        assert sum(epochs for epochs, _ in recipe.learning_rates) == recipe.epochs
    assert all(0 < rate < 0.1 for _, rate in recipe.learning_rates)


def test_sa_unet_trains_as_its_paper_says():
    recipe = RECIPES["sa_unet_paper"]
    assert recipe.learning_rates == ((100, 1e-3), (50, 1e-4))
    assert (recipe.batch_size, recipe.loss, recipe.optimizer) == (4, "bce", "adam")
    assert recipe.model_kwargs["rate"] == pytest.approx(1 - 0.82)
    assert (recipe.augmentation, recipe.placement) == ("thirteen", "centered")
    assert recipe.crop is None


def test_sa_unet_v2_trains_as_its_paper_says():
    recipe = RECIPES["sa_unet_v2_paper"]
    assert (recipe.epochs, recipe.batch_size, recipe.loss) == (150, 8, "bce_mcc")
    assert recipe.model_kwargs["rate"] == 0.15
    assert (recipe.schedule, recipe.plateau) == ("plateau", (0.5, 10, 1e-6))
    assert recipe.early_stopping == 20
    assert (recipe.augmentation, recipe.placement) == ("thirteen", "bottom_right")
    assert recipe.learning_rates[0][1] == 1e-3


def test_rsan_trains_as_its_paper_says():
    recipe = RECIPES["rsan_paper"]
    assert recipe.learning_rates == ((150, 1e-3), (50, 1e-4))
    assert (recipe.batch_size, recipe.loss, recipe.optimizer) == (2, "bce", "adam")
    assert recipe.model_kwargs["rate"] == pytest.approx(1 - 0.85)
    assert recipe.validation == ("23", "40")


@pytest.mark.parametrize(
    ("epochs", "rates"),
    [
        (15, ((10, 1e-3), (5, 1e-4))),
        (300, ((200, 1e-3), (100, 1e-4))),
        (1, ((1, 1e-3),)),
    ],
)
def test_a_shorter_or_longer_recipe_keeps_its_shares(epochs, rates):
    changed = with_epochs(RECIPES["sa_unet_paper"], epochs)
    assert (changed.epochs, changed.learning_rates) == (epochs, rates)
    changed = with_epochs(RECIPES["cpu"], 4 * epochs)
    assert changed.whole_epochs == epochs  # 15 of 60
    assert changed.learning_rates == RECIPES["cpu"].learning_rates


@pytest.mark.parametrize(
    ("epochs", "steps", "momentum"),
    [(60, 100, 0.998), (60, 10, 1 - 4 / 600), (1, 1, 0.0)],
)
def test_the_average_of_a_short_run_forgets_its_beginning(epochs, steps, momentum):
    recipe = with_epochs(RECIPES["cpu"], epochs)
    assert make_optimizer(recipe, steps).ema_momentum == pytest.approx(momentum)
