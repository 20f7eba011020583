# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Exploring U-Nets: a deck of slides, in code
#
# De Lange, Van de Sompele and Nijs compare U-Nets on DRIVE in their slides *Image
# Segmentation: Exploring U-Nets*: the baseline, Dice loss, augmentation, CFFA, CBAM,
# CMP-UNet and deformable convolutions. This notebook goes through the deck. Where the
# slides train networks of 30 million parameters, it trains narrow copies of them, for
# a minute.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import (
    Diary,
    brief,
    curves,
    draw_branches,
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
samples = photographs(5, start=20)

# %% [markdown]
# ## The task
#
# Vessels in a photograph of the retina. The slides name what makes it hard: few
# labelled images, thick vessels beside fine ones, noise, and far more background than
# vessel.

# %%
sample = samples[0]
inside = sample.fov == 1
show(
    [sample.image, sample.image[..., 1], sample.vessels],
    ["photograph", "its green channel", "vessels"],
    cmap="gray",
)
print(f"vessels: {sample.vessels[inside].mean():.1%} of the field of view")

# %% [markdown]
# ## U-Net
#
# Down: two convolutions, halve, four times. Up: double, put the encoder's map of the
# same size beside it, two convolutions. The deep levels know *what*, the skip
# connections bring back *where*. Each convolution is followed by batch normalisation
# and ReLU, in the bottleneck by ReLU alone: that is inferred from the count below.

# %%
draw_u(
    [f"conv 3x3 {width}\nconv 3x3 {width}" for width in (64, 128, 256, 512)],
    ["conv 3x3 1024", "conv 3x3 1024"],
    ["concat, conv 64, conv 64\nconv 1x1, sigmoid"]
    + [f"concat\nconv {width}, conv {width}" for width in (128, 256, 512)],
    "U-Net, the slides' baseline",
)

# %% [markdown]
# The slides print the parameters of the U-Net (the trainable ones), the deformable
# encoder and DU-Net; the networks here have the same.

# %%
counts = {
    "cbam_unet": 938_467,
    "unet_3level": FACTS["unet_3level"].total,
    "unet": 31_047_105,
    "dunet_encoder": 32_898_497,
    "dunet": 34_741_697,
    "cmp_unet_slides": 34_568_769,
}
for name in list(counts)[: brief(6, 1)]:
    counted = saunet.count_parameters(saunet.build_model(name))
    assert counted["total"] == counts[name] == FACTS[name].total
    assert counted["trainable"] == FACTS[name].trainable
    print(f"{name:16}{counted['total']:>11,}, trainable {counted['trainable']:>11,}")
assert FACTS["unet"].trainable == 31_039_425
assert FACTS["dunet"].trainable == 34_729_921

# %% [markdown]
# ## Dice
#
# How much of two sets overlaps: twice what they share, over the sum of both.
#
# $$Dice = \frac{2 |A \cap B|}{|A| + |B|} = \frac{2 tp}{2 tp + fp + fn}$$
#
# True negatives do not appear, so the sea of background cannot drown the vessels. (On
# yes-or-no maps Dice and F1 are the same number.)

# %%
from saunet.losses import bce, dice
from saunet.viz import error_map

truth = np.zeros((40, 60), np.uint8)
truth[16:24, 4:56] = 1
moved = [np.roll(truth, shift, axis=0) for shift in (0, 2, 4, 8)]
values = []
for guess in moved:
    by_hand = 2 * (truth & guess).sum() / (truth.sum() + guess.sum())
    as_loss = float(
        dice(*(a[None, ..., None].astype("float32") for a in (truth, guess)))
    )
    assert np.isclose(1 - as_loss, by_hand, atol=1e-5)
    values.append(by_hand)
show(
    [error_map(guess, truth) for guess in moved],
    [f"Dice {value:.2f}" for value in values],
    size=2,
)

# %% [markdown]
# What is missed is blue, what is invented orange. And why it helps against imbalance:
# a vessel of one pixel in a hundred, and a network that sees nothing.

# %%
rare = np.zeros((1, 20, 20, 1), "float32")
rare[0, 0, :4] = 1
blind = np.full_like(rare, 0.01)
for what, guess in (("nothing", blind), ("all", rare)):
    losses = float(bce(rare, guess)), float(dice(rare, guess))
    print(f"sees {what:8} BCE {losses[0]:.3f}, Dice loss {losses[1]:.3f}")

