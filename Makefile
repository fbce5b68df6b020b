# Each target first creates the virtual environment .venv with the versions of constraints.txt.
.DEFAULT_GOAL := help
.PHONY: demo test format lint type bench help clean constraints

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP := pyproject.toml setup.py constraints.txt

# Tests use local models only. One thread per worker is faster than thread pools on few cores.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
ARGS ?=

demo: $(VENV)/.installed ## answer problems with the embedded models and print a table
	$(OFFLINE) $(BIN)/arbitrage demo $(ARGS)

test: $(VENV)/.installed-dev ## run the tests except the slow ones (ARGS="-m slow" runs those)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

format: $(VENV)/.installed-dev ## apply ruff fixes, sort imports and format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lint: $(VENV)/.installed-dev ## check style and format without changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed-dev ## check types with mypy
	$(BIN)/mypy langgraph_arbitrage

bench: $(VENV)/.installed-dev ## run the benchmarks and write benchmarks/results
	$(OFFLINE) $(BIN)/python benchmarks/bench.py $(ARGS)

constraints: $(VENV)/.installed-dev ## pin the versions installed in .venv
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(PIP) freeze --all --exclude pip --exclude wheel --exclude-editable \
	    | sed -e 's/+.*//' -e '/ @ /d' -e '/^-e/d' -e '/^#/d' >> constraints.new
	@mv constraints.new constraints.txt && touch $(VENV)/.installed $(VENV)/.installed-dev

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | expand -t 14

clean: ## remove builds and caches, but not .venv
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamp files avoid repeated installations. A change of the versions triggers a new one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than Python 3.11. Try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt setuptools torch
	$(PIP) install -q -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt setuptools torch
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(VENV)/.installed $@
