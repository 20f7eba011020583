# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Training on your own photographs
#
# You have fundus photographs, and for each a picture of its vessels, drawn white on
# black. This notebook reads the two folders, looks for mistakes, trains a network on
# some of the photographs, chooses a threshold on others, and scores the rest. From a
# shell `saunet doctor`, `train` and `evaluate` do all this but for the threshold, with
# `--dataset folder` (docs/train.md); from Python `saunet.data.folder.load_folder` reads
# the folders. Here is each step by hand.
#
# The folders here hold synthetic photographs, which the next cell draws. For your own,
# point `IMAGES` and `LABELS` to their folders, and delete the loop, which writes into
# these.

# %%
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lesson import brief, curves, keras, photographs, show

import saunet
from saunet.data.images import image_stem, read_image, read_label, write_png

OUT = Path("out/own_data")
shutil.rmtree(OUT, ignore_errors=True)  # of an earlier time
IMAGES, LABELS = OUT / "images", OUT / "labels"

for sample in photographs(6, start=40):
    for folder, end, picture in (
        (IMAGES, "", sample.image),
        (LABELS, "_vessels", 255 * sample.vessels),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / f"{sample.name}{end}.png", picture)

# %% [markdown]
# ## Reading the folders
#
# `pair_files` finds the label of each photograph: files named alike
# (`eye_3.tif` and `eye_3_vessels.png`), or beginning with the same number
# (`01_test.tif` and `01_manual1.gif`). It refuses to guess.
#
# `find_fov` finds the round field of view in the photograph. It decides which pixels
# count in the score; training sees them all.

# %%
from saunet.data.datasets import Sample, find_fov
from saunet.data.pairing import list_images, pair_files


def read_samples(images, labels):
    """Returns a `Sample` for each photograph of a folder."""
    pairs = pair_files(list_images(images), list_images(labels))
    samples = []
    for photograph, label in pairs.items():
        image = read_image(photograph)
        samples.append(
            Sample(
                name=image_stem(photograph),
                image=image,
                vessels=read_label(label),
                fov=find_fov(image),
                fov_source="estimated",
            )
        )
    return samples


samples = read_samples(IMAGES, LABELS)
for sample in samples:
    height, width = sample.vessels.shape
    assert sample.image.shape == (height, width, 3)
    print(
        f"{sample.name}: {width}x{height}, field of view {sample.fov.mean():.0%}, "
        f"vessels {sample.vessels[sample.fov == 1].mean():.1%} of it"
    )

# %% [markdown]
# ## Look before you train
#
# Half of all trouble is here: a label of another photograph, a label that is the
# negative, a photograph turned on its side. Vessels are 5 to 15 % of the field of
# view in most photographs. If the tint does not lie on the vessels, stop.

# %%
from saunet.viz import overlay

show(
    [overlay(sample.image, sample.vessels) for sample in samples[:4]],
    [sample.name for sample in samples[:4]],
)
assert all(0.02 < sample.vessels[sample.fov == 1].mean() < 0.3 for sample in samples)

# %% [markdown]
# **Size.** The shipped recipes expect vessels as wide as in DRIVE, where the widest
# are about eight pixels and the field of view 540. Scale photographs of another camera
# to about that before you begin: a camera of 3000 pixels by 0.18. Scale the labels with
# them, `saunet.data.field.resize(255 * label, size) > 127`.
#
# ## Three parts
#
# *Training* photographs teach the weights. *Validation* photographs choose everything
# else: the epoch, the threshold, the recipe. *Test* photographs choose nothing and are
# looked at once. Both eyes of one person belong to the same part, and so do all
# photographs of one visit; otherwise you measure how well the network remembers. Of six
# photographs four train, one validates and one tests; choose other numbers for yours.

# %%
rest, test = samples[:5], samples[5:]
held_out = rest[4].name
print("test:", [sample.name for sample in test], " validation:", held_out)

# %% [markdown]
# ## The recipe
#
# A `Recipe` holds all that decides the result besides the images. This one is made for
# a minute or two on two CPU cores. For a serious run take `RECIPES["cpu"]`, 1.7
# hours on the same cores, and change what you must.

# %%
from saunet.training import RECIPES, train

recipe = replace(
    RECIPES["smoke"],
    crop=brief(96, 64),
    batch_size=brief(6, 2),
    epochs=brief(8, 2),
    steps_per_epoch=brief(40, 2),
    learning_rates=((brief(8, 2), 3e-3),),
    validation=(held_out,),
)
for field in ("model", "loss", "crop", "batch_size", "epochs", "optimizer", "schedule"):
    print(f"{field:12} {getattr(recipe, field)}")

# %%
run = OUT / "run"
shutil.rmtree(run, ignore_errors=True)  # a run's folder is never overwritten
model = train(recipe, rest, run, progress=False)
print(sorted(path.name for path in run.iterdir()))

