"""Attention U-Net: the gate against its formula, and what it costs."""

import keras
import numpy as np
from reference.attention import sigmoid
from reference.convolution import relu

from saunet.models import build_model


def test_the_gates_cost_a_tenth_of_a_percent_of_the_u_net():
    gated, plain = build_model("attention_unet"), build_model("unet_32")
    gates = [
        layer
        for layer in gated.layers
        if layer.name.startswith("up") and "_gate" in layer.name
    ]
    weights = sum(layer.count_params() for layer in gates)
    assert gated.count_params() - plain.count_params() == weights


def test_a_gate_is_its_formula():
    """sigmoid(psi(relu(theta(skip) + phi(g)))), enlarged, times the skip."""
    model = build_model("attention_unet")
    names = (
        "down3_b_silu",
        "bottleneck_b_silu",
        "up3_gate_psi",
        "up3_gate_up",
        "up3_gate",
    )
    parts = keras.Model(model.input, [model.get_layer(n).output for n in names])
    rng = np.random.default_rng(0)
    for name in ("theta", "phi", "psi"):
        layer = model.get_layer(f"up3_gate_{name}")
        layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    outputs = parts(rng.random((1, 64, 64, 3), "float32"))
    skip, g, weight, enlarged, gated = (np.asarray(y) for y in outputs)

    (theta,) = model.get_layer("up3_gate_theta").get_weights()
    phi, phi_bias = model.get_layer("up3_gate_phi").get_weights()
    psi, psi_bias = model.get_layer("up3_gate_psi").get_weights()
    joined = relu(skip[:, ::2, ::2] @ theta[0, 0] + g @ phi[0, 0] + phi_bias)
    expected = sigmoid(joined @ psi[0, 0] + psi_bias)
    assert expected.std() > 0.01
    np.testing.assert_allclose(weight, expected, atol=1e-4)
    np.testing.assert_allclose(gated, skip * enlarged, atol=1e-6)


def test_the_finest_skip_is_not_gated():
    model = build_model("attention_unet")
    _, skip = model.get_layer("up0_concat").input
    assert skip is model.get_layer("down0_b_silu").output
