"""What C++ says stays off stderr, unless somebody wants to see it."""

import os

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
