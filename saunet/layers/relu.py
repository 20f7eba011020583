"""ReLU that ends a unit."""

import keras
from keras import layers

from saunet import fused


@keras.saving.register_keras_serializable("saunet")
class ReLU(layers.Activation):
    """`max(x, 0)`: `keras.layers.Activation("relu")`.

    In training on a CPU with TensorFlow it computes the normalisation before it anew,
    both in the same passes over the map.

    Input and output shape: any.
    """

    def __init__(self, **kwargs):
        super().__init__("relu", **kwargs)

    def call(self, inputs):
        unit = fused.activated(inputs, "relu")
        return super().call(inputs) if unit is None else unit

    def get_config(self):
        config = super().get_config()
        del config["activation"]
        return config
