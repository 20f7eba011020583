# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from installation to an overlay
#
# In a checkout of this repository:
#
# ```
# pip install '.[notebooks]'
# jupyter lab notebooks/
# ```
#
# This notebook takes a fundus photograph, finds its vessels with weights that come
# with the package, draws them on the photograph, and measures how good they are.
# Nothing is downloaded.

# %%
import shutil
from pathlib import Path

import numpy as np
from lesson import photographs, show

import saunet
from saunet.data.images import read_image, write_png

OUT = Path("out/quickstart")
OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A photograph
#
# The repository holds no patient's picture. It draws photographs instead, whose vessels
# are known exactly: useful for a lesson, no substitute for real ones. If you have
# [DRIVE](https://drive.grand-challenge.org), set the environment variable
# `SAUNET_DRIVE` to its folder before you start Jupyter, and this notebook uses it, if
# it has the labels of its test photographs, which today's download has not.

# %%
(sample,) = photographs(1, start=7, part="test")
write_png(OUT / "photograph.png", sample.image)
print(sample.image.shape, sample.image.dtype)

# %% [markdown]
# ## The vessels
#
# `load_pretrained` returns a `Segmenter`: the network together with the preprocessing
# and the threshold its weights were made for. `predict` gives every pixel of the
# photograph a probability.

# %%
segmenter = saunet.load_pretrained("sa_unet_v2_drive")
image = read_image(OUT / "photograph.png")
probability = segmenter.predict(image)

assert probability.shape == image.shape[:2]
assert 0 <= probability.min() and probability.max() <= 1
print(probability.dtype, f"from {probability.min():.3f} to {probability.max():.3f}")

# %% [markdown]
# A pixel is called a vessel where the probability is *above* the threshold.

# %%
from saunet.viz import error_map, overlay

vessels = probability > segmenter.threshold
drawn = overlay(image, vessels)
write_png(OUT / "overlay.png", drawn)
show(
    [image, probability, vessels.astype(float), drawn],
    ["photograph", "probability", f"above {segmenter.threshold}", "overlay"],
)

# %% [markdown]
# The same from a shell, for a file or a whole folder. It also scales photographs of
# other cameras first; from Python `predict(image, scale="auto")` does:
#
# ```
# saunet predict photograph.png --weights sa_unet_v2_drive --out maps/
# ```
#
# It writes `photograph_prob.png` (16 bits), `photograph_mask.png` (0 or 255),
# `photograph_overlay.png`, and a list of what was done.

# %%
from saunet.folders import predict_files

# It does not repeat what it has done before, and we want to see it work.
shutil.rmtree(OUT / "maps", ignore_errors=True)
done = predict_files(segmenter, [OUT / "photograph.png"], OUT / "maps")
print(done["written"], sorted(path.name for path in (OUT / "maps").iterdir()))

# %% [markdown]
# ## How good is it?
#
# We know the truth, so we can count. **Sensitivity** is the share of vessel pixels
# that were found, **specificity** the share of the others that were left alone, **F1**
# weighs invented and missed vessel pixels alike. `region` and `pooling` say which
# pixels count and how images are summed up; the notebook `compare_protocols` shows why
# that matters.

# %%
from saunet.evaluation import evaluate

scores = evaluate([probability], [sample], region="fov", pooling="pooled")
for name in ("sensitivity", "specificity", "accuracy", "f1", "auc"):
    print(f"{name:12} {scores[name]:.4f}")

# %%
errors = error_map(vessels, sample.vessels, sample.fov)
show(
    [sample.vessels.astype(float), vessels.astype(float), errors],
    ["true vessels", "found", "errors"],
    size=3.2,
)

# %% [markdown]
# In the picture of the errors, found vessels are white, invented ones orange, missed
# ones blue. Most errors are the rims of thin vessels: one pixel wider or narrower.
# The network learnt on DRIVE; of a drawn photograph, which it has never seen, this
# number says little. What the same weights score on DRIVE's test part is on their card:

# %%
from saunet.weights import find_pretrained, read_card

card = read_card(find_pretrained("sa_unet_v2_drive"))
for row in card["scores"]:
    protocol = f"{row['region']:5} {row['pooling']:6}"
    print(f"{protocol} F1 {row['f1']:.4f} AUC {row['auc']:.4f}")
print(card["limits"])

# %% [markdown]
# ## Turned round
#
# A vessel is a vessel in the mirror, too. `views=4` predicts the photograph and its
# three flips and averages; it takes four times as long. Eight views, with quarter
# turns, raise F1 on DRIVE's test images from 0.8291 to 0.8304 (field of view, pooled);
# on one photograph it may be more, or nothing:

# %%
averaged = segmenter.predict(image, views=4)
four = evaluate([averaged], [sample], region="fov", pooling="pooled")
print(f"F1 {scores['f1']:.4f} from one view, {four['f1']:.4f} from four")
print(f"largest change of a pixel: {np.abs(averaged - probability).max():.2f}")

# %% [markdown]
# ## Which networks are there?

# %%
from saunet.models import FACTS

for name, facts in FACTS.items():
    print(f"{name:24} {facts.total:>12,} parameters   {facts.paper}")

# %% [markdown]
# Next: `sa_unet`, `rsan` and `sa_unet_v2` each read one paper; `unet_slides` goes
# through a whole deck of slides; `own_data` trains on your own photographs;
# `load_official_weights` reads the authors' files; `compare_protocols` explains why
# two papers' numbers differ.
