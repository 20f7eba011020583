"""README says nothing that the code, the registry or a card does not say."""

import re
from pathlib import Path

import pytest

from saunet.models import FACTS, MODELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_facts_know_every_network():
    assert list(FACTS) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_networks_is_that_of_the_registry(name):
    facts = FACTS[name]
    row = (
        f"| `{name}` | {facts.paper} | {facts.total:,} | {facts.trainable:,} "
        f"| {facts.gflops:,.3f} |"
    )
    assert row in README.splitlines()


def test_the_table_of_networks_has_no_other_row():
    table = README.partition("\n## Networks\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert rows == list(MODELS)


COMMANDS = sorted(set(re.findall(r"^make (\w+)", README, re.M)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_make_target_exists(command):
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.M)
