import math

import numpy as np
import pytest
from sklearn import metrics as reference

from saunet.metrics import (
    METRICS,
    Counts,
    SkeletonCounts,
    cldice,
    count,
    count_skeletons,
    pr_auc,
    roc_auc,
)

REFERENCE = {
    "sensitivity": reference.recall_score,
    "specificity": lambda truth, guess: reference.recall_score(~truth, ~guess),
    "accuracy": reference.accuracy_score,
    "precision": reference.precision_score,
    "f1": reference.f1_score,
    "jaccard": reference.jaccard_score,
    "mcc": reference.matthews_corrcoef,
}
SYMMETRIC = {"accuracy", "f1", "jaccard", "mcc"}  # in guess and truth
ASYMMETRIC = {"sensitivity", "specificity", "precision"}
UNDEFINED = {
    "nothing": (Counts(0, 0, 0, 0), set(METRICS)),
    "no vessel, none found": (
        Counts(0, 0, 0, 9),
        {"sensitivity", "precision", "f1", "jaccard", "mcc"},
    ),
    "no vessel, some found": (Counts(0, 4, 0, 5), {"sensitivity", "mcc"}),
    "vessels, none found": (Counts(0, 0, 4, 5), {"precision", "mcc"}),
    "all vessel, all found": (Counts(9, 0, 0, 0), {"specificity", "mcc"}),
}


def in_the_field(seed):
    """Returns probabilities, truth and a field of view, with ties at .5."""
    rng = np.random.default_rng(seed)
    truth = rng.random((60, 70)) < 0.2
    probability = np.round(np.clip(0.3 * truth + rng.random((60, 70)) * 0.7, 0, 1), 2)
    rows, columns = np.mgrid[:60, :70]
    return probability, truth, np.hypot(rows - 30, columns - 35) < 28


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_scikit_learn_in_a_field_of_view(name, seed):
    probability, truth, fov = in_the_field(seed)
    guess = probability > 0.5
    ours = METRICS[name](count(guess[fov], truth[fov]))
    assert ours == pytest.approx(REFERENCE[name](truth[fov], guess[fov]), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_areas_agree_with_scikit_learn_in_a_field_of_view(seed):
    probability, truth, fov = in_the_field(seed)
    false, true, _ = reference.roc_curve(truth[fov], probability[fov])
    area = reference.auc(false, true)
    assert roc_auc(probability[fov], truth[fov]) == pytest.approx(area, abs=1e-12)
    precision, recall, _ = reference.precision_recall_curve(
        truth[fov], probability[fov]
    )
    area = -np.sum(np.diff(recall) * precision[:-1])
    assert pr_auc(probability[fov], truth[fov]) == pytest.approx(area, abs=1e-12)


def test_hand_values():
    counts = count([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0, 0, 0])
    assert counts == Counts(tp=2, fp=1, fn=2, tn=5)
    expected = {
        "sensitivity": 2 / 4,
        "specificity": 5 / 6,
        "accuracy": 7 / 10,
        "precision": 2 / 3,
        "f1": 4 / 7,
        "jaccard": 2 / 5,
        "mcc": (2 * 5 - 1 * 2) / math.sqrt(3 * 4 * 6 * 7),
    }
    assert {name: METRICS[name](counts) for name in METRICS} == pytest.approx(expected)


def test_areas_by_hand():
    # Of four pairs of a vessel and a background pixel, one is a tie, none in order.
    assert roc_auc([0.9, 0.5, 0.5, 0.1], [0, 1, 0, 1]) == (0.5 + 0 + 0 + 0) / 4
    assert roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 3 / 4
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert pr_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(5 / 6)


@pytest.mark.parametrize("name", METRICS)
def test_perfect_and_perfectly_wrong(name):
    truth = np.eye(8, dtype=bool)
    assert METRICS[name](count(truth, truth)) == 1
    worst = -1 if name == "mcc" else 0
    assert METRICS[name](count(~truth, truth)) == worst


@pytest.mark.parametrize("case", UNDEFINED)
def test_undefined_is_nan_and_nothing_else_is(case):
    counts, undefined = UNDEFINED[case]
    found = {name for name, metric in METRICS.items() if math.isnan(metric(counts))}
    assert found == undefined


@pytest.mark.parametrize("truth", [np.zeros(5), np.ones(5)])
def test_areas_of_one_class_are_nan(truth):
    assert math.isnan(roc_auc(np.linspace(0, 1, 5), truth))
    assert math.isnan(pr_auc(np.linspace(0, 1, 5), truth))


def test_mcc_of_whole_datasets_does_not_overflow():
    counts = Counts(tp=10**9, fp=10**8, fn=2 * 10**8, tn=10**10)
    small = Counts(tp=10, fp=1, fn=2, tn=100)
    assert METRICS["mcc"](counts) == pytest.approx(METRICS["mcc"](small), rel=1e-12)


def test_counts_add_up_over_images():
    probability, truth, _ = in_the_field(0)
    guess = probability > 0.5
    halves = count(guess[:30], truth[:30]) + count(guess[30:], truth[30:])
    assert halves == count(guess, truth)
    assert halves.tp + halves.fp + halves.fn + halves.tn == truth.size


@pytest.mark.parametrize("name", METRICS)
def test_symmetry_is_as_listed(name):
    probability, truth, _ = in_the_field(1)
    guess = probability > 0.5
    same = METRICS[name](count(guess, truth)) == METRICS[name](count(truth, guess))
    assert same == (name in SYMMETRIC)


def test_no_metric_is_forgotten():
    assert set(METRICS) == set(REFERENCE) == SYMMETRIC | ASYMMETRIC


def line(*, row=10, length=20, width=5):
    """Returns a horizontal bar of odd width."""
    mask = np.zeros((40, 40), bool)
    mask[row - width // 2 : row + width // 2 + 1, 5 : 5 + length] = True
    return mask


def test_cldice_counts_a_lost_branch_not_a_lost_width():
    thick, thin = line(width=7), line(width=3)
    assert cldice(count_skeletons(thin, thick)) == 1
    both = thick | line(row=25, width=7)
    counts = count_skeletons(thick, both)
    assert counts.guess_hits == counts.guess_total == counts.truth_hits
    assert counts.truth_total == 2 * counts.truth_hits
    assert cldice(counts) == pytest.approx(2 / 3)  # precision 1, sensitivity 1/2


def test_cldice_pools_by_adding_hits():
    one, two = SkeletonCounts(3, 4, 2, 8), SkeletonCounts(1, 4, 4, 4)
    assert one + two == SkeletonCounts(4, 8, 6, 12)
    assert cldice(one + two) == pytest.approx(1 / 2)  # 2 * 1/2 * 1/2 / (1/2 + 1/2)
    assert cldice(one) == pytest.approx(2 * 3 / 4 * 1 / 4)


def test_cldice_of_degenerate_maps():
    empty = np.zeros((40, 40), bool)
    assert math.isnan(cldice(count_skeletons(empty, empty)))
    assert math.isnan(cldice(count_skeletons(empty, line())))
    assert math.isnan(cldice(count_skeletons(line(), empty)))
    assert cldice(count_skeletons(line(row=30), line())) == 0
