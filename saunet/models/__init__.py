"""The networks: one paper a file, and the table of all of them."""

import difflib
import inspect

from saunet.errors import InputError
from saunet.facts import FACTS
from saunet.models.ag_net import ag_net
from saunet.models.attention_unet import attention_unet
from saunet.models.cbam_unet import cbam_unet
from saunet.models.cmp_unet import cmp_unet, cmp_unet_slides
from saunet.models.dunet import dunet, dunet_encoder
from saunet.models.ladder_net import ladder_net
from saunet.models.r2u_net import r2u_net
from saunet.models.rsan import rsan, rsan_backbone, rsan_backbone_dropblock
from saunet.models.sa_unet import (
    sa_unet,
    sa_unet_backbone,
    sd_unet,
    unet_18,
    unet_18_sa,
    unet_23,
)
from saunet.models.sa_unet_v2 import (
    sa_unet_gn_silu,
    sa_unet_v2,
    sa_unet_v2_narrow,
    sa_unet_v2_skip_sa,
    unet_32,
)
from saunet.models.unet import unet, unet_3level

__all__ = ["FACTS", "MODELS", "build_model", "list_models"]

MODELS = {
    "unet_23": unet_23,
    "unet_18": unet_18,
    "unet_18_sa": unet_18_sa,
    "sd_unet": sd_unet,
    "sa_unet_backbone": sa_unet_backbone,
    "sa_unet": sa_unet,
    "sa_unet_gn_silu": sa_unet_gn_silu,
    "sa_unet_v2_narrow": sa_unet_v2_narrow,
    "sa_unet_v2_skip_sa": sa_unet_v2_skip_sa,
    "sa_unet_v2": sa_unet_v2,
    "unet_32": unet_32,
    "attention_unet": attention_unet,
    "rsan_backbone": rsan_backbone,
    "rsan_backbone_dropblock": rsan_backbone_dropblock,
    "rsan": rsan,
    "ag_net": ag_net,
    "unet": unet,
    "unet_3level": unet_3level,
    "dunet_encoder": dunet_encoder,
    "dunet": dunet,
    "cbam_unet": cbam_unet,
    "cmp_unet_slides": cmp_unet_slides,
    "cmp_unet": cmp_unet,
    "r2u_net": r2u_net,
    "ladder_net": ladder_net,
}


def list_models():
    """Returns the sorted names of all networks."""
    return sorted(MODELS)


def build_model(name, /, input_shape=(None, None, 3), **kwargs):
    """Builds a network with fresh weights.

    Args:
        name: A name of `list_models()`.
        input_shape: `(H, W, 3)`; H and W may be `None`, any multiple fits then.
        **kwargs: Options of the builder, such as `rate` of `sa_unet`, or `name`.

    Returns:
        A `keras.Model` from RGB `(N, H, W, 3)` in [0, 1] to vessel probability
        `(N, H, W, 1)` in [0, 1].

    Raises:
        InputError: Unknown name or option, or a size that cannot be halved.
    """
    if name not in MODELS:
        guess = difflib.get_close_matches(str(name), MODELS, n=1)
        hint = f"did you mean '{guess[0]}'? " if guess else ""
        raise InputError(
            f"unknown network '{name}': {hint}known are {', '.join(list_models())}"
        )
    options = list(inspect.signature(MODELS[name]).parameters)[1:]
    unknown = sorted(set(kwargs) - set(options))
    if unknown:
        raise InputError(
            f"network '{name}' has no option '{unknown[0]}'; it takes: "
            f"{', '.join(options)}"
        )
    return MODELS[name](input_shape, **kwargs)
