"""The vessel class of a two-class output."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("saunet")
class VesselProbability(layers.Layer):
    """Softmax of two classes, background and vessel; returns the vessel's share.

    Of a list of logits only the last is used. The others stay in the graph, so that
    a model keeps, and loads, the weights of outputs that serve training alone.

    Input shape: `(N, H, W, 2)`, or a list of such.
    Output shape: `(N, H, W, 1)` in [0, 1].
    """

    def call(self, inputs):
        logits = inputs[-1] if isinstance(inputs, list | tuple) else inputs
        # The softmax of two, without two exponentials.
        return ops.sigmoid(logits[..., 1:] - logits[..., :1])

    def compute_output_shape(self, input_shape):
        shape = input_shape[-1] if isinstance(input_shape[0], list | tuple) else None
        return (*(shape or input_shape)[:-1], 1)
