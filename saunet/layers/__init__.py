"""Keras layers that the networks of the papers need, one class a file."""

from saunet.layers.cross_scale_attention import CrossScaleSpatialAttention
from saunet.layers.drop_block import DropBlock2D
from saunet.layers.group_norm import GroupNormalization
from saunet.layers.spatial_attention import SpatialAttention

__all__ = [
    "CrossScaleSpatialAttention",
    "DropBlock2D",
    "GroupNormalization",
    "SpatialAttention",
]
