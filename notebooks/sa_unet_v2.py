# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # SA-UNetv2, read beside its paper
#
# Guo et al., *SA-UNetv2: Rethinking Spatial Attention U-Net for Retinal Vessel
# Segmentation*, 2025, [arXiv 2509.11774](https://arxiv.org/abs/2509.11774).
#
# Half the parameters of SA-UNet, and four changes: **group normalisation** and
# **SiLU** in the unit, **narrower** levels, **cross-scale spatial attention** on the
# skip connections, and the **MCC** in the loss. The notebook `sa_unet` explains what
# stayed: the U, DropBlock and spatial attention.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import (
    Diary,
    brief,
    curves,
    draw_chain,
    draw_u,
    keras,
    middle,
    photographs,
    show,
)

import saunet
from saunet.layers import CrossScaleSpatialAttention, GroupNormalization
from saunet.losses import bce, bce_mcc, mcc
from saunet.metrics import METRICS, count
from saunet.models import FACTS

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The unit

# %%
draw_chain(["conv 3x3", "DropBlock", "*GroupNorm\n8 groups", "*SiLU"], "SA-UNetv2")
draw_chain(["conv 3x3", "DropBlock", "BN", "ReLU"], "SA-UNet")

# %% [markdown]
# ## Group normalisation
#
# Batch normalisation takes mean and variance of each channel over all images of a
# batch, and moving averages of them at test time. With few large images in a batch
# these are noisy. Group normalisation takes them over **8 groups of channels of one
# image**, in training and at test time alike: the batch does not matter.
#
# $$y = \gamma_c \, \frac{x - \mu_{n,g}}{\sqrt{\sigma^2_{n,g} + \epsilon}} + \beta_c$$

# %%
rng = np.random.default_rng(0)
x = rng.normal(3, 2, (2, 6, 6, 16)).astype("float32")
x[1] *= 5  # the second image is far brighter
normalised = np.array(GroupNormalization(8, epsilon=1e-3)(x))

groups = x.reshape(2, 6, 6, 8, 2)  # 16 channels: 8 groups of 2
mean = groups.mean(axis=(1, 2, 4), keepdims=True)
variance = groups.var(axis=(1, 2, 4), keepdims=True)
by_hand = ((groups - mean) / np.sqrt(variance + 1e-3)).reshape(x.shape)
print(f"largest difference from the formula {np.abs(normalised - by_hand).max():.1e}")
assert np.allclose(normalised, by_hand, atol=1e-4)

alone = np.array(GroupNormalization(8, epsilon=1e-3)(x[:1]))
assert np.allclose(alone, normalised[:1], atol=1e-5)  # the neighbour does not matter

# %% [markdown]
# The picture shows which numbers share one mean and one variance: a field each. A
# row is an image, a column a channel.

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 1.8), layout="constrained")
batch_sets = np.tile(np.arange(16), (4, 1))
group_sets = np.arange(4)[:, None] * 8 + np.arange(16)[None] // 2
shuffled = np.random.default_rng(3).permutation(32)
for axis, sets, title in zip(
    axes,
    (batch_sets, shuffled[group_sets]),
    ("batch normalisation", "group normalisation, 8 groups"),
    strict=True,
):
    axis.imshow(sets, cmap="nipy_spectral", aspect="auto")
    for row, column in zip(*np.nonzero(np.diff(sets, axis=1)), strict=True):
        axis.vlines(column + 0.5, row - 0.5, row + 0.5, color="white")
    axis.set(title=title, xlabel="channel", ylabel="image", yticks=range(4))

# %% [markdown]
# **SiLU** is $x \cdot \sigma(x)$: ReLU with a soft corner, and a slope below zero.

# %%
line = np.linspace(-5, 4, 200)
figure, axis = plt.subplots(figsize=(3.6, 2.2), layout="constrained")
axis.plot(line, np.maximum(line, 0), label="ReLU")
axis.plot(line, line / (1 + np.exp(-line)), label="SiLU")
axis.legend(frameon=False)
axis.grid(alpha=0.25)

# %% [markdown]
# ## Cross-scale spatial attention
#
# A skip connection hands the decoder a map that has seen little of the image. SA-UNetv2
# lets the decoder say where it is worth looking: the mean over the channels of the
# skip, and that of the decoder's map, go through one 7 x 7 filter and a sigmoid; the
# skip is multiplied by the result.
#
# $$skip' = skip \cdot
# \sigma\left(f^{7 \times 7}([\mathrm{mean}_c(skip); \mathrm{mean}_c(up)])\right)$$

