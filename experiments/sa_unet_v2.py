"""SA-UNetv2 (2025): the ladder and the U-Nets on DRIVE; folds of STARE; CHASE_DB1.

    python experiments/sa_unet_v2.py --data-dir DATA --dry-run
    python experiments/sa_unet_v2.py --data-dir DATA --rows sa_unet_v2 --dataset drive \
        --recipe best --results runs/results
    python experiments/sa_unet_v2.py --data-dir DATA --rows sa_unet_v2 --dataset stare \
        --folds 4 --results runs/results

Paper: Guo et al., https://arxiv.org/abs/2509.11774; settings of its README and of the
notebooks of https://github.com/clguo/SA-UNetv2 (DRIVE's at f5c9bb5, STARE's at
4eea4d8): Adam 1e-3, at most 150 epochs, 13 copies of each image, batch 8 (DRIVE) or 2
(STARE), the learning rate halved where val_loss stands still, early stopping. Every
step of the ladder but the last one trains on binary cross-entropy alone.

Departures of the recipe `paper`: two photographs (a tenth of DRIVE's, an eighth of a
fold's) are held out before they are augmented. Of DRIVE the authors hold out a folder
that is not named; of STARE a tenth of the copies, so that those of one photograph lie
on both sides. Scored is the epoch of the lowest val_loss (theirs: the best
val_accuracy). One of the authors' copies of STARE is turned about its diagonal; the 13
here are DRIVE's. STARE is trained on centred photographs and tested on ones padded at
the bottom and right, as there.

What the STARE notebook calls SA-UNet is `sa_unet_gn_silu`, trained by BCE and MCC: the
project page's "SA-UNet" on STARE is taken to be that. Inferred, too: that the two
U-Nets on DRIVE were trained by cross-entropy alone; that all of the README's scores
are means of whole frames, as SA-UNetv2's there is; DropBlock of .15 in every network
that has it (SA-UNet's own is .18 on DRIVE).

CHASE_DB1 is not in the paper: its row is ours, by STARE's settings, both eyes of the
last child held out.

`sa_unet_bce` by `budget` has the recipe and the seed of sa_unet.py's row `sa_unet`: it
is that run, scored again.

`weights/sa_unet_v2_drive` is the row `sa_unet_v2` by the recipe `best`, seed 0;
`weights/sa_unet_v2_chase_db1` by `finetune`.
"""

import sys
from dataclasses import replace

from rows import Row
from runner import run

from saunet.training import RECIPES

PAPER = RECIPES["sa_unet_v2_paper"]

# key, network, title, loss
LADDER = (
    ("sa_unet_bce", "sa_unet", "SA-UNet", "bce"),
    ("sa_unet_gn_silu", "sa_unet_gn_silu", "+ GroupNorm, SiLU", "bce"),
    ("sa_unet_v2_narrow", "sa_unet_v2_narrow", "+ 16/32/48/64 filters", "bce"),
    ("sa_unet_v2_skip_sa", "sa_unet_v2_skip_sa", "spatial attention in skips", "bce"),
    ("sa_unet_v2_bce", "sa_unet_v2", "+ cross-scale attention", "bce"),
    ("sa_unet_v2", "sa_unet_v2", "+ BCE and MCC (SA-UNetv2)", "bce_mcc"),
    ("unet_32", "unet_32", "U-Net", "bce"),
    ("attention_unet", "attention_unet", "Attention U-Net", "bce"),
)
STARE = replace(
    PAPER,
    batch_size=2,
    placement="centered",
    plateau=(0.5, 20, 1e-8),
    early_stopping=30,
)

# Said below the tables of a dataset.
NOTES = {
    "drive": "The run of `sa_unet_gn_silu` is older than the start of its transposed "
    "convolutions by he_normal, as in the authors' code: Keras's default began them.",
    "stare": "Published is a split of 16 and 4 images without their names: that the 4 "
    "are the last ones, our fold 4, is taken, not known.",
}

ROWS = (
    *(
        # Of the ladder the loss is a step, whatever the recipe.
        Row(key, title, "drive", replace(PAPER, model=model, loss=loss), {"loss": loss})
        for key, model, title, loss in LADDER
    ),
    *(
        Row(key, title, "stare", recipe, fold=fold, test_placement="bottom_right")
        for key, title, recipe in (
            ("sa_unet_v2", "SA-UNetv2", STARE),
            (
                "sa_unet_gn_silu",
                "SA-UNet (with GroupNorm, SiLU)",
                replace(STARE, model="sa_unet_gn_silu"),
            ),
        )
        for fold in range(5)
    ),
    Row(
        "sa_unet_v2",
        "SA-UNetv2",
        "chase_db1",
        replace(STARE, validation=("10L", "10R")),
        test_placement="bottom_right",
    ),
)

if __name__ == "__main__":
    sys.exit(run("sa_unet_v2", ROWS))
