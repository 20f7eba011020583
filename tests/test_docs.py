"""The site builds without a warning, asks no other host, and leaves no room out."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_layout import RANKS

from saunet.data.padding import padded_size
from saunet.models import build_model
from saunet.profiling import count_parameters

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
PRIVATE = {"__init__", "__main__", "cli", "completion", "fused", "page", "machine"}
PRIVATE |= {"quiet"}
ROOMS = sorted(
    {p.stem for p in (ROOT / "saunet").glob("*.py")}
    | {p.parent.name for p in (ROOT / "saunet").glob("*/__init__.py")}
)


@pytest.mark.parametrize("room", [r for r in ROOMS if r not in PRIVATE])
def test_every_room_has_its_page_of_the_reference(room):
    page = (DOCS / "api" / f"{room}.md").read_text(encoding="utf-8")
    assert page.startswith(f"::: saunet.{room}\n")
    assert f"api/{room}.md" in NAV


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
)
def test_every_page_is_in_the_menu(page):
    if (DOCS / page).read_text(encoding="utf-8").startswith("## "):
        assert f"exclude_docs: {page} " in NAV  # part of another page
        return
    assert re.search(rf"[ :]{re.escape(page)}$", NAV, re.M)


def test_every_extra_is_explained():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    part = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", part, re.M)) - {"test", "reference"}
    install = (DOCS / "install.md").read_text(encoding="utf-8")
    assert {"docs", "openvino"} <= extras
    assert set(re.findall(r"^\| `(\w+)` \|", install, re.M)) == extras


def test_the_rooms_of_contributing_are_those_that_the_tests_enforce():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    ([a-z, ]+)$", text, re.M)
    ranks = [{RANKS[room] for room in line.split(", ")} for line in lines]
    assert ranks == [{rank} for rank in sorted(set(RANKS.values()))[:-1]]
    assert set(", ".join(lines).split(", ")) == set(RANKS) - {"__main__"}


def test_every_command_of_the_pages_exists():
    from saunet import cli

    (verbs,) = (a for a in cli._parser()._actions if isinstance(a.choices, dict))
    for page in DOCS.glob("*.md"):
        for line in re.findall(r"^\$? ?saunet (.+)$", page.read_text("utf-8"), re.M):
            words = line.partition("  #")[0].split()
            known = verbs.choices.get(words[0], cli._parser())._option_string_actions
            assert words[0].startswith("-") or words[0] in verbs.choices, line
            for word in words:
                option = word.partition("=")[0]
                assert not option.startswith("--") or option in known, line


def test_numbers_of_the_questions_are_those_of_the_code():
    faq = (DOCS / "faq.md").read_text(encoding="utf-8")
    sizes = {
        (584, 565): "592 x 592",
        (960, 999): "1008 x 1008",
        (605, 700): "704 x 704",
    }
    for size, padded in sizes.items():
        assert "{} x {}".format(*padded_size(*size)) == padded
        assert padded in faq
    model = build_model("sa_unet")
    total = count_parameters(model)["total"]
    up = [w for layer in model.layers for w in layer.weights if "up" in layer.name]
    kernels = [w.shape for w in up if len(w.shape) == 4 and w.shape[0] == 3]
    ups = [s for s in kernels if s[2] * 2 == s[3]]  # out, in of a transposed one
    assert len(ups) == 3
    with_2x2 = total - sum((9 - 4) * s[2] * s[3] for s in ups)
    assert f"{with_2x2:,}" in faq
    assert f"{total:,}" in faq


class Requests(HTMLParser):
    """Collects what a browser fetches by itself to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        fetched = {"script": "src", "img": "src", "iframe": "src", "source": "src"}
        if tag in fetched:
            self.found.append(attrs.get(fetched[tag]) or "")
        elif tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(attrs["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning is an error."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_asks_no_other_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        requests = Requests()
        requests.feed(text)
        assert requests.found
        elsewhere = [u for u in requests.found if re.match(r"(https?:)?//", u)]
        assert not elsewhere, page
    for sheet in site.rglob("*.css"):
        style = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", style), sheet


def test_the_reference_is_made_from_the_docstrings(site):
    page = (site / "api" / "inference" / "index.html").read_text(encoding="utf-8")
    assert 'id="saunet.inference.Segmenter.predict"' in page
    assert "at the image's own size" in page.replace("&#39;", "'")
    models = (site / "api" / "models" / "index.html").read_text(encoding="utf-8")
    assert 'id="saunet.models.sa_unet_v2.sa_unet_v2"' in models
    assert 'id="saunet.models.sa_unet_v2.partial"' not in models
