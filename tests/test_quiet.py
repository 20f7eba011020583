"""What C++ says stays off stderr, unless somebody wants to see it."""

import ast
import builtins
import os
from pathlib import Path

import pytest

from saunet import cli
from saunet.quiet import quiet_stderr, track


@pytest.mark.parametrize(
    ("level", "heard"), [(None, "after"), ("3", "after"), ("0", "within after")]
)
def test_only_who_asks_hears_it(monkeypatch, capfd, level, heard):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)

    def fail():
        with quiet_stderr():
            os.write(2, b"within ")
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    os.write(2, b"after")
    assert capfd.readouterr() == ("", heard)


@pytest.mark.parametrize(
    ("backend", "missing", "message"),
    [
        ("torch", "", "backend 'torch': saunet computes on tensorflow or jax"),
        ("jax", "jax", "not installed: pip install 'saunet[jax]'"),
        ("tensorflow", "tensorflow", "not installed: pip install tensorflow"),
    ],
)
def test_a_backend_that_will_not_do_is_one_line(
    monkeypatch, capsys, backend, missing, message
):
    """As Keras fails where it is first imported."""

    def failing(name, *args, **kwargs):
        if name == "keras" and missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(builtins, "__import__", failing)
    assert cli.main(["models"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines()), message in err) == ("", 1, True)


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_is_on_stderr_if_at_all(capsys, shown):
    assert list(track("abc", "spelling", shown)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert ("spelling" in err) == shown


@pytest.mark.parametrize("script", ["rows", "records", "others", "maps"])
def test_experiments_import_in_silence_first(script):
    """The papers' scripts begin with `rows`."""
    path = Path(__file__).resolve().parents[1] / "experiments" / f"{script}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body
    ours = [
        node.module if isinstance(node, ast.ImportFrom) else "load_framework()"
        for node in body
        if (isinstance(node, ast.ImportFrom) and node.module.startswith("saunet"))
        or ast.unparse(node) == "load_framework()"
    ]
    assert ours[:2] == ["saunet.quiet", "load_framework()"]
    assert len(ours) > 2
