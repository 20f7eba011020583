"""Training: the same numbers after any kill, and a clear end for every failure.

A toy network with all kinds of state (random masks, moving statistics) stands in for
the real ones, whose compilation would take most of the time.
"""

import csv
import errno
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import fundus_like
from keras import layers

from saunet import training
from saunet.data.field import field_of_view
from saunet.data.images import part_of
from saunet.data.synthetic import synthetic_fundus
from saunet.errors import InputError, RunError
from saunet.layers import DropBlock2D
from saunet.models import build_model
from saunet.training import (
    Recipe,
    epochs_since_best,
    make_optimizer,
    plateau_rate,
    recipe_with,
    split,
    train,
)
from saunet.weights import seen_images, seen_pixels, sha256_of, sha256_of_pixels

ROOT = Path(__file__).resolve().parents[1]

BLANK = np.zeros((32, 32), np.uint8)
SAMPLES = [fundus_like(32, 32, seed=i, name=n) for i, n in enumerate("abc")]
RECIPE = Recipe(
    model="sa_unet_v2",
    loss="bce_mcc",
    crop=16,
    batch_size=4,
    epochs=3,
    whole_epochs=1,
    steps_per_epoch=2,
    optimizer="adamw",
    weight_decay=1e-4,
    learning_rates=((3, 1e-2),),
    schedule="one_cycle",
    ema=0.8,
    clip_norm=1.0,
    validation=1,
)
PLAIN = replace(
    RECIPE,
    whole_epochs=0,
    optimizer="adam",
    weight_decay=0.0,
    schedule="steps",
    ema=None,
    validation=0,
)


class Killed(BaseException):
    """What no handler for errors may catch."""


def toy_network(name, **kwargs):
    x = inputs = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="a_conv")(x)
    x = DropBlock2D(0.2, 3, name="a_drop")(x)
    x = layers.BatchNormalization(momentum=0.8, name="a_bn")(x)
    x = layers.ReLU(name="a_relu")(x)
    x = layers.Conv2D(1, 1, name="vessels_conv")(x)
    x = layers.Activation("sigmoid", dtype="float32", name="vessels")(x)
    return keras.Model(inputs, x, name=name)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(training, "build_model", toy_network)
    # slow to close, and its files hold the time
    monkeypatch.setattr(training, "_tensorboard", lambda folder: [])


def run(recipe, folder, **options):
    return train(recipe, SAMPLES, folder, progress=False, **options)


def state_of(folder):
    with np.load(folder / "state.npz") as file:
        return {k: file[k] for k in file.files}


