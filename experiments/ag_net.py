"""AG-Net (MICCAI 2019) on DRIVE and CHASE_DB1, a row of SA-UNet's tables.

    python experiments/ag_net.py --data-dir DATA --dry-run

Paper: Zhang et al., https://arxiv.org/abs/1907.12930; settings of the authors' code,
https://github.com/HzFu/AGNet at c99c50b: Adam .0015, batch 2, 150 epochs, the sum of
the losses of the mean and of four side outputs, and the test on side 8. The published
scores are cited by SA-UNet; the code scores whole frames, the mean of the images, and
calls a vessel what is more likely than not.

Departures: the authors shrink a photograph to 512x512, show it as BGR in 0 to 255, and
enlarge side 8's map again; here it is padded, RGB in 0 to 1. Their code has no
augmentation, holds nothing out, and saves every tenth epoch without saying which is
tested; here SA-UNet's copies, two images held out, and the epoch of the lowest
validation loss. The recipes `budget` and `best` train and test on the mean alone.

Binary cross-entropy on the vessel class is the code's loss of two classes.
"""

import sys
from dataclasses import replace

from rows import Row
from runner import run

from saunet.training import Recipe

RECIPE = Recipe(
    model="ag_net",
    model_kwargs={"outputs": "all"},
    augmentation="thirteen",
    batch_size=2,
    epochs=150,
    learning_rates=((150, 1.5e-3),),
)
HELD_OUT = {"drive": 2, "chase_db1": ("10L", "10R")}

ROWS = tuple(
    Row(
        "ag_net",
        "AG-Net",
        dataset,
        replace(RECIPE, validation=held_out),
        changes={"model_kwargs": {}},
        test_kwargs={"outputs": "side_8"},
    )
    for dataset, held_out in HELD_OUT.items()
)

if __name__ == "__main__":
    sys.exit(run("ag_net", ROWS))