# %% [markdown]
# ## Augmentation
#
# Twenty photographs are few. Mirrored, turned and recoloured they are more, and the
# vessels move with them. `thirteen_copies` makes the fixed copies that SA-UNet's
# authors train on; `random_view` a new one each time.

# %%
from saunet.data.augmentation import random_view, thirteen_copies

copies = thirteen_copies(sample, seed=0)
chosen = copies[::3]
names = [copy.name.removeprefix(f"{sample.name}_") for copy in chosen]
show(
    [copy.image for copy in chosen] + [copy.vessels for copy in chosen],
    ["original", *names[1:]] + ["its vessels"] * len(chosen),
    columns=len(chosen),
    size=1.9,
)
assert len(copies) == 13

# %%
rng = np.random.default_rng(0)
views = [random_view(sample.image, sample.vessels, (128, 128), rng) for _ in range(5)]
show(
    [view for view, _ in views] + [label for _, label in views],
    ["random view"] * 5 + ["its vessels"] * 5,
    columns=5,
    size=1.9,
)

# %% [markdown]
# ### Does it help?
#
# The slides' largest step is not a network: U-Net's validation Dice rises from .7499 on
# the original photographs to .8246 with augmentation. We repeat the experiment small:
# a U-Net of 12, 24 and 48 channels, two training photographs, the same number of
# steps, once on plain pieces of them and once on random views.
#
# The builder below can also put CBAM and deformable convolutions into the network; we
# come to them later.

# %%
from keras import layers

from saunet.blocks import conv_bn_relu, image_input, vessel_map
from saunet.layers import ChannelAttention, ConvOffset2D, SpatialAttention


def narrow_u_net(*, cbam=False, deformable=False):
    """The slides' U-Net with two levels and few channels."""
    widths = (12, 24)
    x = inputs = image_input((None, None, 3), poolings=2)
    skips = []
    for level, width in enumerate(widths):
        if deformable and level == 1:
            x = ConvOffset2D(name="offset")(x)
        x = conv_bn_relu(x, width, name=f"down{level}_a")
        x = conv_bn_relu(x, width, name=f"down{level}_b")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
    x = conv_bn_relu(x, 48, name="bottleneck_a")
    if cbam:
        x = ChannelAttention(8, name="channels")(x)
        x = SpatialAttention(7, name="places")(x)
    x = conv_bn_relu(x, 48, name="bottleneck_b")
    for level, width in reversed(list(enumerate(widths))):
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"up{level}")(x)
        x = layers.Concatenate(name=f"up{level}_concat")([x, skips[level]])
        x = conv_bn_relu(x, width, name=f"up{level}_a")
        x = conv_bn_relu(x, width, name=f"up{level}_b")
    model = keras.Model(inputs, vessel_map(x))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # follows the few steps of a minute
    return model


def plain_batches(samples, *, crop, batch_size):
    """Yields pieces of the photographs as they are, the same ones again and again."""
    pieces = [
        (
            s.image[top : top + crop, left : left + crop],
            s.vessels[top : top + crop, left : left + crop],
        )
        for s in samples
        for top in range(0, s.image.shape[0] - crop + 1, crop)
        for left in range(0, s.image.shape[1] - crop + 1, crop)
    ]
    order = np.random.default_rng(0)
    while True:
        yield to_arrays(
            [pieces[i] for i in order.integers(len(pieces), size=batch_size)]
        )


from saunet.data.pipeline import random_batches, to_arrays

side = brief(256, 64)
validation = [(middle(s.image, side), middle(s.vessels, side)) for s in samples[3:]]
photograph, truth = validation[0]


def train(model, batches, epochs):
    """Trains with Dice loss; returns the history and a map an epoch."""
    model.compile(keras.optimizers.Adam(2e-3), dice)
    diary = Diary(photograph)
    history = model.fit(
        batches,
        validation_data=to_arrays(validation),
        steps_per_epoch=brief(24, 2),
        epochs=epochs,
        callbacks=[diary],
        shuffle=False,
        verbose=0,
    )
    return history.history, diary.maps


results = {}
for name, batches in {
    "original": plain_batches(samples[:2], crop=64, batch_size=brief(8, 2)),
    "augmented": random_batches(samples[:2], crop=64, batch_size=brief(8, 2), seed=0),
}.items():
    keras.utils.set_random_seed(0)
    results[name] = train(narrow_u_net(), batches, brief(10, 2))[0]
lines = {}
for name, history in results.items():
    lines[f"{name}, training"] = [1 - loss for loss in history["loss"]]
    lines[f"{name}, validation"] = [1 - loss for loss in history["val_loss"]]
