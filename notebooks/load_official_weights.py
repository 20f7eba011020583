# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Loading the authors' weights, and what to do when it fails
#
# The authors' code for SA-UNet, RSAN and SA-UNetv2 writes `.h5` files, by Keras 2, and
# SA-UNet's and SA-UNetv2's are in use. `saunet.load_weights` reads them into our
# networks. Their files are not part of this package (their terms are not given), so
# this notebook first writes a file of the very same kind from the weights that are. If
# you have one of theirs, load it by `saunet.load_weights(model, path)`; its path does
# not belong into the cell below, which writes.

# %%
from pathlib import Path

import h5py
import numpy as np
from lesson import photographs, show

import saunet
from saunet.errors import InputError
from saunet.evaluation import evaluate
from saunet.inference import Segmenter

OUT = Path("out/weights")
OUT.mkdir(parents=True, exist_ok=True)

shipped = saunet.load_pretrained("sa_unet_v2_drive")
official = OUT / "SA_UNetv2.h5"
saunet.save_weights(shipped.model, official, file_format="legacy")
print(f"{official.name}: {official.stat().st_size:,} bytes")

# %% [markdown]
# From a shell: `saunet convert --weights sa_unet_v2_drive --out SA_UNetv2.h5 --format
# legacy`. TensorFlow 2.12 with the authors' own code reads this file, too.
#
# ## What is in such a file
#
# HDF5 is a tree of arrays with notes attached. Keras 2 notes the layers' names, in
# the order of the graph, and each layer's arrays.


# %%
def words(names):
    """Returns names as strings; files of different ages hold bytes or strings."""
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names]


with h5py.File(official) as file:
    names = words(file.attrs["layer_names"])
    print(len(names), "layers:", ", ".join(names[:5]), "...")
    for name in names[:8]:
        for array in words(file[name].attrs["weight_names"]):
            print(f"  {array:32} {file[name][array].shape}")

# %% [markdown]
# ## Loading it

# %%
model = saunet.build_model("sa_unet_v2")
saunet.load_weights(model, official)

