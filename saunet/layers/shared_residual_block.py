"""LadderNet's residual block of one convolution used twice."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class SharedResidualBlock(layers.Layer):
    """A residual block whose two 3x3 convolutions share their weights.

        output = relu(inputs + conv(dropout(relu(conv(inputs)))))

    The dropout drops whole channels.

    Source: Zhuang, "LadderNet: Multi-path networks based on U-Net for medical image
    segmentation", 2018, https://arxiv.org/abs/1810.07810, figure 2.

    Args:
        rate: Float in [0, 1), share of the channels dropped in training.
        seed: Integer, or `None` for a random one.

    Input and output shape: `(N, H, W, C)`, channels last.
    """

    def __init__(self, rate=0.25, *, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed
        self.input_spec = layers.InputSpec(ndim=4)
        self.drop = layers.SpatialDropout2D(
            rate, seed=seed, dtype=self.dtype_policy, name="drop"
        )

    def build(self, input_shape):
        self.conv = layers.Conv2D(
            input_shape[-1],
            3,
            padding="same",
            kernel_initializer="he_normal",
            # An inner layer does not inherit the outer one's dtype policy.
            dtype=self.dtype_policy,
            name="conv",
        )
        self.conv.build(input_shape)
        self.built = True

    def call(self, inputs, training=False):
        x = ops.relu(self.conv(inputs))
        x = self.conv(self.drop(x, training=training))
        return ops.relu(inputs + x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