curves(lines, ylabel="Dice")
for label, numbers in lines.items():
    print(f"{label:22} Dice {numbers[-1]:.3f} after the last epoch")

# %% [markdown]
# The validation curves jump: so early, batch normalisation's moving
# statistics are not yet those of the weights. Look at the distance between a network's
# training and validation curve: it is what the network knows by heart. Augmented views
# are harder, so their *training* Dice is lower. Whether the validation Dice is already
# higher after so short a training is a matter of luck; over many epochs it is what
# counts. Drawn photographs also differ less from each other than real ones, so there is
# less to gain here.
#
# ## CFFA: coarse and fine
#
# Vessels are long and thin. The *fine* branch convolves 3x1 and 1x3, the *coarse* one
# 7x7; both are put beside each other and mixed.

# %%
draw_branches(
    [
        ["conv 3x1\nBN, ReLU", "conv 1x3\nBN, ReLU"],
        ["conv 7x7\nBN, ReLU", "conv 1x1\nBN, ReLU"],
    ],
    ["concat", "conv 1x1\nBN, ReLU"],
    "CFFA: fine above, coarse below",
)

# %% [markdown]
# In code it is `saunet.blocks.coarse_fine`. Where one white pixel of a black image
# arrives, with kernels of ones: as far as an output pixel sees.

# %%
from saunet.blocks import coarse_fine


def bare(x, filters, kernel_size=3, *, name):
    """A convolution of ones, without normalisation."""
    return layers.Conv2D(
        filters, kernel_size, padding="same", kernel_initializer="ones", name=name
    )(x)


spot = np.zeros((1, 15, 15, 1), "float32")
spot[0, 7, 7] = 1
inputs = keras.Input((15, 15, 1))
cffa = coarse_fine(
    inputs,
    1,
    conv=bare,
    wide_conv=lambda x, f, name: bare(x, f, 7, name=name),
    name="c",
)
fine = bare(bare(inputs, 1, (3, 1), name="f1"), 1, (1, 3), name="f2")
coarse = bare(inputs, 1, 7, name="g1")
seen = [
    np.array(keras.Model(inputs, end)(spot))[0, ..., 0] for end in (fine, coarse, cffa)
]
show(
    seen,
    ["fine sees 3x3", "coarse sees 7x7", "CFFA"],
    cmap="magma",
    size=1.8,
)
assert seen[0].sum() == 9 and seen[1].sum() == 49
assert np.array_equal(seen[2], seen[0] + seen[1])

# %% [markdown]
# ## CBAM: which channel, and where
#
# **Channel attention** asks each channel for its mean and its maximum over the image,
# and two small dense layers make one factor a channel of them. **Spatial attention**
# does the same the other way round: one factor a pixel, from the mean and the maximum
# over the channels.
#
# $$w_c = \sigma(D(\mathrm{mean}_{xy} F) + D(\max_{xy} F)) \qquad
# w_{xy} = \sigma(f^{7 \times 7}[\mathrm{mean}_c F; \max_c F])$$

# %%
draw_chain(
    [
        "F",
        "mean, max\nover H, W",
        "Dense C/8\nReLU",
        "Dense C",
        "sum,\nsigmoid",
        "times F",
    ],
    "Channel attention",
)
draw_chain(
    ["F", "mean, max\nover C", "concat", "conv 7x7", "sigmoid", "times F"],
    "Spatial attention",
)
draw_u(
    ["conv, dropout,\nBN, ReLU 16 (x2)", "*CFFA 32 (x2)", "*CFFA 64 (x2)"],
    ["conv 128", "*channel\nattention", "*spatial\nattention", "conv 128"],
    [
        "concat, conv 16 (x2)\nconv 1x1, sigmoid",
        "concat\nconv 32 (x2)",
        "concat\nconv 64 (x2)",
    ],
    "CBAM-UNet with CFFA: 938,467 parameters",
)

# %% [markdown]
# ## CMP-UNet: several scales at once
#
# **MSCAF** convolves with three *dilations*: the same nine weights, further apart. It
# weighs the channels and mixes them. **PFF** gathers the decoder's four levels at full
# size for the last decision. Here, too, batch normalisation and ReLU follow each
# convolution. The network (`saunet/models/cmp_unet.py`) is a U-Net of k = 32 channels
# at its first level, whose encoder has CFFA, and whose decoder MSCAF and at its end
# PFF.

