"""Every notebook runs on small data, and shows what its source computes.

The sources are jupytext's percent format, read here by hand: a dozen lines, against
three packages that nothing else in the default suite needs.
"""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOT_NOTEBOOKS = {"make", "lesson"}
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in NOT_NOTEBOOKS)
EXPECTED = {
    "00_quickstart",
    "sa_unet",
    "rsan",
    "sa_unet_v2",
    "unet_slides",
    "load_official_weights",
    "own_data",
    "compare_protocols",
}


def source_cells(text):
    """Returns the `(kind, text)` of each cell of a percent script."""
    body = re.sub(r"\A# ---\n.*?\n# ---\n", "", text, flags=re.S)
    head, *parts = re.split(r"^# %%(.*)\n", body, flags=re.M)
    assert not head.strip()
    cells = []
    for mark, part in zip(parts[::2], parts[1::2], strict=True):
        if mark.strip() == "[markdown]":
            lines = part.strip().splitlines()
            assert all(line == "#" or line.startswith("# ") for line in lines), lines
            cells.append(("markdown", "\n".join(line[2:] for line in lines)))
        else:
            assert not mark.strip()
            cells.append(("code", part.strip()))
    return cells


def notebook(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def notebook_cells(name):
    return [
        (cell["cell_type"], "".join(cell["source"]).strip())
        for cell in notebook(name)["cells"]
    ]


def test_all_notebooks_are_there():
    assert set(NAMES) == EXPECTED
    assert {p.stem for p in FOLDER.glob("*.ipynb")} == EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_made_from_its_source(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert notebook_cells(name) == source_cells(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_was_executed_in_order_and_without_error(name):
    cells = [cell for cell in notebook(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_has_pictures_and_nothing_of_the_machine(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 1_000_000
    outputs = [o for c in notebook(name)["cells"] for o in c.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(cell["metadata"] for cell in notebook(name)["cells"])
    words = "\n".join(
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in outputs
    )
    # Folders, addresses of objects in memory, dates and times.
    trace = r"(?<![\w.])/(home|root|tmp|usr|work|Users|var)/|0x[0-9a-f]{6}|20\d\d-\d\d-"
    assert not re.search(trace, words)
    assert "Warning" not in words


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_not_empty(name):
    """Each picture has at least a few shades: none is blank."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    for cell in notebook(name)["cells"]:
        for output in cell.get("outputs", []):
            if encoded := output.get("data", {}).get("image/png"):
                image = Image.open(io.BytesIO(base64.b64decode(encoded)))
                assert np.asarray(image.convert("L")).std() > 5


@pytest.fixture
def eager():
    """Two steps are over before a graph of them would be traced."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")  # of tf.data
@pytest.mark.parametrize("name", NAMES)
def test_the_source_runs_on_small_data(name, tmp_path, monkeypatch, eager):
    import matplotlib
    import matplotlib.pyplot as plt

    monkeypatch.setenv("SAUNET_NOTEBOOK_FAST", "1")
    monkeypatch.delenv("SAUNET_DRIVE", raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{name}.py"
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    try:
        # Jupyter closes the figures of a cell; here they stay open until the end.
        with matplotlib.rc_context({"figure.max_open_warning": 0}):
            exec(code, {"__name__": "__main__"})
            for number in plt.get_fignums():  # drawing is what a notebook does
                plt.figure(number).canvas.draw()
    finally:
        plt.close("all")
        matplotlib.use(backend)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_asserts_and_explains(name):
    cells = source_cells((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    kinds = [kind for kind, _ in cells]
    assert kinds[0] == "markdown"
    assert cells[0][1].startswith("# ")
    assert kinds.count("markdown") >= 5
    tree = ast.parse("\n".join(text for kind, text in cells if kind == "code"))
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def test_the_quickstart_prints_what_the_card_says():
    """A card is written anew, a notebook has to be executed."""
    cells = notebook("00_quickstart")["cells"]
    printed = "".join(
        "".join(output.get("text", ""))
        for cell in cells
        for output in cell.get("outputs", [])
    )
    path = FOLDER.parent / "weights" / "sa_unet_v2_drive" / "card.json"
    assert json.loads(path.read_text())["limits"] in printed
