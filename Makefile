# make train [ARGS="model=lenet5 curriculum=constant"]   make .venv, install, train
# make test                                              the same, then the tests
# make check                                             formatter, linter, types, notebooks
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS = git ls-files -z '*.ipynb'

.PHONY: train test test-all faults check format install dev clean

train: install
	$(BIN)/python train.py $(ARGS)

test: dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-all: dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" $(ARGS)

faults: dev
	$(BIN)/python tests/faults/interruptions.py kills --count 100 --jobs 2
	$(BIN)/python tests/faults/interruptions.py terminations --count 20

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(NOTEBOOKS) | xargs -0 -r $(BIN)/nbstripout --verify

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(NOTEBOOKS) | xargs -0 -r $(BIN)/nbstripout

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