# %%
draw_branches(
    [["conv 3x3\nC/2"], ["conv 3x3\ndilation 3, C/4"], ["conv 3x3\ndilation 5, C/4"]],
    ["concat", "*channel\nattention", "conv 1x1 C", "dropout"],
    "MSCAF",
)
draw_branches(
    [
        [f"level {level}\nconv 1x1, {share}", f"enlarge x{2**level}"]
        for level, share in ((3, "k/8"), (2, "k/8"), (1, "k/4"), (0, "k/2"))
    ],
    ["concat", "MSCAF", "add\nlevel 0"],
    "PFF",
    start="decoder's\nfour maps",
)

# %%
taps = []
for dilation in (1, 3, 5):
    x = inputs = keras.Input((15, 15, 1))
    kernel = layers.Conv2D(
        1, 3, padding="same", dilation_rate=dilation, kernel_initializer="ones"
    )
    taps.append(np.array(keras.Model(inputs, kernel(inputs))(spot))[0, ..., 0])
show(
    taps,
    [
        f"dilation {dilation}: {2 * dilation + 1}x{2 * dilation + 1}"
        for dilation in (1, 3, 5)
    ],
    size=1.8,
)
assert all(tap.sum() == 9 for tap in taps)

# %% [markdown]
# CMP-UNet as the slides read it has 34,568,769 parameters here (they print no count),
# its authors' own 9,094,170 (they count the 9,071,770 trainable ones), mostly because
# their 7x7 convolutions are grouped. Here are both: `cmp_unet_slides` and `cmp_unet`.

# %%
print("7x7, full, 64 to 64 channels:   ", 7 * 7 * 64 * 64)
print("7x7, grouped, 64 to 64 channels:", 7 * 7 * 64)
assert FACTS["cmp_unet_slides"].total == 34_568_769
assert FACTS["cmp_unet"].total == 9_094_170

# %% [markdown]
# ## Deformable: looking beside the pixel
#
# A 3x3 convolution always looks at the same nine places. `ConvOffset2D` moves them: a
# convolution of the map says, for each pixel of each channel, where to read it from.
#
# $$y(p) = x(p + \Delta p)$$

# %%
draw_chain(
    [
        "x\nH x W x C",
        "*conv 3x3\n2C offsets",
        "*resample x\nat p + offset",
        "conv 3x3",
        "BN, ReLU",
    ],
    "Deformable unit of DU-Net",
)
grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2).astype(float)
bent = grid + np.random.default_rng(1).normal(0, 0.35, grid.shape)
figure, axes = plt.subplots(1, 2, figsize=(4.4, 2.2), layout="constrained")
for axis, places, title in zip(
    axes, (grid, bent), ("convolution", "deformable"), strict=True
):
    axis.scatter(*grid.T, s=60, facecolors="none", edgecolors="grey")
    for start, end in zip(grid, places, strict=True):
        axis.annotate(
            "", end, start, arrowprops={"arrowstyle": "->", "color": "#d55e00"}
        )
    axis.scatter(*places.T, s=25, color="#1f3b57")
    axis.set(
        title=title, xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[]
    )

# %% [markdown]
# A place between pixels is interpolated from its four neighbours. The slides' example:
# neighbours 1, 8, 4 and 2, seven tenths to the right and three tenths down.

# %%
from saunet.layers.conv_offset import sample as read_at

four = np.array([[1.0, 8.0], [4.0, 2.0]], "float32")[None, ..., None]
down, right = np.zeros_like(four), np.zeros_like(four)
down[0, 0, 0], right[0, 0, 0] = 0.3, 0.7
value = float(np.array(read_at(four, down, right))[0, 0, 0, 0])
expected = 0.3 * 0.7 * 1 + 0.7 * 0.7 * 8 + 0.3 * 0.3 * 4 + 0.7 * 0.3 * 2
print(f"x(0.7, 0.3) = {value:.2f}")
assert np.isclose(value, expected) and np.isclose(value, 4.91)

# %% [markdown]
# ## All of it, epoch by epoch
#
# The narrow network again, with CBAM in the bottleneck and a deformable second level,
# on random views of three photographs. The slides show the prediction after epochs 2,
# 4, 6, 8 and 10; so do we.

