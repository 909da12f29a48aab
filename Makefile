# make quickstart   train the small model of the quickstart recipe and write its report
# make test         linter, formatter, type checker and tests, in the same environment
# make docs         write the pages of docs/ that are generated from the checks and the recipes
# make clean        remove the environment and the caches (runs/ stays)

PYTHON ?= python3
VENV ?= .venv
SET ?=            # further recipe settings, e.g. make quickstart SET="seed=1"
WORKERS ?= logical  # processes that share the tests, see `test`
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test docs clean

quickstart: $(VENV)/installed-quickstart
	$(BIN)/sightline train quickstart $(SET)

# Each worker begins with a stretch of neighbouring modules, so that fixtures and fork servers are made once; at the end
# an idle one steals from a busy one. That is sound, as each makes the fixtures of modules and sessions for itself.
test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Sightline needs Python 3.11 to 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras: installing again only when the dependencies change.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -e ".[$*]"
	@touch $@
