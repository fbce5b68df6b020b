# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
.DEFAULT_GOAL := help
.PHONY: demo test format lint type bench help clean constraints

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP := pyproject.toml setup.py constraints.txt

# Models are local in the tests, and one thread a worker beats pools that fight over two cores.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
ARGS ?=

demo: $(VENV)/.installed ## answer held-out questions live on the embedded models, then print a table
	$(OFFLINE) $(BIN)/arbitrage demo $(ARGS)

test: $(VENV)/.installed-dev ## run the tests, without the slow ones (ARGS="-m slow" runs those)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

format: $(VENV)/.installed-dev ## sort imports, repair what ruff can, format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(VENV)/.installed-dev ## check style and format, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed-dev ## check the package's types strictly
	$(BIN)/mypy langgraph_arbitrage

bench: $(VENV)/.installed-dev ## measure, and write the results under benchmarks/results
	$(OFFLINE) $(BIN)/python benchmarks/bench.py $(ARGS)

constraints: $(VENV)/.installed-dev ## pin what the environment holds now
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(PIP) freeze --all --exclude pip --exclude wheel --exclude-editable \
	    | sed -e 's/+.*//' -e '/ @ /d' -e '/^-e/d' -e '/^#/d' >> constraints.new
	@mv constraints.new constraints.txt && touch $(VENV)/.installed $(VENV)/.installed-dev

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

clean: ## remove builds and caches; the virtual environment stays
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamps make a second run instant, and a change of the versions installs again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, $(PYTHON) is not: try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt setuptools torch
	$(PIP) install -q -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt setuptools torch
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(VENV)/.installed $@
