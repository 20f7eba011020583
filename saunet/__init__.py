"""Retinal blood-vessel segmentation: SA-UNet, SA-UNetv2 and their relatives."""

import os
import platform
from importlib import import_module

# On x86 processors without AVX-512 TensorFlow leaves its oneDNN kernels off, and trains
# half as fast. It reads this once, as it is imported.
if platform.machine().lower() in ("x86_64", "amd64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

# name -> module. Resolved on first use, so that `saunet --help`, `saunet score`
# and `saunet doctor` do not wait seconds for a deep-learning framework.
_PUBLIC = {
    "InputError": "errors",
    "list_models": "models",
    "build_model": "models",
    "load_weights": "weights",
    "save_weights": "weights",
    "count_parameters": "profiling",
    "count_flops": "profiling",
    "Segmenter": "inference",
    "load_pretrained": "inference",
    "predict_files": "folders",
    "Recipe": "training",
    "train": "training",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"saunet.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'saunet' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
