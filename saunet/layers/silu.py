"""SiLU that ends a unit."""

import keras
from keras import layers

from saunet import fused


@keras.saving.register_keras_serializable("saunet")
class SiLU(layers.Activation):
    """`x * sigmoid(x)`: `keras.layers.Activation("silu")`.

    In training on a CPU with TensorFlow it computes the normalisation before it anew,
    both in the same passes over the map.

    Source: Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network
    function approximation in reinforcement learning", Neural Networks 2018,
    https://arxiv.org/abs/1702.03118.

    Input and output shape: any.
    """

    def __init__(self, **kwargs):
        super().__init__("silu", **kwargs)

    def call(self, inputs):
        unit = fused.activated(inputs, "silu")
        return super().call(inputs) if unit is None else unit

    def get_config(self):
        config = super().get_config()
        del config["activation"]
        return config
