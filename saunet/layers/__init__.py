"""Keras layers that the networks of the papers need, one class a file."""

from saunet.layers.adaptive_channel_attention import AdaptiveChannelAttention
from saunet.layers.aligned_up_sampling import AlignedUpSampling2D
from saunet.layers.batch_norm import BatchNormalization
from saunet.layers.channel_attention import ChannelAttention
from saunet.layers.conv_offset import ConvOffset2D
from saunet.layers.cross_scale_attention import CrossScaleSpatialAttention
from saunet.layers.drop_block import DropBlock2D
from saunet.layers.group_norm import GroupNormalization
from saunet.layers.guided_filter import AttentionGuidedFilter
from saunet.layers.recurrent_conv import RecurrentConv2D
from saunet.layers.relu import ReLU
from saunet.layers.shared_residual_block import SharedResidualBlock
from saunet.layers.silu import SiLU
from saunet.layers.spatial_attention import SpatialAttention
from saunet.layers.vessel_probability import VesselProbability

__all__ = [
    "AdaptiveChannelAttention",
    "AlignedUpSampling2D",
    "AttentionGuidedFilter",
    "BatchNormalization",
    "ChannelAttention",
    "ConvOffset2D",
    "CrossScaleSpatialAttention",
    "DropBlock2D",
    "GroupNormalization",
    "ReLU",
    "RecurrentConv2D",
    "SharedResidualBlock",
    "SiLU",
    "SpatialAttention",
    "VesselProbability",
]
