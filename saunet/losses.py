"""Losses on vessel probabilities: pure functions of truth and prediction.

Every loss takes `y_true` in {0, 1} and `y_pred` in [0, 1], both `(N, H, W, 1)`,
and returns one float32 number. The overlap losses (dice, jaccard, mcc) are soft
and count over the whole batch, as SA-UNetv2's code does.

They are written with means instead of sums: the product of four sums over 8
images of 592x592 reaches 1e25 in float32, while means cancel out of each ratio.
"""

import functools
import inspect

from keras import ops

from saunet.errors import InputError

# Keeps a ratio finite where truth or prediction holds one class only. One pixel
# of an 8x592x592 batch is a mean of 4e-7.
EPSILON = 1e-7


def bce(y_true, y_pred):
    """Binary cross-entropy, mean over all pixels."""
    y_true, y_pred = _float32(y_true, y_pred)
    # As Keras clips: float32 has no number between 1 - 6e-8 and 1.
    y_pred = ops.clip(y_pred, 1e-7, 1 - 1e-7)
    return -ops.mean(y_true * ops.log(y_pred) + (1 - y_true) * ops.log1p(-y_pred))


def dice(y_true, y_pred):
    """1 - Dice coefficient, `2 tp / (2 tp + fp + fn)`; 0 if nothing is there."""
    truth, prediction, both = _means(y_true, y_pred)
    return 1 - (2 * both + EPSILON) / (truth + prediction + EPSILON)


def jaccard(y_true, y_pred):
    """1 - Jaccard index, `tp / (tp + fp + fn)`; 0 if nothing is there."""
    truth, prediction, both = _means(y_true, y_pred)
    return 1 - (both + EPSILON) / (truth + prediction - both + EPSILON)


def mcc(y_true, y_pred):
    """1 - Matthews correlation coefficient, in [0, 2] (SA-UNetv2's L_MCC).

    With tp, tn, fp, fn as shares of the pixels, `tp tn - fp fn` is the covariance
    `mean(t p) - mean(t) mean(p)`, and the four sums under the root are `mean(p)`,
    `mean(t)`, `1 - mean(t)`, `1 - mean(p)`. Where truth holds one class only the
    coefficient is undefined: the loss is 1, without a gradient.
    """
    truth, prediction, both = _means(y_true, y_pred)
    product = truth * (1 - truth) * prediction * (1 - prediction)
    # Rounding can leave -1e-8. EPSILON sits under the root, whose gradient at 0 is
    # infinite; the authors add it to the root.
    root = ops.sqrt(ops.maximum(product, 0.0) + EPSILON**2)
    return 1 - (both - truth * prediction) / root


def bce_mcc(y_true, y_pred, *, bce_weight=0.5, mcc_weight=0.5):
    """`bce_weight BCE + mcc_weight (1 - MCC)`; by halves the loss of SA-UNetv2."""
    return bce_weight * bce(y_true, y_pred) + mcc_weight * mcc(y_true, y_pred)


LOSSES = {
    "bce": bce,
    "dice": dice,
    "jaccard": jaccard,
    "mcc": mcc,
    "bce_mcc": bce_mcc,
}


def get_loss(name, **options):
    """Returns the loss `name` with `options` (such as `mcc_weight`) bound.

    Raises:
        InputError: No loss has this name, or it does not take such an option.
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss '{name}': known are {', '.join(LOSSES)}")
    known = list(inspect.signature(LOSSES[name]).parameters)[2:]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"loss '{name}' has no option '{unknown[0]}'; it takes: "
            f"{', '.join(known) or 'none'}"
        )
    loss = functools.partial(LOSSES[name], **options)
    loss.__name__ = name
    return loss


def _float32(y_true, y_pred):
    return ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")


def _means(y_true, y_pred):
    """Returns the means of truth, of prediction and of their product."""
    y_true, y_pred = _float32(y_true, y_pred)
    return ops.mean(y_true), ops.mean(y_pred), ops.mean(y_true * y_pred)
