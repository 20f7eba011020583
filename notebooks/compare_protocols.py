# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Why two papers' numbers differ
#
# One set of probability maps, scored again and again: four protocols, many thresholds,
# frames of many sizes. The maps never change; the numbers do.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import brief, photographs, show

import saunet
from saunet.evaluation import evaluate, summarise
from saunet.metrics import METRICS, Counts, count, roc_auc

samples = photographs(brief(4, 2), part="test")
segmenter = saunet.load_pretrained("sa_unet_v2_drive")
maps = [segmenter.predict(sample.image) for sample in samples]

# %% [markdown]
# ## Four protocols
#
# **Region**: do all pixels of the *frame* count, or those in the *field of view* (FOV),
# the round part that shows an eye? **Pooling**: one count over the pixels of all
# images (*pooled*), or one score an image and then the *mean*?

# %%
sample = samples[0]
counted = sample.image.copy()
counted[sample.fov == 0] = (70, 70, 160)
show(
    [sample.image, counted, maps[0], sample.vessels],
    ["frame: all pixels", "FOV: not the blue ones", "probability", "true vessels"],
)
print(f"the FOV is {sample.fov.mean():.0%} of this frame")

# %%
COLUMNS = ("sensitivity", "specificity", "accuracy", "auc", "f1", "mcc")
print(f"{'region':8}{'pooling':8}" + "".join(f"{name:>13}" for name in COLUMNS))
scores = {}
for region in ("fov", "frame"):
    for pooling in ("pooled", "mean"):
        row = evaluate(maps, samples, region=region, pooling=pooling)
        scores[region, pooling] = row
        cells = "".join(f"{row[name]:13.4f}" for name in COLUMNS)
        print(f"{region:8}{pooling:8}{cells}")

# %% [markdown]
# Read a column: same maps, four values. From FOV to frame **specificity, accuracy and
# AUC rise**, sensitivity and F1 hardly move. Black corners are the reason.
#
# ## Why an AUC of .98 is not .98
#
# Outside the FOV there is nothing, and a network says so with certainty: each such
# pixel is a free true negative. AUC is the chance that a random vessel pixel gets a
# higher probability than a random other one, and a black corner is an easy other one.
# Accuracy counts it as a success. F1 does not count true negatives at all.
#
# Make the border wider, as far as you like:

# %%
inside = [sample.fov.astype(bool) for sample in samples]
values = np.concatenate([p[f] for p, f in zip(maps, inside, strict=True)])
labels = np.concatenate([s.vessels[f] for s, f in zip(samples, inside, strict=True)])
counts = count(values > 0.5, labels)
fov_auc = roc_auc(values, labels)

# A black pixel is below every vessel: it adds its share of sure wins.
others = counts.tn + counts.fp
shares = np.linspace(0, 0.9, 19)  # black pixels among all pixels
lines = {name: [] for name in ("AUC", "accuracy", "specificity", "F1")}
for share in shares:
    black = int(share / (1 - share) * labels.size)
    padded = Counts(counts.tp, counts.fp, counts.fn, counts.tn + black)
    lines["AUC"].append((fov_auc * others + black) / (others + black))
    for name in ("accuracy", "specificity", "F1"):
        lines[name].append(METRICS[name.lower()](padded))

figure, axis = plt.subplots(figsize=(5.4, 2.8), layout="constrained")
for name, numbers in lines.items():
    axis.plot(shares, numbers, label=name)
corners = 1 - np.mean([sample.fov.mean() for sample in samples])
axis.axvline(corners, color="grey", ls=":", label="this camera's corners")
axis.set(xlabel="black pixels among all pixels", ylabel="score")
axis.legend(frameon=False, fontsize=8)
assert lines["F1"][0] == lines["F1"][-1] and lines["AUC"][-1] > lines["AUC"][0]

# %% [markdown]
# We can check the formula: put the FOV's pixels and as many zeros into the AUC itself.

# %%
black = labels.size
direct = roc_auc(
    np.concatenate([values, np.full(black, -1.0)]),
    np.concatenate([labels, np.zeros(black, labels.dtype)]),
)
formula = (fov_auc * others + black) / (others + black)
print(f"FOV {fov_auc:.4f}; half of all pixels black: {direct:.4f}")
assert np.isclose(direct, formula)

# %% [markdown]
# On DRIVE, real numbers of one set of maps, those of the shipped weights:

# %%
from saunet.weights import find_pretrained, read_card

card = read_card(find_pretrained("sa_unet_v2_drive"))
for row in card["scores"]:
    cells = "".join(f"{row[name]:13.4f}" for name in COLUMNS)
    print(f"{row['region']:8}{row['pooling']:8}{cells}")

# %% [markdown]
# SA-UNet (2020) reports AUC .9864 in the frame. A paper of the same year that scores
# inside the FOV and reports .9810 may well have the better maps. SA-UNetv2's authors
# give both: accuracy .9698 in the frame and .9561 in the FOV, AUC .9872 and .9811, F1
# .8282 and .8284, of the same maps.
#
# ## Pooled or mean
#
# Pooled, a photograph with many vessels weighs more; in a mean every photograph weighs
# the same. Where all have about as many vessels the two agree.

