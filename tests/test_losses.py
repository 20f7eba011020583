"""Losses: by hand, against NumPy and scikit-learn, and where they might break."""

import keras
import numpy as np
import pytest
from helpers import gradients, on_tensorflow
from keras import ops
from sklearn.metrics import matthews_corrcoef

from saunet.errors import InputError
from saunet.losses import LOSSES, bce, bce_mcc, dice, get_loss, jaccard, mcc

TRUTH = np.zeros((1, 4, 4, 1), "float32")
TRUTH[0, :, 0] = 1  # 4 vessel pixels of 16
HALF = np.full_like(TRUTH, 0.5)
CLIPPED = -np.log(1e-7)  # the largest cross-entropy of a pixel


def value(loss, truth, prediction):
    return float(loss(truth, prediction))


@pytest.mark.parametrize(
    ("loss", "guess", "expected"),
    [
        (bce, TRUTH, 0),
        (bce, 1 - TRUTH, CLIPPED),
        (bce, HALF, np.log(2)),
        (dice, TRUTH, 0),
        (dice, 1 - TRUTH, 1),
        (dice, HALF, 1 - 2 * 2 / (4 + 8)),  # tp 2, truth 4, prediction 8
        (jaccard, TRUTH, 0),
        (jaccard, 1 - TRUTH, 1),
        (jaccard, HALF, 1 - 2 / (4 + 8 - 2)),
        (mcc, TRUTH, 0),
        (mcc, 1 - TRUTH, 2),
        (mcc, HALF, 1),  # tp 2, fp 6, fn 2, tn 6: 2 * 6 - 6 * 2 = 0
        (bce_mcc, TRUTH, 0),
        (bce_mcc, 1 - TRUTH, (CLIPPED + 2) / 2),
        (bce_mcc, HALF, (np.log(2) + 1) / 2),
    ],
)
def test_by_hand(loss, guess, expected):
    # 2e-2 of 16 is float32's grain at 1 - 1e-7
    tolerance = 0.2 if expected > 5 else 1e-5
    assert value(loss, TRUTH, guess) == pytest.approx(expected, abs=tolerance)


def test_no_loss_is_forgotten():
    assert LOSSES == {
        "bce": bce,
        "dice": dice,
        "jaccard": jaccard,
        "mcc": mcc,
        "bce_mcc": bce_mcc,
    }


def oracle(name, truth, prediction):
    """The formulas of the papers in float64, with sums, as their code has them."""
    t, p = np.float64(truth).ravel(), np.float64(prediction).ravel()
    tp, fp = (t * p).sum(), ((1 - t) * p).sum()
    fn, tn = (t * (1 - p)).sum(), ((1 - t) * (1 - p)).sum()
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    cut = np.clip(p, 1e-7, 1 - 1e-7)
    values = {
        "bce": -np.mean(t * np.log(cut) + (1 - t) * np.log(1 - cut)),
        "dice": 1 - 2 * tp / (2 * tp + fp + fn),
        "jaccard": 1 - tp / (tp + fp + fn),
        "mcc": 1 - (tp * tn - fp * fn) / (root + 1e-7),
    }
    values["bce_mcc"] = 0.5 * values["bce"] + 0.5 * values["mcc"]
    return values[name]


