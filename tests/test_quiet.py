"""What C++ says stays off stderr, unless somebody wants to see it."""

import ast
import os
from pathlib import Path

import pytest

from saunet.quiet import quiet_stderr


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


@pytest.mark.parametrize("script", ["rows", "others", "maps"])
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
