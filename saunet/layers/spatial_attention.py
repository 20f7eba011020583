"""Spatial attention, the second half of CBAM."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class SpatialAttention(layers.Layer):
    """Multiplies a map by an attention learnt from its mean and maximum.

        attention = sigmoid(conv([mean over C, max over C]))    # one filter, no bias
        output = inputs * attention

    Source: Woo et al., "CBAM", ECCV 2018, https://arxiv.org/abs/1807.06521; in
    this order and without bias in SA-UNet (https://github.com/clguo/SA-UNet).

    Args:
        kernel_size: Integer, side of the convolution; 7 gives 98 weights.

    Input and output shape: `(N, H, W, C)`, channels last.
    """

    def __init__(self, kernel_size=7, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.input_spec = layers.InputSpec(ndim=4)
        self.conv = attention_conv(kernel_size, self.dtype_policy)

    def build(self, input_shape):
        self.conv.build((*input_shape[:-1], 2))
        self.built = True

    def attention(self, inputs):
        """Returns the attention map, `(N, H, W, 1)` in (0, 1)."""
        mean = ops.mean(inputs, axis=-1, keepdims=True)
        peak = ops.max(inputs, axis=-1, keepdims=True)
        return self.conv(ops.concatenate([mean, peak], axis=-1))

    def call(self, inputs):
        return inputs * self.attention(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


def attention_conv(kernel_size, dtype):
    """Returns the convolution from two summary maps to one attention map."""
    return layers.Conv2D(
        1,
        kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        activation="sigmoid",
        # An inner layer does not inherit the outer one's dtype policy.
        dtype=dtype,
        name="conv",
    )