@pytest.fixture(scope="module")
def large():
    """Eight vessel maps of 592x592: a product of four sums reaches 1e25 there."""
    rng = np.random.default_rng(0)
    truth = rng.random((8, 592, 592, 1), "float32") < 0.09
    noise = rng.random(truth.shape, "float32")
    prediction = np.where(truth, 0.3 + 0.7 * noise, 0.4 * noise**3)
    return truth.astype("float32"), prediction.astype("float32")


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_8_photographs_in_float32_equals_float64(name, large):
    got = value(LOSSES[name], *large)
    assert got == pytest.approx(oracle(name, *large), rel=2e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_random_maps_equal_float64(name, share):
    rng = np.random.default_rng(1)
    truth = (rng.random((2, 20, 30, 1)) < share).astype("float32")
    prediction = rng.random(truth.shape).astype("float32")
    got = value(LOSSES[name], truth, prediction)
    assert got == pytest.approx(oracle(name, truth, prediction), rel=1e-5)


def test_mcc_of_binary_maps_is_scikit_learns():
    rng = np.random.default_rng(2)
    for share in (0.1, 0.5, 0.8):
        truth = rng.random(500) < share
        guess = truth ^ (rng.random(500) < 0.2)
        shaped = [v.reshape(1, 20, 25, 1).astype("float32") for v in (truth, guess)]
        expected = 1 - matthews_corrcoef(truth, guess)
        assert value(mcc, *shaped) == pytest.approx(expected, abs=1e-5)


def test_bce_is_keras_own():
    rng = np.random.default_rng(3)
    truth = (rng.random((2, 8, 8, 1)) < 0.3).astype("float32")
    prediction = rng.random(truth.shape).astype("float32")
    expected = ops.mean(keras.losses.binary_crossentropy(truth, prediction))
    assert value(bce, truth, prediction) == pytest.approx(float(expected), rel=1e-6)


def test_bce_of_a_batch_is_the_mean_of_its_images():
    rng = np.random.default_rng(4)
    truth = (rng.random((3, 8, 8, 1)) < 0.3).astype("float32")
    prediction = rng.random(truth.shape).astype("float32")
    single = [value(bce, truth[i], prediction[i]) for i in range(3)]
    assert value(bce, truth, prediction) == pytest.approx(np.mean(single), rel=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard", "mcc"])
def test_overlap_is_counted_over_the_whole_batch(name):
    rng = np.random.default_rng(5)
    truth = (rng.random((2, 16, 16, 1)) < [[[[0.05]]], [[[0.6]]]]).astype("float32")
    prediction = rng.random(truth.shape).astype("float32") ** 2
    side_by_side = [np.concatenate(list(v), axis=0)[None] for v in (truth, prediction)]
    loss = LOSSES[name]
    together = value(loss, truth, prediction)
    assert together == pytest.approx(value(loss, *side_by_side), rel=1e-6)
    single = np.mean([value(loss, truth[i], prediction[i]) for i in range(2)])
    assert abs(together - single) > 1e-3


FLAT = {"nothing": 0.0, "everything": 1.0}


@on_tensorflow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("truth", FLAT)
@pytest.mark.parametrize("guess", [0.0, 1e-8, 0.3, 1.0, "noise"])
def test_one_class_alone_leaves_value_and_gradient_finite(name, truth, guess):
    y_true = np.full((2, 8, 8, 1), FLAT[truth], "float32")
    if guess == "noise":
        prediction = np.random.default_rng(6).random(y_true.shape)
    else:
        prediction = np.full(y_true.shape, guess)
    prediction = ops.convert_to_tensor(prediction.astype("float32"))
    values = []

    def loss():
        values.append(LOSSES[name](y_true, prediction))
        return values[0]

    (gradient,) = gradients(loss, [prediction])
    assert np.isfinite(float(values[0]))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["dice", "jaccard"])
def test_nothing_found_where_nothing_is_costs_nothing(name):
    empty = np.zeros_like(TRUTH)
    assert value(LOSSES[name], empty, empty) == pytest.approx(0, abs=1e-6)
    assert value(LOSSES[name], empty, 1 - empty) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("flat", FLAT.values())
def test_mcc_is_1_where_it_is_undefined(flat):
    truth = np.full_like(TRUTH, flat)
    for guess in (TRUTH, HALF, truth, 1 - truth):
        assert value(mcc, truth, guess) == pytest.approx(1, abs=1e-5)


@on_tensorflow
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_points_from_wrong_to_right(name):
    guess = ops.convert_to_tensor(HALF)
    (gradient,) = gradients(lambda: LOSSES[name](TRUTH, guess), [guess])
    vessel = TRUTH.astype(bool)
    assert (gradient[vessel] < 0).all()
    assert (gradient[~vessel] > 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_predictions_are_counted_in_float32(name, dtype):
    prediction = ops.cast(np.abs(TRUTH - 0.25), dtype)
    loss = LOSSES[name](ops.cast(TRUTH, dtype), prediction)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    expected = oracle(name, TRUTH, np.abs(TRUTH - 0.25))
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_the_weights_of_bce_mcc_are_options():
    guess = np.clip(TRUTH, 0.2, 0.7)
    both = [value(bce, TRUTH, guess), value(mcc, TRUTH, guess)]
    assert value(bce_mcc, TRUTH, guess) == pytest.approx(sum(both) / 2)
    loss = get_loss("bce_mcc", bce_weight=0.3, mcc_weight=2)
    assert value(loss, TRUTH, guess) == pytest.approx(0.3 * both[0] + 2 * both[1])
    assert loss.__name__ == "bce_mcc"


def test_an_unknown_loss_names_the_known():
    with pytest.raises(InputError, match="'cldice': known are bce, dice, jaccard, mcc"):
        get_loss("cldice")
    with pytest.raises(InputError, match="no option 'mcc_weight'; it takes: none"):
        get_loss("mcc", mcc_weight=2)


def test_a_perfect_guess_of_one_pixel_costs_nothing():
    truth = np.zeros((1, 64, 64, 1), "float32")
    truth[0, 9, 9] = 1
    assert value(mcc, truth, truth) < 1e-4
