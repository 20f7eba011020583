# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # SA-UNet, read beside its paper
#
# Guo et al., *SA-UNet: Spatial Attention U-Net for Retinal Vessel Segmentation*, ICPR
# 2020, [arXiv 2004.03696](https://arxiv.org/abs/2004.03696).
#
# The paper adds three things to a small U-Net: **DropBlock** against overfitting,
# **batch normalisation** for speed, and **spatial attention** in the middle. We draw
# each, build the network, count its parameters, and train it for a minute on
# photographs whose vessels are known.

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
from saunet.layers import DropBlock2D, SpatialAttention
from saunet.models import FACTS

keras.utils.set_random_seed(0)

# %% [markdown]
# ## The unit
#
# The paper's figure of the "structured dropout convolutional block" shows three units
# side by side: U-Net's, SD-Unet's and the new one. The code is
# `saunet.blocks.conv_drop_bn_relu`, four lines.

# %%
draw_chain(["conv 3x3", "ReLU"], "U-Net's unit")
draw_chain(["conv 3x3", "*DropBlock", "ReLU"], "SD-Unet's unit")
draw_chain(["conv 3x3", "*DropBlock", "*BN", "ReLU"], "SA-UNet's unit")

# %% [markdown]
# ## DropBlock
#
# Dropout switches single pixels of a map off, and the network reads the missing pixel
# from its neighbours. DropBlock switches off squares of `b` x `b` pixels, so that a
# whole piece of vessel is gone.
#
# To drop a share `rate` of a map of H x W, a square may start at each place where it
# fits, with probability
#
# $$\gamma = \frac{rate}{b^2} \cdot \frac{H W}{(H-b+1)(W-b+1)}.$$
#
# What is left is scaled up, so that the mean stays the same. Each image and each
# channel gets its own squares, which the picture shows: black is dropped.
#
# The paper says "keep probability .82" on DRIVE; here that is `rate=0.18`.

# %%
ones = np.ones((1, 48, 48, 4), "float32")
drop = DropBlock2D(rate=0.18, block_size=7, seed=0)
dropped = np.array(drop(ones, training=True))
dropout = keras.layers.Dropout(0.18, seed=0)
show(
    [np.array(dropout(ones, training=True))[0, ..., 0] > 0]
    + [dropped[0, ..., channel] > 0 for channel in range(4)],
    ["Dropout", *(f"DropBlock, channel {channel}" for channel in range(4))],
    size=2,
)

gamma = 0.18 / 7**2 * 48 * 48 / (48 - 7 + 1) ** 2
print(f"gamma {gamma:.5f}; kept values are scaled to {dropped.max():.3f}")
assert np.isclose(dropped.mean(), 1)  # the mean is that of the input
assert np.array_equal(drop(ones, training=False), ones)  # nothing at inference

# %% [markdown]
# A single mask drops more or less than 18 %; many masks together come close to it.
# They stay a little below, because squares overlap.

# %%
many = np.array(drop(np.ones((32, 48, 48, 16), "float32"), training=True))
shares = (many == 0).mean(axis=(1, 2)).ravel()
figure, axis = plt.subplots(figsize=(4.6, 2.2), layout="constrained")
axis.hist(shares, bins=30, color="#1f3b57")
axis.axvline(0.18, color="#d55e00", label="rate")
axis.axvline(shares.mean(), color="#d55e00", ls="--", label="mean of the masks")
axis.set(xlabel="dropped share of one mask", ylabel="masks")
axis.legend(frameon=False, fontsize=8)
print(f"mean dropped share {shares.mean():.3f}")
assert 0.14 < shares.mean() < 0.18

# %% [markdown]
# ## Spatial attention
#
# The paper's figure of this module: take the **mean** and the **maximum** over the
# channels, put the two maps on top of each other, convolve them with one filter of 7 x
# 7 without bias, squeeze the result into (0, 1), and multiply the input by it:
#
# $$F' = F \cdot \sigma\left(f^{7 \times 7}([\mathrm{mean}_c(F); \max_c(F)])\right)$$
#
# It costs 7 * 7 * 2 = 98 weights, however many channels there are.