samples = photographs(2, start=11, part="test")
reference = [shipped.predict(sample.image) for sample in samples]
segmenter = Segmenter(model, threshold=0.5)
difference = np.abs(segmenter.predict(samples[0].image) - reference[0]).max()
print(f"largest difference from the weights we started with: {difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# ## Names do not matter, order does
#
# Keras 2 calls layers `conv2d`, `conv2d_1`, ... and goes on counting through a
# session. Whoever builds a network twice before training saves `conv2d_23`. So the
# arrays are matched **by order and by shape**, never by name. We rename every layer as
# a long session would, and load again.

# %%
renamed = OUT / "renamed.h5"
renamed.write_bytes(official.read_bytes())
with h5py.File(renamed, "r+") as file:
    others = [f"layer_{number + 400}" for number in range(len(names))]
    for name, other in zip(names, others, strict=True):
        file.move(name, other)
    file.attrs["layer_names"] = [other.encode() for other in others]

another = saunet.build_model("sa_unet_v2")
saunet.load_weights(another, renamed)
assert np.abs(Segmenter(another).predict(samples[0].image) - reference[0]).max() < 1e-5
print("loaded; the same map")

# %% [markdown]
# ## When it fails with an error
#
# Shapes are compared before anything is written: after an error the model is as it
# was. The errors are one line each: what was received, what was expected, what to do.


# %%
def attempt(title, network, path):
    """Loads a file, and prints the error there should be."""
    before = network.get_weights()[0].copy()
    try:
        saunet.load_weights(network, path)
    except InputError as error:
        print(f"{title}\n    {error}\n")
        assert "\n" not in str(error)
        assert np.array_equal(network.get_weights()[0], before)
    else:
        raise AssertionError(f"{title}: loaded without an error")


attempt("The wrong network:", saunet.build_model("sa_unet"), official)
attempt("One of the ablation:", saunet.build_model("sa_unet_v2_narrow"), official)
attempt("A typing error:", model, OUT / "SA_UNet_v2.h5")

# %% [markdown]
# A download that broke off, a page saved in place of the file, and a file of another
# program:

# %%
cut = OUT / "cut.h5"
cut.write_bytes(official.read_bytes()[:700_000])
attempt("A download that broke off:", model, cut)

page = OUT / "page.h5"
page.write_text("<!DOCTYPE html><html>Sign in to continue</html>")
attempt("The page around the download:", model, page)

foreign = OUT / "foreign.h5"
with h5py.File(foreign, "w") as file:
    file["vessels"] = np.zeros((4, 4))
attempt("HDF5, but no weights:", model, foreign)

# %% [markdown]
# And a training that diverged: one weight is not a number, so all of the map would be.

# %%
diverged = OUT / "diverged.h5"
diverged.write_bytes(official.read_bytes())
with h5py.File(diverged, "r+") as file:
    array = words(file["down0_a_conv"].attrs["weight_names"])[0]
    file["down0_a_conv"][array][0, 0, 0, 0] = np.nan
attempt("Not a number:", model, diverged)

# %% [markdown]
# What to do, in this order:
#
# 1. Compare the file's size with the one on its page.
# 2. Read the error: it names the first layer that differs, and both shapes. `(3, 3, 3,
#    16)` against `(3, 3, 3, 64)` in layer 1 is another network; a difference in the
#    last layers only is another number of classes or another decoder.
# 3. Count: `saunet models` lists the parameters of every network.
# 4. A file for 2 output channels does not fit any network here, one for grey or 13
#    input channels none as it is built by default: `input_shape=(None, None, 1)`.
#
# ## When it fails without an error
#
# Worse: everything loads, and the maps are wrong or a little worse. Shapes cannot tell.
# Only a score can, so have a photograph with known vessels at hand.


# %%
def f1(segmenter, change=lambda image: image):
    """Returns F1 on our photographs, and the first map."""
    maps = [segmenter.predict(change(sample.image)) for sample in samples]
    return evaluate(maps, samples, region="fov", pooling="pooled")["f1"], maps[0]


# Same number of parameters, same shapes in the same order, another wiring.
lookalike = saunet.build_model("sa_unet_v2_skip_sa")
saunet.load_weights(lookalike, official)

padded = {"placement": "bottom_right", "multiple": 16, "square": True}
cases = {
    "right": f1(segmenter),
    "padded bottom right": f1(Segmenter(model, padding=padded)),
    "blue and red swapped": f1(segmenter, lambda image: image[..., ::-1]),
    "divided by 255 twice": f1(segmenter, lambda image: image / 255.0 / 255.0),
    "look-alike network": f1(Segmenter(lookalike)),
}
for title, (score, _) in cases.items():
    print(f"{title:22} F1 {score:.4f}")
show([probability for _, probability in cases.values()], list(cases), size=2.2)
assert cases["right"][0] > cases["look-alike network"][0]

# %% [markdown]
# - **Padding.** SA-UNet and RSAN were trained on photographs padded on all sides,
#   SA-UNetv2 on DRIVE at the bottom and the right (on STARE on all sides in training,
#   at the bottom and the right in the test). Here it costs next to nothing, as the
#   numbers above show, but follow what the weights saw: a `Segmenter` takes `padding`,
#   and the card of a shipped weight names it.
# - **Colours.** OpenCV reads blue first. `saunet.data.images.read_image` gives RGB.
# - **Scale.** All networks here want [0, 1]. A `Segmenter` divides 8-bit pictures
#   itself and refuses float pictures beyond 1; below it cannot know.
# - **Look-alikes.** `sa_unet_v2` and `sa_unet_v2_skip_sa` have the same arrays in the
#   same order: a gate on the skip has 98 weights whatever it looks at. `unet_18` and
#   `sd_unet` share theirs, too, but there it is harmless: DropBlock has no weights and
#   does nothing at test time.
