"""What each network costs: the table that `saunet models` and README print.

Written down because building all networks takes half a minute; a test builds them
and compares. GFLOPs are for one image of 592x592 in the convention of keras-flops,
https://github.com/tokusumi/keras-flops (see `saunet.profiling`).
"""

from typing import NamedTuple


class Facts(NamedTuple):
    """The paper a network is from, its parameters, and GFLOPs at 592x592."""

    paper: str
    total: int
    trainable: int
    gflops: float


FACTS = {
    "unet_23": Facts("SA-UNet (ICPR 2020)", 2_158_705, 2_158_705, 34.292),
    "unet_18": Facts("SA-UNet (ICPR 2020)", 535_793, 535_793, 26.214),
    "unet_18_sa": Facts("SA-UNet (ICPR 2020)", 535_891, 535_891, 26.217),
    "sd_unet": Facts("SA-UNet (ICPR 2020)", 535_793, 535_793, 26.214),
    "sa_unet_backbone": Facts("SA-UNet (ICPR 2020)", 538_609, 537_201, 26.295),
    "sa_unet": Facts("SA-UNet (ICPR 2020)", 538_707, 537_299, 26.298),
    "sa_unet_gn_silu": Facts("SA-UNetv2 (2025)", 537_299, 537_299, 26.542),
    "sa_unet_v2_narrow": Facts("SA-UNetv2 (2025)", 260_227, 260_227, 21.071),
    "sa_unet_v2_skip_sa": Facts("SA-UNetv2 (2025)", 260_521, 260_521, 21.189),
    "sa_unet_v2": Facts("SA-UNetv2 (2025)", 260_521, 260_521, 21.190),
    "unet_32": Facts("SA-UNetv2 (2025)", 8_636_385, 8_636_385, 137.095),
    "attention_unet": Facts("Attention U-Net (2018)", 8_652_572, 8_652_572, 137.206),
    "rsan_backbone": Facts("RSAN (ICONIP 2020)", 1_053_837, 1_050_343, 50.513),
    "rsan_backbone_dropblock": Facts(
        "RSAN (ICONIP 2020)", 1_053_837, 1_050_343, 50.513
    ),
    "rsan": Facts("RSAN (ICONIP 2020)", 1_054_523, 1_051_029, 50.754),
    "ag_net": Facts("AG-Net (MICCAI 2019)", 9_335_340, 9_335_340, 176.576),
    "unet": Facts("U-Net slides", 31_047_105, 31_039_425, 515.757),
    "unet_3level": Facts("U-Net slides", 7_704_513, 7_700_929, 393.703),
    "dunet_encoder": Facts("DUNet (2019)", 32_898_497, 32_886_721, 645.286),
    "dunet": Facts("DUNet (2019)", 34_741_697, 34_729_921, 1163.378),
    "cbam_unet": Facts("U-Net slides", 938_467, 935_523, 53.855),
    "cmp_unet_slides": Facts("U-Net slides", 34_568_769, 34_546_369, 360.006),
    "cmp_unet": Facts("CMP-UNet (2023)", 9_094_170, 9_071_770, 150.936),
    "r2u_net": Facts("R2U-Net (2018)", 1_099_217, 1_097_809, 71.904),
    "ladder_net": Facts("LadderNet (2018)", 1_381_821, 1_381_821, 29.349),
}
