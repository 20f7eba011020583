"""What C++ says stays off stderr, unless somebody wants to see it."""

import ast
import builtins
import os
from pathlib import Path

import keras
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
    ("error", "message"),
    [
        (ModuleNotFoundError(name="jax"), "not installed: pip install 'saunet[jax]'"),
        (ModuleNotFoundError(name="torch"), "set KERAS_BACKEND to tensorflow or jax"),
        (ValueError("Unable to import backend : x"), "backend : x: set KERAS_BACKEND"),
    ],
)
def test_a_backend_that_is_not_there_is_one_line(monkeypatch, capsys, error, message):
    """Asked for by KERAS_BACKEND or in Keras's own file: as importing it fails."""

    def failing(name, *args, **kwargs):
        if name == "keras":
            raise error
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", failing)
    assert cli.main(["summary", "sa_unet"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines()), message in err) == ("", 1, True)


def test_a_backend_that_saunet_does_not_compute_on_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert cli.main(["summary", "sa_unet"]) == 2
    assert "keras would compute on torch, saunet does on" in capsys.readouterr().err


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