# %% [markdown]
# The folder survives being killed at any moment: `train(..., resume=True)` goes on
# from the last whole epoch, with the very numbers it would have had.
#
# ## Did it learn?
#
# The training loss falls as long as one likes. The validation loss says when to stop:
# where it rises while the other falls, the network learns the photographs by heart.

# %%
from saunet.viz import read_log

log = read_log(run / "log.csv")
curves(
    {"training": log["loss"], "validation": log["val_loss"]},
    ylabel="half BCE, half 1 - MCC",
)
best = int(np.argmin(log["val_loss"]))
print(f"lowest validation loss {log['val_loss'][best]:.3f} after epoch {best + 1}")
assert log["loss"][-1] < log["loss"][0]

# %% [markdown]
# `last.weights.h5` holds the last epoch, `best.weights.h5` the one of the lowest
# validation loss.
#
# ## The threshold, chosen on the validation photograph

# %%
from saunet.inference import Segmenter
from saunet.metrics import METRICS, count

saunet.load_weights(model, run / "best.weights.h5")
segmenter = Segmenter(model)
validation = next(sample for sample in samples if sample.name == held_out)
probability = segmenter.predict(validation.image)
inside = validation.fov == 1

thresholds = np.linspace(0.05, 0.95, 37)
f1 = [
    METRICS["f1"](count(probability[inside] > level, validation.vessels[inside]))
    for level in thresholds
]
threshold = float(thresholds[int(np.nanargmax(f1))])
figure, axis = plt.subplots(figsize=(4.2, 2.2), layout="constrained")
axis.plot(thresholds, f1)
axis.axvline(threshold, color="#d55e00", ls=":")
axis.set(xlabel="threshold", ylabel="F1, validation")
print(f"threshold {threshold:.3f}")

# %% [markdown]
# ## The test photograph, once

# %%
from saunet.evaluation import evaluate
from saunet.viz import error_map

segmenter = Segmenter(model, threshold=threshold)
maps = [segmenter.predict(sample.image) for sample in test]
scores = evaluate(maps, test, region="fov", pooling="pooled", threshold=threshold)
for name in ("sensitivity", "specificity", "f1", "auc"):
    print(f"{name:12} {scores[name]:.4f}")

eye = test[0]
errors = error_map(maps[0] > threshold, eye.vessels, eye.fov)
show(
    [eye.image, eye.vessels, maps[0], errors],
    ["photograph", "true vessels", "probability", "errors"],
)

# %% [markdown]
# White is found, orange invented, blue missed. One test photograph is an anecdote:
# take ten at the least, and report each one's score.
#
# ## Starting from shipped weights
#
# With few photographs it helps to start from weights that know vessels already, and to
# change them slowly. The first number is what the shipped weights score as they are.

# %%
from saunet.data.pipeline import random_batches
from saunet.losses import bce_mcc

tuned = saunet.load_pretrained("sa_unet_v2_drive").model


def score(network):
    """Returns F1 on the validation photograph at threshold .5."""
    guess = Segmenter(network).mask(validation.image)
    return METRICS["f1"](count(guess[inside], validation.vessels[inside]))


shipped_f1 = score(tuned)
tuned.compile(keras.optimizers.Adam(3e-4), bce_mcc)
tuned.fit(
    random_batches(rest[:4], crop=brief(96, 64), batch_size=brief(6, 2), seed=1),
    steps_per_epoch=brief(80, 2),
    epochs=1,
    shuffle=False,
    verbose=0,
)
print(f"validation F1 {shipped_f1:.4f} as shipped, {score(tuned):.4f} after tuning")

# %% [markdown]
# On drawn photographs one short round of tuning gains nothing, as the two numbers show.
# On a real other camera it does: CHASE_DB1's test F1 rises from 0.7285 to 0.7991
# (docs/train.md), by `saunet train --recipe finetune`. Tuning has to be watched: a few
# steps at too high a rate lose more than they gain. Keep the tuned weights only where
# the *validation* score rose. (With `SAUNET_DRIVE` set this comparison means nothing:
# the shipped weights learnt on these photographs.)
#
# ## Keeping and using it

# %%
saunet.save_weights(model, OUT / "own.weights.h5")
again = saunet.build_model(recipe.model, **recipe.model_kwargs)
saunet.load_weights(again, OUT / "own.weights.h5")
assert np.array_equal(
    Segmenter(again).predict(eye.image), Segmenter(model).predict(eye.image)
)

# %% [markdown]
# ```
# saunet predict photographs/ --weights out/own_data/run --threshold T --out maps/
# ```
#
# where T is the threshold that was chosen above. The run's folder also knows the
# network and how wide the field of view was, so photographs of another camera are
# scaled; a bare `.h5` knows neither.
#
# Write down with the weights what they were trained on, the padding and the threshold:
# a `card.json` does it (`saunet.weights.write_card`), and a folder with a card can be
# given to `saunet.load_pretrained`.
