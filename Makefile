# make demo and make test need Python, pip, make and git; they install the rest
# into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format docs notebooks clean

demo: $(READY)
	$(BIN)/saunet demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

notebooks: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	$(BIN)/python notebooks/make.py

clean:
	rm -rf $(VENV) build demo site *.egg-info

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"saunet needs Python 3.11 to 3.13, as TensorFlow does; this is {v[0]}.{v[1]}: make PYTHON=python3.13 ...")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
