"""SA-UNet (ICPR 2020): the ablations on DRIVE and CHASE_DB1.

    python experiments/sa_unet.py --data-dir DATA --dry-run
    python experiments/sa_unet.py --data-dir DATA --rows sa_unet --dataset drive \
        --recipe best --results runs/results

Paper: Guo et al., https://arxiv.org/abs/2004.03696; settings of the authors' code,
https://github.com/clguo/SA-UNet: BCE, Adam 1e-3 for 100 epochs and 1e-4 for 50, 13
copies of each image, batch 4 (DRIVE) or 2 (CHASE_DB1), DropBlock keeps .82 or .87.

Departures of the recipe `paper`: two training images are held out, since the authors'
choice is not known: of DRIVE by seed, of CHASE_DB1 both eyes of the last child; of
these, the epoch of the lowest loss is scored, where the authors' scripts keep the last
one. The "U-Net" of the tables, which the paper has in 18 and 23 layers, is taken to be
the one of 18: "U-Net + SA" builds on it.

`weights/sa_unet_drive` and `weights/sa_unet_chase_db1` are the row `sa_unet` by `best`.
Runs by `budget` marked `loss=bce_mcc` are older than that recipe, which trains on the
paper's cross-entropy.
"""

import sys
from dataclasses import replace

from rows import Row
from runner import run

from saunet.training import RECIPES

KEEP = {"drive": 0.82, "chase_db1": 0.87}
BATCH = {"drive": 4, "chase_db1": 2}
HELD_OUT = {"drive": 2, "chase_db1": ("10L", "10R")}


def rows_of(dataset):
    """Returns the rows of Table II (DRIVE) or III (CHASE_DB1), in its order."""
    rate = round(1 - KEEP[dataset], 2)
    table = (
        ("unet_18", "U-Net", {}),
        ("unet_18_sa", "U-Net + SA", {}),
        ("sd_unet", "SD-Unet", {"rate": 0.1}),
        ("sa_unet_backbone", "Backbone", {"rate": rate}),
        ("sa_unet", "SA-UNet", {"rate": rate}),
    )
    for key, title, kwargs in table:
        recipe = replace(
            RECIPES["sa_unet_paper"],
            model=key,
            model_kwargs=kwargs,
            batch_size=BATCH[dataset],
            validation=HELD_OUT[dataset],
        )
        yield Row(key, title, dataset, recipe)


ROWS = (*rows_of("drive"), *rows_of("chase_db1"))
# Said below the tables of a dataset.
U_NET = 'The paper\'s "U-Net" is taken to be its network of 18 layers, not that of 23.'
NOTES = {
    "drive": U_NET,
    "chase_db1": f"{U_NET} The loss of `unet_18`, which normalises nothing, stood "
    "still for a third of its epochs (see its curve): its score is that of one start. "
    "No other seed was trained.",
}

if __name__ == "__main__":
    sys.exit(run("sa_unet", ROWS))