# %%
rows = scores["fov", "pooled"]["per_image"]
for row in rows:
    print(f"{row['name']:14} vessels {row['tp'] + row['fn']:>7,}  F1 {row['f1']:.4f}")
for pooling in ("pooled", "mean"):
    print(f"{pooling:6} F1 {scores['fov', pooling]['f1']:.4f}")

# %% [markdown]
# An extreme case shows the difference: one image whose vessels are found, and a second
# one with a tenth as many, half of them missed.

# %%
first = np.zeros((20, 50))
first[:10] = 1
second = np.zeros((20, 50))
second[0] = 1
halved = second.copy()
halved[0, 25:] = 0
items = [("many", first, first, None), ("few", halved, second, None)]
extreme = {
    pooling: summarise(items, region="frame", pooling=pooling)["f1"]
    for pooling in ("pooled", "mean")
}
print(extreme)
assert np.isclose(extreme["mean"], (1 + 2 / 3) / 2)  # F1 of the second: 2/3
assert np.isclose(extreme["pooled"], 2 * 525 / (2 * 525 + 25))

# %% [markdown]
# ## The threshold
#
# A probability map has no sensitivity; a threshold gives it one. Lower it, and more
# vessels are found, and more are invented.

# %%
thresholds = np.linspace(0.02, 0.98, 49)
curve = {name: [] for name in ("sensitivity", "specificity", "f1", "accuracy")}
for threshold in thresholds:
    at = count(values > threshold, labels)
    for name, numbers in curve.items():
        numbers.append(METRICS[name](at))
figure, axis = plt.subplots(figsize=(5.4, 2.8), layout="constrained")
for name, numbers in curve.items():
    axis.plot(thresholds, numbers, label=name)
best = thresholds[np.argmax(curve["f1"])]
axis.axvline(0.5, color="grey", ls=":")
axis.axvline(best, color="#d55e00", ls=":")
axis.set(xlabel="threshold (0.5 dotted grey, best F1 dotted orange)", ylabel="score")
axis.legend(frameon=False, fontsize=8)
print(f"F1 {METRICS['f1'](count(values > 0.5, labels)):.4f} at 0.5, fixed beforehand")
print(f"F1 {max(curve['f1']):.4f} at {best:.2f}, chosen on these very images")

# %% [markdown]
# The second number is not a result. The threshold was chosen with the answers at hand,
# and so is every epoch, learning rate or crop that was kept because the *test* score
# rose. Choose on training or validation images, and say where.
#
# Even the tie matters: of a map in 8 bits "above 127" and "at least 127" differ by the
# pixels of one level. Here a vessel is *above* the threshold, .5 of full scale.

# %%
show(
    [(maps[0] > level).astype(float) for level in (0.1, 0.5, 0.9)],
    ["above 0.1", "above 0.5", "above 0.9"],
    size=2.4,
)

# %% [markdown]
# ## How good can a score be?
#
# Two experts who draw the same photograph disagree. On DRIVE's test part the second
# expert scores F1 .7891 (FOV, pooled) against the first: less than the networks, which
# learnt the first one's habits. Most of it is the rim of thin vessels.
#
# Where the data has a second observer we score them; a drawn photograph has none, so
# we imagine one who draws the same vessels one pixel to the right.

# %%
if all(sample.second_observer is not None for sample in samples):
    who, second = "second observer", [sample.second_observer for sample in samples]
else:
    who = "one pixel to the right"
    second = [np.roll(sample.vessels, 1, axis=1) for sample in samples]
human = evaluate(second, samples, region="fov", pooling="pooled")
ours = scores["fov", "pooled"]
print(f"{who}: F1 {human['f1']:.4f}; the network: F1 {ours['f1']:.4f}")

# %%
from saunet.viz import error_map


def crop(array):
    """Returns a piece near the middle."""
    height, width = array.shape[:2]
    return array[height // 5 : height // 2, width // 5 : width // 2]


show(
    [crop(sample.image)]
    + [
        crop(error_map(guess, sample.vessels, sample.fov))
        for guess in (second[0], maps[0] > 0.5)
    ],
    ["photograph", who, "network"],
    size=3,
)

# %% [markdown]
# White is found, orange invented, blue missed. Shifted by one pixel, every vessel is
# still there, and F1 falls far: it measures pixels, and a thin vessel is little but
# rim. clDice asks whether the *centre lines* lie in the other map. It forgives the rim
# of a wide vessel, but one that is a pixel wide cannot be forgiven a pixel:

# %%
print(f"clDice of {who}: {human['cldice']:.4f}; of the network: {ours['cldice']:.4f}")

# %% [markdown]
# ## Before you compare two numbers
#
# 1. Same test images, same labels (first observer)? STARE and CHASE_DB1 have several
#    splits in use.
# 2. Frame or FOV? Whose FOV mask, where the dataset has none?
# 3. Pooled or mean?
# 4. Which threshold, chosen on what?
# 5. Was the epoch chosen on the test images?
# 6. One run or several? Another seed gives another score; ours are of one.
#
# `saunet score` asks for region and pooling on every call, and writes them and the
# threshold into its result.
