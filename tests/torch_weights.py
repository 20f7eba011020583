"""Reads the arrays of a PyTorch state dict into a network, by name."""

import numpy as np

KINDS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load_torch_weights(model, tensors, names):
    """Assigns every weight of a network from `w/<module>.<kind>` arrays.

    Args:
        model: A `keras.Model`.
        tensors: Mapping of names to arrays, such as an open `.npz`; those under `w/`
            are the state dict, each of which must be used exactly once.
        names: Mapping of our layer (`"layer"`, or `"layer/inner"` for a layer inside
            a layer: the weight's path without its last part) to PyTorch's module.
    """
    left = {name for name in tensors if name.startswith("w/")}
    for variable in model.weights:
        layer, _, kind = variable.path.rpartition("/")
        name = f"w/{names[layer]}.{KINDS[kind]}"
        assert name in left, f"{variable.path}: {name} is missing or used twice"
        left.remove(name)
        value = keras_layout(np.float32(tensors[name]), tuple(variable.shape))
        assert value.shape == tuple(variable.shape), (variable.path, name, value.shape)
        variable.assign(value)
    assert not left, f"arrays without a place: {sorted(left)}"


def keras_layout(array, shape):
    """Transposes one PyTorch array as the Keras weight of `shape` stores it.

    A convolution OIHW becomes HWIO and a transposed one IOHW becomes HWOI, which is
    one permutation; a linear OI becomes IO, and so does a 1x1 convolution where a
    `Dense` layer takes its place. A convolution with one group for each channel
    becomes a depthwise one: its outputs are stored group by group.
    """
    if array.ndim == 4 and len(shape) == 2:
        array = array[:, :, 0, 0]
    if array.ndim == 2:
        return array.T
    if array.ndim != 4:
        return array
    depthwise = array.shape[1] == 1 and shape[2] * shape[3] == array.shape[0]
    array = array.transpose(2, 3, 1, 0)
    return array.reshape(shape) if depthwise else array
