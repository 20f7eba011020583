"""The recurrent convolution of R2U-Net."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class RecurrentConv2D(layers.Layer):
    """A 3x3 convolution that sees its own output again, `steps` times.

        y = relu(forward(x))
        repeat `steps` times: y = relu(forward(x) + recurrent(y))

    `forward` has the bias; `recurrent` is the same convolution at every step.

    Source: Alom et al., "Recurrent Residual Convolutional Neural Network based on
    U-Net (R2U-Net)", 2018, https://arxiv.org/abs/1802.06955, equations 1 and 2.

    Args:
        filters: Integer, channels of the output.
        steps: Integer >= 0, recurrences: the paper's t.

    Input shape: `(N, H, W, C)`. Output shape: `(N, H, W, filters)`.
    """

    def __init__(self, filters, *, steps=2, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.steps = steps
        self.input_spec = layers.InputSpec(ndim=4)
        self.forward = self._conv("forward", use_bias=True)
        self.recurrent = self._conv("recurrent", use_bias=False)

    def _conv(self, name, use_bias):
        return layers.Conv2D(
            self.filters,
            3,
            padding="same",
            use_bias=use_bias,
            kernel_initializer="he_normal",
            # An inner layer does not inherit the outer one's dtype policy.
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape):
        self.forward.build(input_shape)
        self.recurrent.build((*input_shape[:-1], self.filters))
        self.built = True

    def call(self, inputs):
        fed = self.forward(inputs)
        outputs = ops.relu(fed)
        for _ in range(self.steps):
            outputs = ops.relu(fed + self.recurrent(outputs))
        return outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "steps": self.steps,
        }
