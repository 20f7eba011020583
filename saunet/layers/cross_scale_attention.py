"""Cross-scale spatial attention of SA-UNetv2."""

import keras
from keras import layers, ops

from saunet.layers.spatial_attention import attention_conv


@keras.saving.register_keras_serializable("saunet")
class CrossScaleSpatialAttention(layers.Layer):
    """Gates a skip connection by itself and by the decoder's map.

        attention = sigmoid(conv([mean over C of skip, mean over C of up]))
        output = skip * attention

    Source: SA-UNetv2, https://arxiv.org/abs/2509.11774.

    Args:
        kernel_size: Integer, side of the convolution; 7 gives 98 weights.

    Call arguments:
        inputs: `[skip, up]`, two maps `(N, H, W, C1)` and `(N, H, W, C2)`.

    Output shape: that of `skip`.
    """

    def __init__(self, kernel_size=7, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.conv = attention_conv(kernel_size, self.dtype_policy)

    def build(self, input_shape):
        skip, _ = input_shape
        self.conv.build((*skip[:-1], 2))
        self.built = True

    def attention(self, inputs):
        """Returns the attention map, `(N, H, W, 1)` in (0, 1)."""
        means = [ops.mean(x, axis=-1, keepdims=True) for x in inputs]
        return self.conv(ops.concatenate(means, axis=-1))

    def call(self, inputs):
        skip, _ = inputs
        return skip * self.attention(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