# %%
draw_chain(
    [
        "F\nH x W x C",
        "mean, max\nover C",
        "concat\nH x W x 2",
        "conv 7x7",
        "sigmoid",
        "times F",
    ],
    "Spatial attention",
)

attention = SpatialAttention(7)
attention.build((None, None, None, 128))
assert attention.count_params() == 98

# %% [markdown]
# The arithmetic by hand, on three pixels of two channels. The filter here reads only
# its own pixel, with weight 1 for the mean and -1 for the maximum.

# %%
tiny = np.array([[[[1.0, 3.0], [0.0, 0.0], [-2.0, 2.0]]]], "float32")  # (1, 1, 3, 2)
kernel = np.zeros((7, 7, 2, 1), "float32")
kernel[3, 3, :, 0] = 1, -1
by_hand = SpatialAttention(7)
by_hand.build(tiny.shape)
by_hand.set_weights([kernel])

mean, peak = np.array([2.0, 0.0, 0.0]), np.array([3.0, 0.0, 2.0])
expected = 1 / (1 + np.exp(-(mean - peak)))
found = np.array(by_hand.attention(tiny))[0, 0, :, 0]
print("attention", found.round(3), "expected", expected.round(3))
assert np.allclose(found, expected)
assert np.allclose(np.array(by_hand(tiny))[0, 0], tiny[0, 0] * expected[:, None])

# %% [markdown]
# ## The network
#
# The paper's main figure: a U of three levels. Each blue box at the sides is two units,
# in the middle one; the number is that of its channels. Orange is what the paper adds
# in the middle. A dashed line is a skip connection: the decoder gets the encoder's map
# beside its own.
#
# Up: a transposed convolution, kernel 3x3, stride 2; the paper's "2x2" is the stride.

# %%
draw_u(
    ["unit 16\nunit 16", "unit 32\nunit 32", "unit 64\nunit 64"],
    ["unit 128", "*spatial\nattention", "unit 128"],
    [
        "concat, unit 16, unit 16\nconv 1x1, sigmoid",
        "concat\nunit 32, unit 32",
        "concat\nunit 64, unit 64",
    ],
    "SA-UNet",
)

# %% [markdown]
# The same in code, from `saunet/models/sa_unet.py`:
#
# ```python
# for level in range(levels):
#     x = unit(x, 16 * 2**level, name=f"down{level}_a")
#     x = unit(x, 16 * 2**level, name=f"down{level}_b")
#     skips.append(x)
#     x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
#
# x = unit(x, 16 * 2**levels, name="bottleneck_a")
# if attention:
#     x = SpatialAttention(7, name="bottleneck_attention")(x)
# x = unit(x, 16 * 2**levels, name="bottleneck_b")
#
# for level in reversed(range(levels)):
#     x = up_conv(x, 16 * 2**level, name=f"up{level}")
#     x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
#     x = unit(x, 16 * 2**level, name=f"up{level}_a")
#     x = unit(x, 16 * 2**level, name=f"up{level}_b")
# ```
#
# The paper's table of parameters is a good test of whether we read it right.

# %%
published = {
    "unet_23": (2_158_705, 2_158_705),
    "unet_18": (535_793, 535_793),
    "unet_18_sa": (535_891, 535_891),
    "sd_unet": (535_793, 535_793),
    "sa_unet_backbone": (538_609, 537_201),
    "sa_unet": (538_707, 537_299),
}
for name, (total, trainable) in published.items():
    counted = saunet.count_parameters(saunet.build_model(name))
    assert counted["total"] == total == FACTS[name].total
    assert counted["trainable"] == trainable == FACTS[name].trainable
    print(f"{name:17} {total:>9,} parameters, {total - trainable:,} not trained")

# %% [markdown]
# The differences read like the figures. Attention costs 98. Batch normalisation costs
# four numbers a channel, of which two (the moving mean and variance) are not trained:

