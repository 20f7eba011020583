"""Channel attention, the first half of CBAM."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class ChannelAttention(layers.Layer):
    """Multiplies each channel by an attention learnt from its mean and maximum.

        gate(v) = dense_C(relu(dense_C/ratio(v)))    # the same two layers for both
        output = inputs * sigmoid(gate(mean over H, W) + gate(max over H, W))

    Source: Woo et al., "CBAM", ECCV 2018, https://arxiv.org/abs/1807.06521.

    Args:
        ratio: Integer, how many times fewer units the hidden layer has than the
            map has channels.

    Input and output shape: `(N, H, W, C)`, channels last, C at least `ratio`.

    Raises:
        ValueError: The map has fewer channels than `ratio`, or an unknown number.
    """

    def __init__(self, ratio=8, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio
        self.input_spec = layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None or channels < self.ratio:
            raise ValueError(
                f"ChannelAttention(ratio={self.ratio}) has no hidden unit left for "
                f"{channels} channels: lower `ratio`."
            )
        self.hidden = self._dense(channels // self.ratio, "hidden", "relu")
        self.gate = self._dense(channels, "gate", None)
        self.hidden.build((input_shape[0], channels))
        self.gate.build((input_shape[0], channels // self.ratio))
        self.built = True

    def _dense(self, units, name, activation):
        return layers.Dense(
            units,
            activation=activation,
            kernel_initializer="he_normal",
            # An inner layer does not inherit the outer one's dtype policy.
            dtype=self.dtype_policy,
            name=name,
        )

    def attention(self, inputs):
        """Returns one number a channel, `(N, C)` in (0, 1)."""
        mean = ops.mean(inputs, axis=(1, 2))
        peak = ops.max(inputs, axis=(1, 2))
        return ops.sigmoid(self.gate(self.hidden(mean)) + self.gate(self.hidden(peak)))

    def call(self, inputs):
        return inputs * self.attention(inputs)[:, None, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio}