# %%
draw_chain(
    [
        "skip, up",
        "mean of each\nover C",
        "concat\nH x W x 2",
        "conv 7x7",
        "sigmoid",
        "times skip",
    ],
    "Cross-scale spatial attention",
)
gate = CrossScaleSpatialAttention(7)
gate.build([(None, None, None, 48), (None, None, None, 48)])
assert gate.count_params() == 98

# %% [markdown]
# ## The network
#
# Each cross-scale attention gets two maps: the skip connection's, and the decoder's
# after it was enlarged.

# %%
draw_u(
    ["unit 16\nunit 16", "unit 32\nunit 32", "unit 48\nunit 48"],
    ["unit 64", "*spatial\nattention", "unit 64"],
    [
        "concat, unit 16, unit 16\nconv 1x1, sigmoid",
        "concat\nunit 32, unit 32",
        "concat\nunit 48, unit 48",
    ],
    "SA-UNetv2",
    gates=["*cross-scale attention"] * 3,
)

# %% [markdown]
# In code, each level of the decoder begins with
#
# ```python
# x = up_conv(x, width, name=f"up{level}")
# skip = gate(skips[level], x, name=f"up{level}_gate")
# x = layers.Concatenate(name=f"up{level}_concat")([x, skip])
# ```
#
# The paper's ablation takes one step at a time, and each step has its builder. The
# parameters are exact; F1 is what the paper reports on DRIVE (whole frame, mean of the
# images). For SA-UNet it has .8217, where SA-UNet's own table has .8263 (whole frame,
# pooled); a table in the code's README has .8244 for "SA-UNet", but with the GFLOPs of
# the second step here.

# %%
ablation = {
    "sa_unet": ".8217",
    "sa_unet_gn_silu": ".8249",
    "sa_unet_v2_narrow": ".8270",
    "sa_unet_v2_skip_sa": ".8265",
    "sa_unet_v2": ".8275; .8282 with the MCC in the loss",
}
for name, f1 in ablation.items():
    total = saunet.count_parameters(saunet.build_model(name))["total"]
    assert total == FACTS[name].total
    print(f"{name:20}{total:>8,} parameters  {FACTS[name].gflops:.3f} GFLOPs  F1 {f1}")
assert FACTS["sa_unet_v2"].total == 260_521
assert 260_521 - 260_227 == 3 * 98  # three gates

# %% [markdown]
# ## The loss
#
# One pixel in eight of the field of view is a vessel. A network that says "no vessel"
# everywhere is right for seven pixels of eight, and cross-entropy is content with it
# for a while. The Matthews correlation coefficient is not: it is 1 for a perfect map, 0
# for a guess that knows nothing, -1 for the negative.
#
# $$MCC = \frac{tp \cdot tn - fp \cdot fn}
# {\sqrt{(tp+fp)(tp+fn)(tn+fp)(tn+fn)}}$$
#
# With probabilities instead of decisions the counts become sums of products, and the
# whole has a gradient. The loss is half cross-entropy, half 1 - MCC.

# %%
truth = np.zeros((1, 16, 16, 1), "float32")
truth[:, 7:9] = 1  # one pixel in eight
guesses = {
    "perfect": truth,
    "nothing": np.full_like(truth, 1e-6),
    "one in eight everywhere": np.full_like(truth, 0.125),
    "half of the vessel": truth * (np.arange(16) < 8)[None, None, :, None],
    "too wide": np.maximum(truth, np.roll(truth, 1, axis=1)),
    "negative": 1 - truth,
}
print(f"{'':25}{'BCE':>8}{'1 - MCC':>9}{'loss':>8}")
for name, guess in guesses.items():
    values = [float(loss(truth, guess)) for loss in (bce, mcc, bce_mcc)]
    print(f"{name:25}{values[0]:8.3f}{values[1]:9.3f}{values[2]:8.3f}")
assert abs(float(mcc(truth, truth))) < 1e-4
assert abs(float(mcc(truth, 1 - truth)) - 2) < 1e-4

# %% [markdown]
# The same number from counts: the guess "too wide" finds all vessel pixels and as
# many others as half of them.

# %%
tp, fp, fn, tn = 32, 16, 0, 208
count_mcc = (tp * tn - fp * fn) / np.sqrt(
    float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
)
assert np.isclose(1 - count_mcc, float(mcc(truth, guesses["too wide"])), atol=1e-5)
print(f"MCC {count_mcc:.4f}")

