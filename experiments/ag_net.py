"""AG-Net (MICCAI 2019) on DRIVE and CHASE_DB1, a row of SA-UNet's tables.

    python experiments/ag_net.py --data-dir DATA --dry-run

Paper: Zhang et al., https://arxiv.org/abs/1907.12930; settings of the authors' code,
https://github.com/HzFu/AGNet: Adam .0015, batch 2, 150 epochs, the sum of the losses
of the mean and of four side outputs, and the test on side 8.

Inferred: binary cross-entropy on the vessel class, which is the code's loss of two
classes; SA-UNet's augmentation, and as there two images held out. The recipes `budget`
and `best` train and test on the mean alone. The published scores are cited by SA-UNet;
their protocol is not known.
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
