"""Who may import whom, and what belongs nowhere: read from the source itself."""

import ast
import re
from pathlib import Path

import pytest

from saunet.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "saunet"

# A room imports from lower ranks only; the first ones are below all.
RANKS = {
    "errors": -2,
    "facts": -2,
    "quiet": -1,
    "fused": -1,
    "machine": -1,
    "layers": 0,
    "losses": 0,
    "distribution": 0,
    "metrics": 0,
    "data": 0,
    "page": 0,
    "blocks": 1,
    "viz": 1,
    "models": 2,
    "weights": 3,
    "export": 3,
    "engines": 4,
    "profiling": 5,
    "training": 4,
    "inference": 5,
    "folders": 6,
    "evaluation": 4,
    "measures": 4,
    "report": 6,
    "cluster": 7,
    "completion": 7,
    "cli": 8,
    "__main__": 9,
}
# Facade: names its rooms as strings and imports them on first use.
UNRANKED = {"__init__"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Yields the full name of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_a_rank():
    assert {room(p) for p in SOURCES} - UNRANKED <= set(RANKS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    ours = room(path)
    if ours in UNRANKED:
        return
    for name in imports(path):
        if not name.startswith("saunet."):
            continue
        theirs = name.split(".")[1]
        if theirs == ours or theirs not in RANKS:  # such as saunet.__version__
            assert theirs == ours or theirs.startswith("__"), name
            continue
        assert RANKS[theirs] < RANKS[ours], f"{ours} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tensorflow_is_imported_in_three_rooms_alone(path):
    roots = {name.split(".")[0] for name in imports(path)}
    # `distribution`: Keras has no data parallelism of its own on TensorFlow.
    # `fused`: nor a way to compile a part of a step by XLA.
    rooms = ("engines", "distribution", "fused")
    allowed = {"tensorflow"} if room(path) in rooms else set()
    assert roots & {"tensorflow", "tf", "torch", "jax", "keras_cv"} <= allowed


def test_models_and_layers_make_no_lambda_layer():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                assert name != "Lambda", path


def test_there_is_no_room_of_leftovers():
    assert not [p for p in SOURCES if p.stem in ("utils", "helpers", "misc", "common")]


def tracked_text():
    suffixes = {".py", ".md", ".toml", ".cfg", ".json", ".yml", ".ipynb", ".cff"}
    skipped = {"build", "dist", "runs", "demo", "site", "__pycache__"}
    skipped |= {marker.parent.name for marker in ROOT.glob("*/pyvenv.cfg")}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(p.startswith(".") and p != ".ci" for p in parts)
        if hidden or skipped & set(parts) or "egg-info" in str(path):
            continue
        if path.is_file() and (path.suffix in suffixes or path.name == "Makefile"):
            yield path


def test_no_path_of_somebodys_machine():
    local = re.compile(r"(?<![\w.~/:-])/(home|Users|work|root|mnt|farm|media)/\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_text()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if local.search(line)
    ]
    assert not found


@pytest.mark.parametrize("key", MODELS)
def test_a_model_is_in_the_file_of_its_paper(key):
    builder = MODELS[key]
    assert builder.__name__ == key
    file = builder.__module__.rsplit(".", 1)[-1]
    assert builder.__module__ == f"saunet.models.{file}"
    papers = {p.stem for p in (PACKAGE / "models").glob("*.py")} - {"__init__"}
    assert file in papers
    # a network of a paper's table may live with that paper, under a name of its own
    assert file == key or key not in papers


@pytest.mark.parametrize(
    "path",
    sorted((PACKAGE / "models").glob("[!_]*.py")),
    ids=lambda p: p.stem,
)
def test_a_paper_file_is_short_and_names_its_source(path):
    text = path.read_text(encoding="utf-8")
    header = ast.get_docstring(ast.parse(text))
    assert re.search(r"https?://", header)
    # the code that was read, or that there was none, or slides alone
    assert re.search(r"Code\s+read|public\s+code|slides", header)
    # what was changed, or what had to be guessed
    assert re.search(r"Departures|departs|Inferred", header)
    assert any(b.__module__.endswith(f".{path.stem}") for b in MODELS.values())


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "layers").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_a_layer_file_holds_one_layer(path):
    classes = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) == 1
    assert not classes[0].name.startswith("_")
    assert ast.get_docstring(classes[0])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_messages_are_half_sentences(path):
    """ "saunet: error: <message>": no capital but a name's, and no full stop."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        ours = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if ours and node.func.id in ("InputError", "RunError") and node.args:
            parts = getattr(node.args[0], "values", [node.args[0]])
            texts = [getattr(part, "value", "") for part in parts]
            texts = [text if isinstance(text, str) else "{}" for text in texts]
            assert not texts[0][:1].isupper(), texts[0]
            assert not texts[-1].endswith("."), texts[-1]
