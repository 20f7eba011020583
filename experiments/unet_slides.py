"""U-Net slides ("Exploring U-Nets"): U-Net, DU-Net, CBAM-UNet, CMP-UNet on DRIVE.

    python experiments/unet_slides.py --data-dir DATA --dry-run
    python experiments/unet_slides.py --data-dir DATA --rows cbam_unet --ship

From the slides ("Image Segmentation: Exploring U-Nets"): Dice loss; each of the first
three networks with the original and with augmented data (flips, rotation, brightness).
Their Dice is of validation images, or of the Grand Challenge's server, by a protocol
that is not given: the tables show it without a difference.

Inferred, since the slides do not say: Adam 1e-3, 100 epochs, batch 2, two images held
out; dropout of .18 in CBAM-UNet and .2 in CMP-UNet; for the augmentation, SA-UNet's
thirteen copies, which also have other colours and noise; CBAM-UNet, CMP-UNet and the
U-Net of three levels are trained on augmented data.

Departure: the deformable networks read their offsets as pairs of one channel
(`layout="paired"`), which is the paper's operation. The slides' layer reshapes them so
that channels and places mix, and takes square maps alone (`layout="reference"`).
"""

import sys

from rows import Row
from runner import run

from saunet.training import Recipe

# Under the recipes `budget` and `best` too; a batch of whole photographs is small.
PLAIN = {
    "augmentation": "none",
    "crop": None,
    "whole_epochs": 0,
    "upright": 0.0,
    "batch_size": 1,
}

TABLE = (
    ("unet_plain", "unet", "U-Net, original data", {}, PLAIN),
    ("unet", "unet", "U-Net, augmented data", {}, {}),
    ("dunet_encoder_plain", "dunet_encoder", "Deformable encoder, original", {}, PLAIN),
    ("dunet_encoder", "dunet_encoder", "Deformable encoder, augmented", {}, {}),
    ("dunet_plain", "dunet", "DU-Net, original data", {}, PLAIN),
    ("dunet", "dunet", "DU-Net, augmented data", {}, {}),
    ("cbam_unet", "cbam_unet", "CBAM-UNet (CFFA)", {"rate": 0.18}, {}),
    ("cmp_unet_slides", "cmp_unet_slides", "CMP-UNet", {"rate": 0.2}, {}),
    ("unet_3level", "unet_3level", "U-Net (3 encoders/decoders)", {}, {}),
)


def _recipe(model, kwargs, changes):
    return Recipe(
        model=model,
        model_kwargs=kwargs,
        loss="dice",
        augmentation="none" if changes else "thirteen",
        batch_size=2,
        epochs=100,
        learning_rates=((100, 1e-3),),
        validation=2,
    )


ROWS = tuple(
    Row(
        key,
        title,
        "drive",
        _recipe(model, kwargs, changes),
        changes,
    )
    for key, model, title, kwargs, changes in TABLE
)

if __name__ == "__main__":
    sys.exit(run("unet_slides", ROWS))
