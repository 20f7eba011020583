"""Turns the notebooks' sources into executed notebooks: `make notebooks`.

    python notebooks/make.py                  # all of them
    python notebooks/make.py sa_unet rsan     # some

Each source `<name>.py` (jupytext's percent format) becomes `<name>.ipynb`. What would
differ from one run to the next without meaning anything (times, random identifiers)
is left out, and a notebook that writes to stderr is not accepted.
"""

import base64
import io
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
NOT_NOTEBOOKS = ("make", "lesson")
LARGEST = 1_000_000  # bytes of one notebook


def sources():
    """Returns the sources of all notebooks."""
    return [p for p in sorted(FOLDER.glob("*.py")) if p.stem not in NOT_NOTEBOOKS]


def smaller(encoded):
    """Returns a picture with 256 colours: a third of the bytes, for the eye the same.

    Args:
        encoded: PNG in base64.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    content = io.BytesIO()
    picture.quantize(256).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def execute(source):
    """Runs one source and writes the notebook beside it, all or nothing."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook,
        timeout=900,
        startup_timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        # What a last line returns is Matplotlib's: the lessons print what they mean.
        cell.outputs = [o for o in cell.outputs if o.output_type != "execute_result"]
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise SystemExit(f"{source.name} writes to stderr: {output['text']}")
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
                output.metadata = {}
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        "jupytext": {"formats": "ipynb,py:percent"},
    }
    content = nbformat.writes(notebook, version=4) + "\n"
    if len(content) > LARGEST:
        raise SystemExit(f"{source.stem} takes {len(content)} bytes: draw less")
    beside = source.with_suffix(".ipynb.part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(source.with_suffix(".ipynb"))
    return len(content)


def main(names):
    """Executes the notebooks of these names, or all."""
    # What is published shows synthetic photographs at their full size.
    for variable in ("SAUNET_DRIVE", "SAUNET_NOTEBOOK_FAST"):
        os.environ.pop(variable, None)
    for source in sources():
        if not names or source.stem in names:
            start = time.perf_counter()
            size = execute(source)
            seconds = time.perf_counter() - start
            print(f"{source.stem}: {seconds:.0f} s, {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