def log_of(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(folder, name="last"):
    model = toy_network("toy")
    model.load_weights(folder / f"{name}.weights.h5")
    return model.get_weights()


def assert_same_run(ours, theirs):
    """Bit for bit: weights, optimizer, random states, history without seconds."""
    a, b = state_of(ours), state_of(theirs)
    histories = [json.loads(str(s.pop("history"))) for s in (a, b)]
    for row in [*histories[0], *histories[1]]:
        del row["seconds"]
    assert histories[0] == histories[1]
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    names = {p.name for p in theirs.glob("*.weights.h5")}
    assert {p.name for p in ours.glob("*.weights.h5")} == names
    for name in names:
        stem = name.removesuffix(".weights.h5")
        for x, y in zip(weights_of(ours, stem), weights_of(theirs, stem), strict=True):
            np.testing.assert_array_equal(x, y)
    for x, y in zip(log_of(ours), log_of(theirs), strict=True):
        assert {**x, "seconds": 0} == {**y, "seconds": 0}


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    """Not even inside of a repository, which is someone else's."""
    assert training.environment()["commit"] or not (ROOT / ".git").exists()
    (tmp_path / ".git").mkdir()
    installed = tmp_path / "venv/site-packages/saunet/training.py"
    monkeypatch.setattr(training, "__file__", str(installed))
    assert training.environment()["commit"] is None


def test_a_record_names_the_gpus_that_computed(monkeypatch):
    monkeypatch.setattr(
        keras.distribution, "list_devices", lambda: [f"gpu:{i}" for i in range(4)]
    )
    for name, shown in ((None, "GPU"), ("NVIDIA T4", "NVIDIA T4")):
        monkeypatch.setattr(training, "query_gpu", lambda fact, name=name: name)
        assert training.environment()["device"] == f"1 {shown}"
        assert training.environment(4)["device"] == f"4 {shown}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("whole_epochs", 4),
        ("whole_epochs", -1),
        ("seed", -1),
        ("learning_rates", (60, 1e-3)),
        ("learning_rates", ()),
        ("learning_rates", ((1.5, 1e-3),)),
        ("learning_rates", ((3, float("inf")),)),
        ("plateau", (0.5, 10)),
        ("plateau", (2, 10, 1e-6)),
        ("seed", 2**32),
        ("ema", 1.5),
        ("clip_norm", -1),
        ("weight_decay", -1),
        ("early_stopping", -1),
        ("loss_kwargs", {"mcc_weight": "a"}),
        ("loss_kwargs", {"mcc_weight": -5}),
        ("loss_kwargs", {1: 1.0}),
        ("loss_kwargs", {"mcc_weight": float("nan")}),
        ("upright", True),
        ("learning_rates", ((2, 1e-2), (1, 1e-3))),  # of one_cycle
        ("optimizer", "adam"),  # with a weight decay
        ("plateau", (0.5, 3, 1e-6)),  # of another schedule
        ("batch_size", True),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(field, value):
    named = "weight_decay" if field == "optimizer" else field
    with pytest.raises(InputError, match=f"recipe field {named}=") as caught:
        recipe_with(RECIPE, **{field: value})
    assert "\n" not in str(caught.value)


def test_a_rate_that_begins_after_the_last_epoch_is_refused():
    rates = ((2, 1e-2), (1, 1e-3))
    assert replace(PLAIN, learning_rates=rates).learning_rates == rates
    with pytest.raises(InputError, match="begins after 3 epochs, and epochs=3"):
        replace(PLAIN, learning_rates=((3, 1e-2), (1, 1e-3)))


def files_of(folder):
    names = ("last.weights.h5", "best.weights.h5", "state.npz", "log.csv")
    return {n: (folder / n).read_bytes() for n in names if (folder / n).exists()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of `RECIPE`, and the model that came of it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_model", toy_network)
        model = run(RECIPE, folder)
    return folder, model


# ------------------------------------------------------------------------ resume


def kill_at_call(patch, owner, name, at, *, after=False):
    """Before (or right after) the call number `at` of `owner.name`."""
    real, calls = getattr(owner, name), []

    def killing(*args, **kwargs):
        calls.append(1)
        if len(calls) == at and not after:
            raise Killed
        result = real(*args, **kwargs)
        if len(calls) == at:
            raise Killed
        return result

    patch.setattr(owner, name, killing)


def half_a_state(patch, at):
    """With `state.npz` half written in epoch `at`."""
    real, calls = np.savez, []

    def savez(file, **arrays):
        calls.append(1)
        if len(calls) < at:
            return real(file, **arrays)
        file.write(b"PK\x03\x04 half")
        raise Killed

    patch.setattr(training.np, "savez", savez)


MOMENTS = {
    "before any epoch": lambda p: kill_at_call(
        p, training._RunFolder, "on_train_batch_end", 1
    ),
    "in the second epoch": lambda p: kill_at_call(
        p, training._RunFolder, "on_train_batch_end", 4
    ),
    "in the stage of whole images": lambda p: kill_at_call(
        p, training._RunFolder, "on_train_batch_end", 5
    ),
    "before the weights": lambda p: kill_at_call(p, training, "save_weights", 2),
    "between weights and state": lambda p: kill_at_call(
        p, training._RunFolder, "_save_log", 2
    ),
    "in the middle of the state": lambda p: half_a_state(p, 2),
    "right after the state": lambda p: kill_at_call(
        p, training._RunFolder, "_save_state", 2, after=True
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_to_the_same_numbers(
    moment, whole_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises(Killed):
            run(RECIPE, tmp_path / "run")
    keras.utils.set_random_seed(99)  # another process has another global state
    model = run(RECIPE, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole_run[0])
    for x, y in zip(model.get_weights(), whole_run[1].get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not list((tmp_path / "run").glob(".*"))


def test_a_killed_run_in_float16_resumes_with_its_loss_scale(tmp_path, monkeypatch):
    recipe = replace(PLAIN, epochs=2, precision="mixed_float16")
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at_call(patch, training._RunFolder, "on_train_batch_end", 4)
        with pytest.raises(Killed):
            run(recipe, tmp_path / "run")
    run(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole_run, tmp_path):
    run(RECIPE, tmp_path / "same")
    assert_same_run(tmp_path / "same", whole_run[0])
    run(replace(RECIPE, seed=1), tmp_path / "other")
    ours, theirs = weights_of(tmp_path / "other"), weights_of(whole_run[0])
    assert not np.array_equal(ours[0], theirs[0])


def test_a_finished_run_is_left_as_it_is(whole_run):
    folder, model = whole_run
    before = files_of(folder)
    again = run(RECIPE, folder, resume=True)
    assert files_of(folder) == before
    for x, y in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


# ------------------------------------------------------------------ the run folder


def test_the_model_returned_is_the_one_saved_last(whole_run):
    folder, model = whole_run
    for x, y in zip(weights_of(folder), model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_log_csv_has_a_row_an_epoch(whole_run):
    rows = log_of(whole_run[0])
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["epoch", "loss", "val_loss", "learning_rate", "seconds"]
    for row in rows:
        assert 0 < float(row["loss"]) < 2
        assert 0 < float(row["val_loss"]) < 2
        assert 0 <= float(row["learning_rate"]) <= 1e-2
    seconds = [float(r["seconds"]) for r in rows]
    assert seconds == sorted(seconds)


def test_run_json_says_what_was_run(whole_run):
    stored = json.loads((whole_run[0] / "run.json").read_text())
    Recipe(**stored["recipe"])  # as JSON has it, with lists
    recipe = {**stored["recipe"]}
    recipe["learning_rates"] = tuple(map(tuple, recipe["learning_rates"]))
    recipe["plateau"] = tuple(recipe["plateau"])
    assert Recipe(**recipe) == RECIPE
    assert len(stored["images"]) == 2
    assert len(stored["validation"]) == 1
    assert sorted(stored["images"] + stored["validation"]) == ["a", "b", "c"]
    assert stored["versions"]["keras"] == keras.__version__
    assert {"python", "numpy", "saunet"} <= set(stored["versions"])
    assert stored["backend"] == keras.backend.backend()
    assert {"device", "commit", "date"} <= set(stored)
    assert stored["hours"] >= 0


def test_the_best_weights_are_those_of_the_lowest_val_loss(tmp_path, monkeypatch):
    values = iter([0.5, 0.3, 0.4])
    monkeypatch.setattr(training._RunFolder, "_validate", lambda self: next(values))
    kept = []
    real = training._RunFolder._save_state

    def save_state(self):
        real(self)
        kept.append(weights_of(self.folder))

    monkeypatch.setattr(training._RunFolder, "_save_state", save_state)
    run(replace(PLAIN, validation=1), tmp_path / "run")
    best = weights_of(tmp_path / "run", "best")
    matches = [all(map(np.array_equal, best, one)) for one in kept]
    assert matches == [False, True, False]


def test_without_validation_there_is_no_best(tmp_path):
    run(replace(PLAIN, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "best.weights.h5").exists()
    assert "val_loss" not in log_of(tmp_path / "run")[0]


def test_the_moving_average_is_saved_and_training_goes_on_without_it(
    tmp_path, monkeypatch
):
    averages, raws = [], []
    real = training._RunFolder._save_state

    def save_state(self):
        real(self)
        averages.append(weights_of(self.folder)[0])
        raws.append(np.array(self.model.trainable_variables[0]))

    monkeypatch.setattr(training._RunFolder, "_save_state", save_state)
    recipe = replace(PLAIN, ema=0.2, steps_per_epoch=1, epochs=5)
    run(recipe, tmp_path / "run")
    for k in (1, 2, 3):
        expected = 0.2 * averages[k - 1] + 0.8 * raws[k]
        np.testing.assert_allclose(averages[k], expected, atol=1e-6)
        assert not np.allclose(averages[k], raws[k], atol=1e-6)


def recorded(monkeypatch, name):
    """Patches a batch generator of `training` to note how it is called."""
    real, calls = getattr(training, name), []

    def record(samples, **options):
        calls.append(([s.name for s in samples], options))
        return real(samples, **options)

    monkeypatch.setattr(training, name, record)
    return calls


def test_whole_epochs_are_the_last_ones(tmp_path, monkeypatch):
    calls = recorded(monkeypatch, "random_batches")
    run(replace(RECIPE, validation=("b",), upright=0.5), tmp_path / "run")
    (crops, first), (whole, second) = calls
    assert crops == whole == ["a", "c"]
    assert first["upright"] == second["upright"] == 0.5
    assert (first["crop"], first["batch_size"], first["start"]) == (16, 4, 0)
    # two epochs of two steps came before; a quarter of the images a step
    assert (second["crop"], second["batch_size"], second["start"]) == (None, 1, 4)
    assert len(log_of(tmp_path / "run")) == 3


@pytest.mark.parametrize(("limit", "crop"), [(32 * 32, None), (32 * 32 - 1, 48)])
def test_photographs_too_large_to_be_seen_whole_are_seen_as_predict_does(
    limit, crop, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "WHOLE_PIXELS", limit)
    monkeypatch.setattr(training, "TILE", 48)
    calls = recorded(monkeypatch, "random_batches")
    run(replace(RECIPE, validation=0), tmp_path / "run")
    assert [options["crop"] for _, options in calls] == [16, crop]


def test_held_out_photographs_too_large_are_validated_in_tiles(tmp_path, monkeypatch):
    """No network gets the whole of one, and val_loss is about the same."""
    shapes, real = [], keras.Model.predict_on_batch
    monkeypatch.setattr(
        keras.Model,
        "predict_on_batch",
        lambda self, x: shapes.append(x.shape[1:3]) or real(self, x),
    )
    samples = [fundus_like(400, 350, seed=i, name=n) for i, n in enumerate("abc")]
    for folder in ("whole", "tiles"):
        train(replace(PLAIN, validation=1), samples, tmp_path / folder, progress=False)
        if folder == "whole":
            assert set(shapes) == {(400, 400)}
            shapes.clear()
            monkeypatch.setattr(training, "WHOLE_PIXELS", 399**2)
            monkeypatch.setattr(training, "TILE", 320)
    assert set(shapes) == {(320, 320)}
    whole, tiles = (
        [float(row["val_loss"]) for row in log_of(tmp_path / folder)]
        for folder in ("whole", "tiles")
    )
    # Without the padding, of which BCE has a little and MCC none.
    np.testing.assert_allclose(tiles, whole, rtol=0.05)


def test_too_little_memory_is_one_line(tmp_path, monkeypatch):
    class ResourceExhaustedError(Exception):  # what TensorFlow's is called
        pass

    def full(self, batch, logs=None):
        if self.epochs_done == 1:
            raise ResourceExhaustedError("OOM when allocating tensor\nwith shape")

    monkeypatch.setattr(training._RunFolder, "on_train_batch_end", full)
    with pytest.raises(RunError) as caught:
        run(PLAIN, tmp_path / "run")
    message = str(caught.value)
    assert "the memory does not hold a step of epoch 2" in message
    assert f"1 whole epochs are kept in {tmp_path / 'run'}" in message
    assert "\n" not in message


def test_a_full_disk_is_not_too_little_memory():
    said = RuntimeError("RESOURCE_EXHAUSTED: log; No space left on device")
    assert not training._out_of_memory(said)
    assert training._out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: 12 GiB"))


def test_half_a_file_of_a_killed_run_goes(tmp_path):
    recipe = replace(PLAIN, epochs=2)
    run(recipe, tmp_path / "run")
    half = tmp_path / "run" / ".123.state.npz"
    half.write_bytes(b"PK")
    run(recipe, tmp_path / "run", resume=True)
    assert not half.exists()


def test_a_training_says_what_it_computes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "_device", lambda devices: f"{devices} H200")
    train(PLAIN, SAMPLES, tmp_path / "run")
    assert capsys.readouterr().out.startswith("training on 1 H200 in float32\n")


def test_the_thirteen_copies_are_made_after_the_split(tmp_path, monkeypatch):
    calls = recorded(monkeypatch, "fixed_batches")
    recipe = replace(
        PLAIN,
        augmentation="thirteen",
        placement="bottom_right",
        crop=None,
        steps_per_epoch=None,
        batch_size=26,
        epochs=1,
        validation=("b",),
    )
    model = run(recipe, tmp_path / "run")
    ((names, options),) = calls
    assert len(names) == 26
    assert {n.split("_")[0] for n in names} == {"a", "c"}
    assert options["placement"] == "bottom_right"
    # one pass over the copies is one step of 26
    assert int(model.optimizer.iterations) == 1


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_the_precision_is_the_models_alone(precision, tmp_path):
    model = run(replace(PLAIN, epochs=1, precision=precision), tmp_path / "run")
    assert model.get_layer("a_conv").dtype_policy.name == precision
    assert keras.config.dtype_policy().name == "float32"
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    assert all(np.isfinite(w).all() for w in weights_of(tmp_path / "run"))


@pytest.mark.parametrize(
    ("faster", "taken"), [(True, "mixed_bfloat16"), (False, "float32")]
)
def test_auto_is_the_machines_precision_and_the_run_keeps_it(
    faster, taken, tmp_path, monkeypatch
):
    recipe = replace(PLAIN, epochs=2, precision="auto")
    monkeypatch.setattr(training, "bfloat16_is_faster", lambda: faster)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at_call(patch, training._RunFolder, "on_train_batch_end", 4)
        with pytest.raises(Killed):
            run(recipe, folder)
    # another machine, which would choose otherwise, goes on in the same precision
    monkeypatch.setattr(training, "bfloat16_is_faster", lambda: not faster)
    model = run(recipe, folder, resume=True)
    assert model.get_layer("a_conv").dtype_policy.name == taken
    stored = json.loads((folder / "run.json").read_text())["recipe"]
    assert stored == json.loads(json.dumps(asdict(replace(recipe, precision=taken))))
    # and by what it was trained in, said outright
    run(replace(recipe, precision=taken), folder, resume=True)
    other = {"mixed_bfloat16": "float32", "float32": "mixed_bfloat16"}[taken]
    with pytest.raises(InputError, match=f"started with precision='{taken}'"):
        run(replace(recipe, precision=other), folder, resume=True)


@pytest.mark.slow
def test_a_real_network_trains(tmp_path, monkeypatch):
    monkeypatch.undo()
    recipe = replace(
        training.RECIPES["smoke"], epochs=2, steps_per_epoch=6, crop=64, batch_size=2
    )
    samples = [fundus_like(96, 80, seed=i, name=str(i)) for i in range(2)]
    model = train(recipe, samples, tmp_path / "run", progress=False)
    assert model.count_params() == 260_521
    rows = log_of(tmp_path / "run")
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    if keras.backend.backend() == "tensorflow":
        assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))


# ---------------------------------------------------------------------- bad ends


def snapshots(monkeypatch):
    """Returns a list that gets the files' bytes after each whole epoch."""
    kept, real = [], training._RunFolder._save_state

    def save_state(self):
        real(self)
        kept.append(files_of(self.folder))

    monkeypatch.setattr(training._RunFolder, "_save_state", save_state)
    return kept


def test_a_nan_loss_ends_the_run_and_keeps_what_was_saved(tmp_path, monkeypatch):
    kept = snapshots(monkeypatch)
    # A step of 1e38 and the next loss is not a number.
    recipe = replace(
        PLAIN,
        learning_rates=((1, 1e-3), (2, 1e38)),
        clip_norm=None,
        steps_per_epoch=3,
    )
    with pytest.raises(RunError) as caught:
        run(recipe, tmp_path / "run")
    message = str(caught.value)
    assert "\n" not in message
    assert "step 2 of epoch 2: lower the learning rate" in message
    assert f"1 whole epochs are kept in {tmp_path / 'run'}" in message
    assert files_of(tmp_path / "run") == kept[0]


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    """The last step of an epoch breaks the weights; its loss was still a number."""
    kept = snapshots(monkeypatch)
    recipe = replace(
        PLAIN,
        learning_rates=((1, 1e-3), (2, 1e38)),
        clip_norm=None,
        steps_per_epoch=1,
        validation=1,
    )
    with pytest.raises(RunError):
        run(recipe, tmp_path / "run")
    assert files_of(tmp_path / "run") == kept[-1]
    for name in ("last", "best"):
        assert all(np.isfinite(w).all() for w in weights_of(tmp_path / "run", name))


@pytest.mark.parametrize("part", ["weights", "log", "state"])
def test_a_full_disk_keeps_what_was_saved(part, tmp_path, monkeypatch, whole_run):
    kept = snapshots(monkeypatch)
    owner, name = {
        "weights": (training, "save_weights"),
        "log": (training, "write_bytes"),
        "state": (training.np, "savez"),
    }[part]
    real = getattr(owner, name)

    def full(*args, **kwargs):
        if kept:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        message = "epoch 2 cannot be saved .*No space left.*the 1 before .*--resume"
        with pytest.raises(RunError, match=message):
            run(RECIPE, tmp_path / "run")
    assert len(kept) == 1
    assert not list((tmp_path / "run").glob(".*"))  # on the full disk
    now = files_of(tmp_path / "run")
    assert now["state.npz"] == kept[0]["state.npz"]
    for name in ("last", "best"):
        assert all(np.isfinite(w).all() for w in weights_of(tmp_path / "run", name))
    run(RECIPE, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole_run[0])


def test_a_folder_in_use_is_refused(whole_run, tmp_path):
    folder, _ = whole_run
    before = files_of(folder)
    with pytest.raises(InputError, match="already holds a run: choose another"):
        run(RECIPE, folder)
    assert files_of(folder) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty: choose a new folder"):
        run(RECIPE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_what_a_killed_run_left_is_no_run(tmp_path):
    part_of(tmp_path / "run.json").touch()
    (tmp_path / ".lock").touch()
    training.check_new(tmp_path)


def test_resuming_by_another_recipe_or_data_is_refused(whole_run):
    folder, _ = whole_run
    with pytest.raises(InputError, match=r"started with ema=0\.8, not 0\.9: resume"):
        run(replace(RECIPE, ema=0.9), folder, resume=True)
    more = [*SAMPLES, fundus_like(32, 32, name="d")]
    with pytest.raises(InputError, match="started with other images"):
        train(RECIPE, more, folder, resume=True)


@pytest.mark.parametrize(("what", "place"), [("photograph", 0), ("label", 1)])
def test_resuming_with_what_has_changed_behind_a_name_is_refused(
    whole_run, what, place
):
    folder, _ = whole_run
    before = files_of(folder)
    for index, one in enumerate(SAMPLES):
        other = SAMPLES[index - 1]  # seen as well, but by another name
        arrays = [one.image, one.vessels]
        arrays[place] = [other.image, other.vessels][place]
        changed = [*SAMPLES]
        changed[index] = replace(one, image=arrays[0], vessels=arrays[1])
        with pytest.raises(InputError, match=f"another {what} of the name {one.name}"):
            train(RECIPE, changed, folder, resume=True)
    assert files_of(folder) == before


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """A field that it does not know had our default."""
    run(replace(RECIPE, epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    stored = json.loads(path.read_text())
    assert stored["recipe"].pop("upright") == 0
    for digests in ("images_sha256", "labels_sha256", "seen_sha256"):
        assert len(stored.pop(digests)) == 3
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"started with upright=0\.0, not 0\.5"):
        run(replace(RECIPE, epochs=1, upright=0.5), tmp_path / "run", resume=True)
    run(replace(RECIPE, epochs=1), tmp_path / "run", resume=True)


def test_a_finished_run_outlives_the_weights_it_began_with(
    whole_run, tmp_path, monkeypatch
):
    given = tmp_path / "given"
    shutil.copytree(whole_run[0], given)
    recipe = replace(PLAIN, start_from=str(given))
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at_call(patch, training._RunFolder, "_save_state", 1, after=True)
        with pytest.raises(Killed):
            run(recipe, tmp_path / "half")
    shutil.copy(tmp_path / "whole" / "last.weights.h5", given / "best.weights.h5")
    run(recipe, tmp_path / "whole", resume=True)
    with pytest.raises(InputError, match="started from other weights than those"):
        run(recipe, tmp_path / "half", resume=True)


def test_a_run_that_others_go_on_with_says_so(tmp_path, monkeypatch):
    about = {"device": "1 H200", "commit": "aaaa"}
    monkeypatch.setattr(training, "_device", lambda devices: about["device"])
    monkeypatch.setattr(training, "_commit", lambda: about["commit"])
    for epoch in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            kill_at_call(patch, training._RunFolder, "_save_state", 1, after=True)
            with pytest.raises(Killed):
                run(PLAIN, tmp_path / "run", resume=epoch > 1)
        stored = json.loads((tmp_path / "run" / "run.json").read_text())
        assert "continued" not in stored
    about["commit"] = "bbbb"
    run(PLAIN, tmp_path / "run", resume=True)
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    (later,) = stored["continued"]
    assert (stored["commit"], later["commit"]) == ("aaaa", "bbbb")
    assert later["after_epoch"] == 2
    about["device"] = "2 CPU cores"
    run(PLAIN, tmp_path / "run", resume=True)  # finished: nothing went on
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == stored


def test_a_run_starts_from_given_weights(whole_run, tmp_path):
    """By a rate of next to nothing what was given comes out."""
    given, _ = whole_run
    recipe = replace(PLAIN, learning_rates=((3, 1e-12),), start_from=str(given))
    run(recipe, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["start_sha256"] == sha256_of(given / "best.weights.h5")
    kernel, began = weights_of(tmp_path / "run")[0], weights_of(given, "best")[0]
    np.testing.assert_allclose(kernel, began, atol=1e-6)
    run(replace(recipe, start_from=None), tmp_path / "anew")
    assert np.abs(weights_of(tmp_path / "anew")[0] - began).max() > 0.01


def test_a_run_knows_what_its_start_was_trained_on(whole_run, tmp_path):
    given, _ = whole_run
    seen = json.loads((given / "run.json").read_text())["images"]
    recipe = replace(PLAIN, start_from=str(given))
    run(recipe, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    # What chose the epoch of the start is seen, too.
    assert stored["start_images"] == ["a", "b", "c"] != sorted(seen)
    assert seen_images(tmp_path / "run") == ["a", "b", "c"]
    digests = {sha256_of_pixels(sample.image) for sample in SAMPLES}
    assert seen_pixels(tmp_path / "run") == seen_pixels(given) == digests


def test_the_pixels_that_the_start_has_seen_are_seen(whole_run, tmp_path):
    others = [fundus_like(32, 32, seed=9, name="d")]
    recipe = replace(PLAIN, start_from=str(whole_run[0]))
    train(recipe, others, tmp_path / "run", progress=False)
    digests = {sha256_of_pixels(sample.image) for sample in [*SAMPLES, *others]}
    assert seen_pixels(tmp_path / "run") == digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 32}, "crop=32 is of random views"),
        ({"upright": 0.5}, r"upright=0\.5 is of random views"),
        ({"augmentation": "random", "whole_epochs": 1}, "crop is None: set it to 0"),
        ({"augmentation": "random", "placement": "bottom_right"}, "are centered"),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe("sa_unet_v2", **{"augmentation": "none", **changes})


def test_options_of_no_network_leave_no_folder(tmp_path, monkeypatch):
    from saunet.models import build_model

    monkeypatch.setattr(training, "build_model", build_model)
    recipe = replace(PLAIN, model_kwargs={"rate": 2})
    with pytest.raises(InputError, match="no network: `rate` is the dropped share"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_one_line(tmp_path):
    run(replace(PLAIN, epochs=1), tmp_path / "run")
    state = tmp_path / "run" / "state.npz"
    state.write_bytes(state.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"state\.npz: is damaged"):
        run(replace(PLAIN, epochs=1), tmp_path / "run", resume=True)


def test_a_run_whose_state_is_gone_is_not_begun_anew(tmp_path):
    """It would write over the weights that are there."""
    folder = tmp_path / "run"
    run(replace(PLAIN, epochs=2), folder)
    before = (folder / "last.weights.h5").read_bytes()
    (folder / "state.npz").unlink()
    with pytest.raises(InputError, match=r"state\.npz: is missing: bring it back"):
        run(replace(PLAIN, epochs=2), folder, resume=True)
    assert (folder / "last.weights.h5").read_bytes() == before


def test_a_run_notes_the_field_of_view_unless_it_saw_pieces(tmp_path):
    whole = [synthetic_fundus(seed, height=96, width=96) for seed in range(3)]
    pieces = [
        replace(s, image=s.image[32:64, 32:64], vessels=SAMPLES[0].vessels)
        for s in whole
    ]
    noted = {}
    for name, images in (("whole", whole), ("pieces", pieces)):
        train(replace(PLAIN, epochs=1), images, tmp_path / name)
        about = json.loads((tmp_path / name / "run.json").read_text())
        noted[name] = about.get("fov_diameter")
    median = np.median([field_of_view(s.image)[1] for s in whole])
    assert noted == {"whole": round(median), "pieces": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, name=7), "name of a sample: 7, expected a str"),
        (lambda s: replace(s, vessels=1 - s.vessels), "expected less than half"),
    ],
)
def test_samples_of_other_kinds_are_refused(tmp_path, change, message):
    changed = [change(SAMPLES[0]), *SAMPLES[1:]]
    with pytest.raises(InputError, match=message):
        train(PLAIN, changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_is_not_held_out_from_itself(tmp_path):
    twin = replace(SAMPLES[0], name="twin")
    with pytest.raises(InputError, match="'twin' is held out and has the pixels of"):
        train(replace(PLAIN, validation=("twin",)), [*SAMPLES, twin], tmp_path / "r")


@pytest.mark.parametrize("start", ["", Path("runs/mine"), 3])
def test_weights_to_start_from_are_a_word(start):
    with pytest.raises(InputError, match=r"start_from=.* must be None or a str"):
        replace(RECIPE, start_from=start)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("sa_unet_v2_driven", "no weights 'sa_unet_v2_driven': give a training run"),
        ("weights/sa_unet_drive/model.weights.h5", "a_conv"),
    ],
)
def test_weights_that_do_not_fit_leave_no_folder(start, message, tmp_path):
    start = str(ROOT / start) if "/" in start else start
    with pytest.raises(InputError, match=message):
        run(replace(RECIPE, start_from=start), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_to_resume_is_refused(exists, tmp_path):
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with pytest.raises(InputError, match="holds no run to resume: leave out --resume"):
        run(RECIPE, folder, resume=True)


@pytest.mark.parametrize(
    "changes", [{"model": "sa_nuet"}, {"model_kwargs": {"keep_prob": 0.8}}]
)
def test_a_network_that_does_not_exist_leaves_no_folder(changes, tmp_path, monkeypatch):
    from saunet.models import build_model

    monkeypatch.setattr(training, "build_model", build_model)
    with pytest.raises(InputError):
        run(replace(RECIPE, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


# ---------------------------------------------------------------- early stopping


def test_early_stopping_ends_the_run(tmp_path, monkeypatch):
    values = iter([0.5, 0.3, 0.4, 0.6, 0.1])
    monkeypatch.setattr(training._RunFolder, "_validate", lambda self: next(values))
    recipe = replace(PLAIN, epochs=5, validation=1, early_stopping=2)
    run(recipe, tmp_path / "run")
    assert len(log_of(tmp_path / "run")) == 4
    assert "hours" in json.loads((tmp_path / "run" / "run.json").read_text())


def test_early_stopping_among_the_crops_skips_the_whole_images(tmp_path, monkeypatch):
    values = iter([0.1, 0.3, 0.4, 0.6, 0.7])
    monkeypatch.setattr(training._RunFolder, "_validate", lambda self: next(values))
    recipe = replace(RECIPE, epochs=5, whole_epochs=2, early_stopping=1)
    model = run(recipe, tmp_path / "run")
    assert len(log_of(tmp_path / "run")) == 2
    for x, y in zip(weights_of(tmp_path / "run"), model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def histories(n=12, length=60):
    for seed in range(n):
        rng = np.random.default_rng(seed)
        steps = rng.normal(-0.02, 0.1, length) * (rng.random(length) < 0.5)
        # down to steps about Keras's `min_delta` of 1e-4
        steps = steps / 10 ** rng.integers(0, 4, length)
        steps[length // 3 :] /= 10 ** (seed % 4)
        yield np.abs(1 + np.cumsum(steps)).astype("float32").astype(float)


@pytest.mark.parametrize(
    "plateau", [(0.5, 3, 1e-6), (0.2, 1, 1e-4), (0.5, 10, 1e-3), (0.5, 2, 1e-2)]
)
def test_plateau_rate_is_that_of_kerass_callback(plateau):
    factor, patience, minimum = plateau
    rates = ((1, 2e-3),)
    recipe = replace(RECIPE, schedule="plateau", learning_rates=rates, plateau=plateau)
    for losses in histories():
        inputs = keras.Input((1,))
        model = keras.Model(inputs, layers.Identity()(inputs))
        model.compile(keras.optimizers.SGD(2e-3))
        callback = keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=factor, patience=patience, min_lr=minimum
        )
        callback.set_model(model)
        callback.on_train_begin()
        past = []
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"val_loss": loss})
            past.append({"val_loss": loss})
            rate = float(np.array(model.optimizer.learning_rate))
            assert plateau_rate(recipe, past) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("patience", [1, 4, 9])
def test_early_stopping_is_that_of_kerass_callback(patience):
    for losses in histories():
        callback = keras.callbacks.EarlyStopping("val_loss", patience=patience)
        model = keras.Sequential()
        model.stop_training = False
        callback.set_model(model)
        callback.on_train_begin()
        past = []
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"val_loss": loss})
            past.append({"val_loss": loss})
            assert callback.model.stop_training == (epochs_since_best(past) >= patience)
            if callback.model.stop_training:
                break


def test_a_nan_is_never_the_best():
    rows = [{"val_loss": v} for v in (0.5, 0.4, float("nan"))]
    assert epochs_since_best(rows) == 1


def test_the_plateau_schedule_reaches_the_optimizer(tmp_path, monkeypatch):
    values = iter([0.5, 0.6, 0.6, 0.6])
    monkeypatch.setattr(training._RunFolder, "_validate", lambda self: next(values))
    recipe = replace(
        PLAIN,
        epochs=4,
        schedule="plateau",
        plateau=(0.5, 1, 1e-6),
        learning_rates=((4, 8e-3),),
        validation=1,
    )
    run(recipe, tmp_path / "run")
    rates = [float(r["learning_rate"]) for r in log_of(tmp_path / "run")]
    np.testing.assert_allclose(rates, [8e-3, 8e-3, 4e-3, 2e-3], rtol=1e-6)


# --------------------------------------------------------------------- schedules


def rates_of(recipe, steps, at):
    rate = make_optimizer(recipe, steps)._learning_rate
    return [float(rate(k)) for k in at]


def test_steps_follow_the_learning_rates():
    recipe = replace(PLAIN, epochs=150, learning_rates=((100, 1e-3), (50, 1e-4)))
    got = rates_of(recipe, 65, [0, 100 * 65 - 1, 100 * 65 + 1, 150 * 65])
    np.testing.assert_allclose(got, [1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-6)


def test_one_cycle_warms_up_and_falls_to_a_hundredth():
    recipe = replace(RECIPE, epochs=10, learning_rates=((10, 2e-3),))
    got = rates_of(recipe, 100, [0, 100, 550, 1000])
    expected = [2e-3 / 25, 2e-3, 2e-3 * (1 + 0.01) / 2, 2e-5]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert max(rates_of(recipe, 100, range(0, 1001, 10))) <= 2e-3 * 1.0001


def test_the_optimizer_has_the_recipes_options():
    adamw = make_optimizer(RECIPE, 2)
    assert isinstance(adamw, keras.optimizers.AdamW)
    assert (adamw.weight_decay, adamw.global_clipnorm) == (1e-4, 1.0)
    assert (adamw.use_ema, adamw.ema_momentum) == (True, 1 - 4 / 6)
    adam = make_optimizer(PLAIN, 2)
    assert type(adam) is keras.optimizers.Adam
    assert not adam.use_ema


# ------------------------------------------------------------------------- split


def names(samples):
    return [s.name for s in samples]


def test_a_split_is_disjoint_complete_and_decided_by_the_seed():
    many = [fundus_like(32, 32, name=str(i)) for i in range(12)]
    train_part, held_out = split(many, 4, 0)
    assert len(held_out) == 4
    assert not set(names(train_part)) & set(names(held_out))
    assert sorted(names(train_part) + names(held_out)) == sorted(names(many))
    assert names(split(many, 4, 0)[1]) == names(held_out)
    # the order of the files on a disk changes nothing
    assert set(names(split(many[::-1], 4, 0)[1])) == set(names(held_out))
    drawn = {tuple(names(split(many, 4, seed)[1])) for seed in range(10)}
    assert len(drawn) > 5


def test_images_held_out_by_name():
    train_part, held_out = split(SAMPLES, ("c", "a"), 0)
    assert (names(train_part), names(held_out)) == (["b"], ["a", "c"])
    assert split(SAMPLES, 0, 0) == (SAMPLES, [])


@pytest.mark.parametrize(
    ("samples", "validation", "message"),
    [
        ([], 0, "training needs labels; without: no image"),
        ([replace(SAMPLES[0], vessels=None), SAMPLES[1]], 0, "without: a"),
        (SAMPLES, ("z",), "no training image 'z' to hold out; there are a, b, c"),
        (SAMPLES, 3, "holds out 3 of 3 images: none is left"),
        (SAMPLES, 5, "none is left"),
        (SAMPLES, ("a", "b", "c"), "none is left"),
        (SAMPLES, -1, "validation"),
        (SAMPLES, "a", "expected a number"),
        (SAMPLES, (1, 2), "names in quotes"),
        (SAMPLES, None, "expected a number"),
        (SAMPLES, 1.5, "expected a number"),
        ([replace(SAMPLES[0], vessels=BLANK)], 0, "no label of 1 has a vessel"),
        ([replace(SAMPLES[0], vessels=BLANK + 255)], 0, "'a': uint8 up to 255"),
        ([replace(SAMPLES[0], vessels=BLANK > 0)], 0, "'a': bool up to False"),
        ([replace(SAMPLES[0], vessels=BLANK[:8])], 0, r"\(8, 32\), but its image is"),
        ([replace(SAMPLES[0], image=BLANK)], 0, r"'a': uint8 \(32, 32\), expected"),
        ([*SAMPLES, SAMPLES[0]], 1, "two training images"),
    ],
)
def test_a_split_that_cannot_be_is_refused(samples, validation, message):
    with pytest.raises(InputError, match=message):
        split(samples, validation, 0)


# ------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("model", "crop", "fits"),
    [
        ("sa_unet", 48, False),
        ("sa_unet", 64, True),
        ("unet_32", 96, False),
        ("unet_32", 112, True),
    ],
)
def test_a_crop_holds_a_block_at_the_bottom(model, crop, fits, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "build_model", build_model)
    kwargs = {"rate": 0.1}
    recipe = replace(PLAIN, model=model, model_kwargs=kwargs, crop=crop, loss="bce")
    if fits:
        training._check_sizes(recipe, SAMPLES)
    else:
        with pytest.raises(InputError, match=f"views of {crop}x{crop} .* cannot hold"):
            run(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    whole = replace(recipe, crop=None)
    later = replace(recipe, crop=128, whole_epochs=1)
    with pytest.raises(InputError, match=r"views of 32x32 .* cannot hold"):
        training._check_sizes(later, SAMPLES)
    training._check_sizes(replace(later, whole_epochs=0), SAMPLES)
    with pytest.raises(InputError, match=r"views of 32x32 .* cannot hold"):
        training._check_sizes(whole, SAMPLES)


def test_a_run_of_two_devices_goes_on_on_two(tmp_path, monkeypatch):
    """Where epochs are left; a finished one is shipped from anywhere."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at_call(patch, training._RunFolder, "on_train_batch_end", 4)
        with pytest.raises(Killed):
            run(RECIPE, folder)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "devices": 2}))
    with pytest.raises(InputError, match=r"was started on 2 device\(s\)"):
        run(RECIPE, folder, resume=True)
    (folder / "run.json").write_text(json.dumps(about))
    run(RECIPE, folder, resume=True)
    (folder / "run.json").write_text(json.dumps({**about, "devices": 2, "hours": 1}))
    run(RECIPE, folder, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "iou"}, "loss='iou' is not one of bce, dice"),
        ({"augmentation": "some"}, "is not one of random, thirteen, none"),
        ({"placement": "left"}, "is not one of centered, bottom_right"),
        ({"optimizer": "sgd"}, "is not one of adam, adamw"),
        ({"schedule": "cosine"}, "is not one of steps, one_cycle, plateau"),
        ({"precision": "float64"}, "is not one of float32, mixed_bfloat16"),
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be an integer"),
        ({"steps_per_epoch": -1}, "steps_per_epoch=-1 must be"),
        ({"crop": 0}, "crop=0 must be None or an integer of at least 1"),
        ({"upright": 1.5}, "upright=1.5 must be a share of views, from 0 to 1"),
        ({"upright": "half"}, "upright='half' must be a share of views"),
        ({"crop": 100}, "crop=100 must be a multiple of 16"),
        ({"schedule": "plateau", "validation": 0}, "needs images held out"),
        ({"early_stopping": 3, "validation": 0}, "needs images held out"),
        ({"learning_rate": 1}, "no field 'learning_rate'; it has: augmentation"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        recipe_with(RECIPE, **changes)
    assert "\n" not in str(caught.value)


def test_recipe_with_replaces_and_leaves_the_original():
    changed = recipe_with(RECIPE, epochs=7, seed=3)
    assert (changed.epochs, changed.seed) == (7, 3)
    assert changed.ema == RECIPE.ema
    assert RECIPE.epochs == 3


# --------------------------------------------------------------- several outputs


def test_every_output_has_its_loss(tmp_path, monkeypatch):
    """AG-Net's side outputs: with twice the same map, twice the loss."""

    def twice(name, **kwargs):
        model = toy_network(name)
        copy = layers.Activation("linear", dtype="float32", name="copy")
        return keras.Model(model.input, [model.output, copy(model.output)], name=name)

    recipe = replace(PLAIN, loss="bce", epochs=1, validation=1)
    run(recipe, tmp_path / "one")
    monkeypatch.setattr(training, "build_model", twice)
    run(recipe, tmp_path / "two")
    (one,), (two,) = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    first = float(two["loss"]) / float(one["loss"])
    # The second step's weights already follow the other gradient.
    assert first == pytest.approx(2, rel=0.02)
    assert float(two["val_loss"]) == pytest.approx(2 * float(one["val_loss"]), rel=0.1)