# %%
channels = 2 * (16 + 32 + 64) + 2 * 128 + 2 * (64 + 32 + 16)
assert 535_891 - 535_793 == 538_707 - 538_609 == 98
assert 538_609 - 535_793 == 4 * channels and 538_609 - 537_201 == 2 * channels
print(f"{channels} channels are normalised: 14 units")

# %% [markdown]
# ## Training for a minute
#
# The authors train for 150 epochs on DRIVE, on a GPU. We train on small views of four
# photographs, which is enough to see a loss fall and vessels appear; the result is
# not a result. `random_batches` turns, mirrors and recolours a random piece of a
# photograph each time.
#
# One thing is changed for the minute. Batch normalisation uses the moving mean of its
# last hundred steps or so (momentum .99), and we have few steps: .9 follows faster.

# %%
from saunet.data.pipeline import random_batches

samples = photographs(5)
training, held_out = samples[:4], samples[4]
side = brief(256, 64)
photograph, truth = middle(held_out.image, side), middle(held_out.vessels, side)

model = saunet.build_model("sa_unet", rate=0.18)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.9
model.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy")

diary = Diary(photograph)
history = model.fit(
    random_batches(training, crop=64, batch_size=brief(8, 2), seed=0),
    steps_per_epoch=brief(70, 2),
    epochs=brief(8, 2),
    callbacks=[diary],
    shuffle=False,
    verbose=0,
)
losses = history.history["loss"]
curves({"training": losses}, ylabel="binary cross-entropy")
print(f"loss {losses[0]:.3f} after one epoch, {losses[-1]:.3f} at the end")

# %% [markdown]
# What it says about a photograph it did not train on, epoch by epoch:

# %%
show(
    [photograph, truth, *diary.maps],
    ["photograph", "true vessels"]
    + [f"epoch {epoch}" for epoch in range(1, len(diary.maps) + 1)],
    columns=5,
    size=2,
)

# %% [markdown]
# ## The attention map
#
# `SpatialAttention.attention` returns the map that the bottleneck is multiplied by. We
# make a second model from the same layers that ends just before it, and give it a whole
# photograph (`Segmenter.prepare` pads it). One pixel of the map stands for 8 x 8 pixels
# of the photograph.

# %%
from saunet.inference import Segmenter

layer = model.get_layer("bottleneck_attention")
before = keras.Model(model.input, layer.input)
batch = Segmenter(model).prepare(held_out.image)
features = np.array(before(batch, training=False))
gate = np.array(layer.attention(features))[0, ..., 0]
show(
    [held_out.image, features[0].mean(-1), features[0].max(-1), gate],
    ["photograph", "mean over channels", "maximum over channels", "attention"],
    bar=True,
    cmap="magma",
)
assert gate.shape == (batch.shape[1] // 8, batch.shape[2] // 8)
print(f"attention from {gate.min():.3f} to {gate.max():.3f}")

# %% [markdown]
# After a minute the map mostly shows the edge of the frame, the rim and
# the disc; of the vessels there is a trace. Its meaning is relative: a factor that is
# the same everywhere is undone by the next layer, so look at the differences, not at
# the values.
#
# ## What the paper reports
#
# | DRIVE | SE | SP | ACC | AUC | F1 | MCC |
# |---|---|---|---|---|---|---|
# | U-Net | .7677 | .9857 | .9666 | .9789 | .8012 | .7839 |
# | U-Net + SA | .7883 | .9845 | .9673 | .9809 | .8085 | .7909 |
# | SD-Unet | .7978 | .9860 | .9695 | .9858 | .8208 | .8045 |
# | Backbone | .8246 | .9832 | .9694 | .9862 | .8254 | .8087 |
# | SA-UNet | .8212 | .9840 | .9698 | .9864 | .8263 | .8097 |
#
# All pixels of the frame count, black corners included, and the pixels of the twenty
# test images are pooled: the protocol `frame`, `pooled` of this package. See
# `compare_protocols` before you put such a number beside another paper's.
#
# To train it by the authors' settings:
#
# ```
# saunet train --dataset drive --data-dir DRIVE --out runs/mine --recipe sa_unet_paper
# ```
