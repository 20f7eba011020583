# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # RSAN, read beside its paper
#
# Guo et al., *Residual Spatial Attention Network for Retinal Vessel Segmentation*,
# ICONIP 2020, [arXiv 2009.08829](https://arxiv.org/abs/2009.08829).
#
# RSAN puts **residual blocks** into a U-Net, **DropBlock** into the residual blocks,
# and **spatial attention** into every second one. The notebook `sa_unet` explains
# DropBlock and spatial attention; here is what is new: where they stand, and why.

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
from saunet.models import FACTS

keras.utils.set_random_seed(0)

# %% [markdown]
# ## Three kinds of block (the paper's figure 3)
#
# (a) U-Net's unit. (b) The *pre-activation* residual block: normalisation and ReLU
# come **before** each convolution, so that nothing stands on the shortcut and the
# input reaches the output untouched. (c) The same with DropBlock.
#
# A block learns what to *add*, $y = x + F(x)$. If there is nothing to add, it has only
# to learn $F = 0$, and its gradient $1 + F'$ stays near 1 where $F'$ is small.

# %%
draw_chain(["conv 3x3", "ReLU", "conv 3x3", "ReLU"], "(a) U-Net")
draw_chain(
    ["x", "BN, ReLU", "conv 3x3", "BN, ReLU", "conv 3x3", "add"],
    "(b) pre-activation residual block",
    shortcut=(0, 5, "shortcut; conv 1x1 if the width changes"),
)
draw_chain(
    [
        "x",
        "BN, ReLU",
        "conv 3x3",
        "*DropBlock",
        "BN, ReLU",
        "conv 3x3",
        "*DropBlock",
        "add",
    ],
    "(c) with DropBlock",
    shortcut=(0, 7, "shortcut; conv 1x1 if the width changes"),
)

# %% [markdown]
# ## The residual spatial attention block, RSAB (figure 4)
#
# What is added is first weighed by where it is: $y = x + A(F(x)) \cdot F(x)$. The
# attention can take back an addition at the wrong place, yet never harms the shortcut.
# Batch normalisation and ReLU of the level follow.

# %%
draw_chain(
    [
        "x",
        "BN, ReLU\nconv",
        "DropBlock",
        "BN, ReLU\nconv",
        "DropBlock",
        "*spatial\nattention",
        "add",
        "BN, ReLU",
    ],
    "RSAB",
    shortcut=(0, 6, "shortcut"),
)

# %% [markdown]
# In code (`saunet/models/rsan.py`; `unit` is BN, ReLU, conv, DropBlock):
#
# ```python
# def _rsab(x, *, unit, attention, name):
#     residual = unit(x, x.shape[-1], name=f"{name}1")
#     residual = unit(residual, x.shape[-1], name=f"{name}2")
#     if attention:
#         residual = SpatialAttention(7, name=f"{name}_attention")(residual)
#     x = layers.Add(name=f"{name}_add")([x, residual])
#     return _bn_relu(x, name=f"{name}_out")
# ```
#
# ## The network (figure 1)
#
# Orange has attention. Where paper and code differ, the code is followed: the paper
# says that a transposed convolution of 2x2 enlarges, its code has one of 3x3, stride 2;
# equation 4 joins maximum and mean in this order, its code mean and maximum.

# %%
draw_u(
    [f"residual block {width}\n*RSAB {width}" for width in (16, 32, 64)],
    ["residual block 128", "*RSAB 128"],
    [
        "concat, residual 16\n*RSAB 16\nconv 1x1, sigmoid",
        "concat, residual 32\n*RSAB 32",
        "concat, residual 64\n*RSAB 64",
    ],
    "RSAN",
)

# %% [markdown]
# The counts tell whether we read it right. Attention stands in seven places (three
# down, the bottleneck, three up) and costs 98 each.

# %%
for name in ("rsan_backbone", "rsan_backbone_dropblock", "rsan"):
    counted = saunet.count_parameters(saunet.build_model(name))
    assert counted["total"] == FACTS[name].total
    assert counted["trainable"] == FACTS[name].trainable
    print(f"{name:24} {counted['total']:>9,} parameters")
assert FACTS["rsan"].total == 1_054_523 and FACTS["rsan"].trainable == 1_051_029
assert FACTS["rsan"].total - FACTS["rsan_backbone"].total == 7 * 98

# %% [markdown]
# ## What a shortcut does in a deep stack
#
# Forty convolutions in a row, fresh weights, with and without shortcuts. The input
# changes a little: how much of the change is left after each layer? The gradient passes
# the same layers on its way back.