# %% [markdown]
# What the two terms see while a map fades from perfect (right) to empty:

# %%
fading = np.linspace(0.02, 0.98, 40)
figure, axis = plt.subplots(figsize=(4.6, 2.4), layout="constrained")
for loss, label in ((bce, "BCE"), (mcc, "1 - MCC"), (bce_mcc, "half and half")):
    values = [float(loss(truth, 0.01 + share * 0.98 * truth)) for share in fading]
    axis.plot(fading, values, label=label)
axis.set(xlabel="probability given to vessel pixels", ylabel="loss")
axis.legend(frameon=False, fontsize=8)

# %% [markdown]
# ## Training for a minute
#
# On views of four photographs; the paper trains for up to 150 epochs on DRIVE.

# %%
from saunet.data.pipeline import random_batches

samples = photographs(5)
training, held_out = samples[:4], samples[4]
side = brief(256, 64)
photograph, truth = middle(held_out.image, side), middle(held_out.vessels, side)

model = saunet.build_model("sa_unet_v2")
model.compile(keras.optimizers.Adam(2e-3), bce_mcc)
diary = Diary(photograph)
history = model.fit(
    random_batches(training, crop=64, batch_size=brief(8, 2), seed=0),
    steps_per_epoch=brief(50, 2),
    epochs=brief(8, 2),
    callbacks=[diary],
    shuffle=False,
    verbose=0,
)
losses = history.history["loss"]
curves({"training": losses}, ylabel="half BCE, half 1 - MCC")
print(f"loss {losses[0]:.3f} after one epoch, {losses[-1]:.3f} at the end")

# %%
show(
    [photograph, truth, *diary.maps],
    ["photograph", "true vessels"]
    + [f"epoch {epoch}" for epoch in range(1, len(diary.maps) + 1)],
    columns=5,
    size=2,
)

# %% [markdown]
# ## The attention maps of trained weights
#
# `sa_unet_v2_drive` comes with the package, trained on DRIVE for 120 epochs. A gate's
# `attention` takes what the gate takes, so a model that ends at the gates' inputs
# shows all three, and the bottleneck's.

# %%
segmenter = saunet.load_pretrained("sa_unet_v2_drive")
trained = segmenter.model
names = ["bottleneck_attention", "up2_gate", "up1_gate", "up0_gate"]
layers = [trained.get_layer(name) for name in names]
before = keras.Model(trained.input, [layer.input for layer in layers])
batch = segmenter.prepare(held_out.image)
gates = [
    np.array(layer.attention(inputs))[0, ..., 0]
    for layer, inputs in zip(layers, before(batch, training=False), strict=True)
]
probability = segmenter.predict(held_out.image)
show(
    [held_out.image, held_out.vessels, probability],
    ["photograph", "true vessels", "probability"],
)
show(
    gates,
    [f"{name}, {len(map_)} wide" for name, map_ in zip(names, gates, strict=True)],
    bar=True,
    cmap="magma",
    size=2.2,
)
assert [batch.shape[1] // len(gate) for gate in gates] == [8, 4, 2, 1]

# %% [markdown]
# The finest gate draws the vessels themselves, the coarser ones their neighbourhood.
# Does the network need it? Set all four filters to 0: each attention is then the
# sigmoid of 0, one half everywhere, and the maps tell nothing.

# %%
kept = [layer.get_weights() for layer in layers]
for layer, weights in zip(layers, kept, strict=True):
    layer.set_weights([np.zeros_like(weights[0])])
blind = saunet.Segmenter(trained).predict(held_out.image)
for layer, weights in zip(layers, kept, strict=True):
    layer.set_weights(weights)
show(
    [held_out.vessels, probability, blind],
    ["true vessels", "with attention", "all attention one half"],
)
for name, guess in (("with", probability > 0.5), ("without", blind > 0.5)):
    f1 = METRICS["f1"](count(guess, held_out.vessels))
    print(f"{name:7} attention: F1 {f1:.3f}")

# %% [markdown]
# Look at the rim of the field of view: with attention the network ignores it, without
# it a part of the rim counts as a vessel. This does not measure what attention is
# worth: a network trained without it would have learnt to do without. It shows that
# *this* network uses it. What it is worth is the paper's ablation above.
#
# To train the whole network: `saunet train --recipe sa_unet_v2_paper`, the authors'
# settings for DRIVE, or `--recipe cpu`. The shipped weights are by `best` of
# `experiments/sa_unet_v2.py`, twice as many steps.