# %%
keras.utils.set_random_seed(1)
model = narrow_u_net(cbam=True, deformable=True)
batch = photograph[np.newaxis].astype("float32") / 255
offset = model.get_layer("offset")
before = keras.Model(model.input, offset.input)
early = [np.array(shift)[0] for shift in offset.shifts(before(batch, training=False))]
history, maps = train(
    model,
    random_batches(samples[:3], crop=64, batch_size=brief(8, 2), seed=1),
    brief(10, 2),
)
curves(
    {"training": history["loss"], "validation": history["val_loss"]}, ylabel="Dice loss"
)
show(
    [photograph, *maps[1::2], truth],
    ["photograph", *(f"epoch {epoch}" for epoch in range(2, len(maps) + 1, 2)), "true"],
    columns=4,
    size=2.2,
)

# %% [markdown]
# ## The offsets as arrows
#
# Each channel has its own. We take the one that moves most, and draw on a piece of the
# photograph where every second pixel of its map is read from: the arrow starts at the
# pixel and points to the place, lengthened by the factor in the title. A pixel of this
# map is 2 x 2 pixels of the photograph.

# %%
late = [np.array(shift)[0] for shift in offset.shifts(before(batch, training=False))]
length = {"before": np.hypot(*early), "after": np.hypot(*late)}
for when, lengths in length.items():
    mean, largest = lengths.mean(), lengths.max()
    print(f"offsets {when} training: mean {mean:.3f}, largest {largest:.2f}")
channel = int(length["after"].mean(axis=(0, 1)).argmax())
rows, columns = (shift[..., channel] for shift in late)

piece = side // 4  # pixels of the map: a quarter of it, the one with most vessels


def quarter(array, top, left, scale):
    """Returns a quarter of an array that has `scale` pixels for one of the map."""
    return array[
        scale * top : scale * (top + piece), scale * left : scale * (left + piece)
    ]


top, left = max(
    ((top, left) for top in (0, piece) for left in (0, piece)),
    key=lambda corner: quarter(truth, *corner, 2).sum(),
)
y, x = np.mgrid[top : top + piece : 2, left : left + piece : 2]
figure, axis = plt.subplots(figsize=(5.5, 5.5), layout="constrained")
edges = (left - 0.5, left + piece - 0.5, top + piece - 0.5, top - 0.5)
axis.imshow(quarter(photograph, top, left, 2), extent=edges)
longest = np.quantile(np.hypot(rows[y, x], columns[y, x]), 0.98)
enlarged = max(1.0, 3 / max(longest, 1e-6))
axis.quiver(
    x,
    y,
    enlarged * columns[y, x],
    enlarged * rows[y, x],
    angles="xy",
    scale_units="xy",
    scale=1,
    color="white",
    width=0.003,
)
axis.set_title(f"channel {channel}, arrows {enlarged:.1f} times as long", fontsize=9)
axis.set_axis_off()

# %%
show(
    [photograph, rows, columns, length["after"].mean(-1)],
    ["photograph", "down", "right", "length, mean over channels"],
    bar=True,
    cmap="coolwarm",
    size=2.1,
)

# %% [markdown]
# Most of an offset is a common shift, the same for all pixels of a channel. On top of
# it the offsets follow the image: vessels stand out in all three maps, where there is
# something to read beside the pixel.
#
# ## What CBAM looks at

# %%
channels, places = model.get_layer("channels"), model.get_layer("places")
both = keras.Model(model.input, [channels.input, places.input])
first, second = both(batch, training=False)
factors = np.array(channels.attention(first))[0]
where = np.array(places.attention(second))[0, ..., 0]
figure, axis = plt.subplots(figsize=(5.4, 2), layout="constrained")
axis.bar(range(len(factors)), factors, color="#1f3b57")
axis.set(xlabel="channel of the bottleneck", ylabel="factor", ylim=(0, 1))
show([photograph, where], ["photograph", "spatial attention"], bar=True, cmap="magma")

# %% [markdown]
# ## What the slides report
#
# | Dice on DRIVE | validation, original | augmented | test | trainable parameters |
# |---|---|---|---|---|
# | U-Net | .7499 | .8246 | | 31,039,425 |
# | Deformable encoder | .7433 | .8243 | | 32,886,721 |
# | DU-Net | .7328 | .8233 | | 34,729,921 |
# | CBAM-UNet (CFFA) | | | .8227 | |
# | U-Net of 3 levels | | | .8229 | |
# | CMP-UNet | | | .8245 | |
#
# The scores on test images are of DRIVE's Grand Challenge. With augmentation three
# networks lie within .0013 of each other on the validation images, three others within
# .0018 on the test images: on twenty photographs the data decides more than the
# architecture.