# %%
def stack(depth, shortcuts):
    """Returns a model of all maps in a row of `depth` blocks."""
    x = inputs = keras.Input((16, 16, 8))
    maps = []
    for _ in range(depth):
        y = keras.layers.ReLU()(x)
        y = keras.layers.Conv2D(8, 3, padding="same")(y)
        x = keras.layers.Add()([x, y]) if shortcuts else y
        maps.append(x)
    return keras.Model(inputs, maps)


rng = np.random.default_rng(0)
one = rng.normal(size=(1, 16, 16, 8)).astype("float32")
other = one + 0.01 * rng.normal(size=one.shape).astype("float32")
depth = brief(40, 4)
figure, axis = plt.subplots(figsize=(4.8, 2.5), layout="constrained")
for shortcuts, label in ((False, "plain"), (True, "with shortcuts")):
    network = stack(depth, shortcuts)
    changes = [
        float(np.abs(np.array(a) - np.array(b)).mean())
        for a, b in zip(network(one), network(other), strict=True)
    ]
    axis.semilogy(range(1, depth + 1), changes, label=label)
    print(
        f"{label:15} {changes[0]:.1e} after one layer, {changes[-1]:.1e} after {depth}"
    )
axis.set(xlabel="layer", ylabel="change of the map")
axis.legend(frameon=False, fontsize=8)
axis.grid(alpha=0.25)

# %% [markdown]
# Without shortcuts the input's change fades by orders of magnitude, and with it, on
# the way back, the gradient. With them it survives; it even grows from layer to layer,
# which is one reason for the normalisation in each block.
#
# ## Training for a minute

# %%
from saunet.data.pipeline import random_batches

samples = photographs(5)
training, held_out = samples[:4], samples[4]
side = brief(256, 64)
photograph, truth = middle(held_out.image, side), middle(held_out.vessels, side)

model = saunet.build_model("rsan", rate=0.15)
model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
diary = Diary(photograph)
history = model.fit(
    random_batches(training, crop=64, batch_size=brief(8, 2), seed=0),
    steps_per_epoch=brief(40, 2),
    epochs=brief(8, 2),
    callbacks=[diary],
    shuffle=False,
    verbose=0,
)
losses = history.history["loss"]
curves({"training": losses}, ylabel="binary cross-entropy")
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
# ## The seven attention maps
#
# In the order the image passes them: finer to coarser on the way down, and back. Each
# map spans the scale of colours by itself; the numbers beside it are its own.

# %%
from saunet.inference import Segmenter

names = [layer.name for layer in model.layers if layer.name.endswith("_attention")]
assert len(names) == 7
layers = [model.get_layer(name) for name in names]
before = keras.Model(model.input, [layer.input for layer in layers])
batch = Segmenter(model).prepare(held_out.image)
maps = [
    np.array(layer.attention(inputs))[0, ..., 0]
    for layer, inputs in zip(layers, before(batch, training=False), strict=True)
]
show(
    [held_out.image, *maps],
    ["photograph", *(name.removesuffix("_attention") for name in names)],
    columns=4,
    bar=True,
    cmap="magma",
    size=2.1,
)

# %% [markdown]
# ## What the paper reports
#
# | | SEN | SPE | F1 | ACC | AUC |
# |---|---|---|---|---|---|
# | DRIVE, Backbone | .7851 | .9826 | .7985 | .9653 | .9762 |
# | DRIVE, Backbone+DropBlock | .7908 | .9847 | .8110 | .9677 | .9822 |
# | DRIVE, RSAN | .8149 | .9839 | .8222 | .9691 | .9855 |
# | CHASE_DB1, Backbone | .7843 | .9844 | .7781 | .9718 | .9805 |
# | CHASE_DB1, Backbone+DropBlock | .8330 | .9830 | .7990 | .9736 | .9871 |
# | CHASE_DB1, RSAN | .8486 | .9836 | .8111 | .9751 | .9894 |
#
# Protocol `frame`, `pooled`. RSAN keeps 85 % of a map on DRIVE (`rate=0.15`) and 78 %
# on CHASE_DB1 (`rate=0.22`). Weights that the authors' code wrote load by order: see
# `load_official_weights`. To train by the authors' settings, on a GPU:
#
# ```
# saunet train --dataset drive --data-dir DRIVE --out runs/mine --recipe rsan_paper
# ```
