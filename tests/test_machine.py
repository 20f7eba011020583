"""Which kernels, cores and precision a machine computes with."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from helpers import on_tensorflow

from saunet import machine

X86 = platform.machine().lower() in ("x86_64", "amd64")
on_x86 = pytest.mark.skipif(not X86, reason="of TensorFlow on x86 alone")


@pytest.fixture(autouse=True)
def forgotten():
    machine.bfloat16_is_faster.cache_clear()
    yield
    machine.bfloat16_is_faster.cache_clear()


@on_x86
@on_tensorflow
@pytest.mark.parametrize(("said", "enabled"), [(None, True), ("0", False)])
def test_tensorflow_takes_onednns_kernels(said, enabled):
    """Off AVX-512 it does not by itself, and trains half as fast."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    if said:
        environment["TF_ENABLE_ONEDNN_OPTS"] = said
    code = (
        "import saunet; from tensorflow.python.util import _pywrap_util_port as port;"
        "print(port.IsMklEnabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(enabled)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "faster"),
    [(0.002, 0.008, False), (0.008, 0.002, True), (0.01, 0.0098, False)],
)
def test_it_is_measured(monkeypatch, float32, bfloat16, faster):
    seconds = {"float32": float32, "mixed_bfloat16": bfloat16}
    monkeypatch.setattr(
        machine, "_step", lambda policy: lambda: time.sleep(seconds[policy])
    )
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    assert machine.bfloat16_is_faster() == faster


def test_the_first_step_compiles_and_does_not_count(monkeypatch):
    waits = {
        "float32": iter([0.1] + (machine.ROUNDS - 1) * [0.001]),
        "mixed_bfloat16": iter(machine.ROUNDS * [0.02]),
    }
    monkeypatch.setattr(
        machine, "_step", lambda policy: lambda: time.sleep(next(waits[policy]))
    )
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    assert not machine.bfloat16_is_faster()


@pytest.mark.parametrize("device", ["gpu:0", "tpu:0"])
def test_accelerators_are_not_measured(monkeypatch, device):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [device])
    monkeypatch.setattr(machine, "_step", None)
    assert machine.bfloat16_is_faster()


@pytest.mark.parametrize(("capability", "faster"), [("7.5", False), ("10.0", True)])
def test_a_gpu_without_bfloat16_units_does_without(monkeypatch, capability, faster):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    monkeypatch.setattr(machine, "printed", lambda command: f"{capability}\n8.0")
    assert machine.bfloat16_is_faster() == faster


@on_x86
@on_tensorflow
def test_this_processor_is_known_by_its_instructions():
    """Where Linux lists them: with AVX2 alone it is ten times slower."""
    listed = Path("/proc/cpuinfo")
    flags = listed.read_text().split() if listed.exists() else ()
    if "avx512f" not in flags and "avx2" in flags:
        assert not machine.bfloat16_is_faster()
    elif "avx512_bf16" in flags or "amx_bf16" in flags:
        assert machine.bfloat16_is_faster()
    else:
        pytest.skip("neither AVX2 alone nor bfloat16 instructions are listed")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux alone")
def test_a_process_counts_the_cores_that_it_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.count_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert machine.count_cores() == len(allowed)
