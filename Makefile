# Two commands on a fresh machine: `make quickstart` runs the whole path, `make test` the checks and the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint pytest chaos clean

quickstart: $(VENV)/installed
	$(BIN)/rmray quickstart

test: lint pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(VENV)/installed
	$(BIN)/pytest --durations=15 -n 2 --dist loadgroup --no-loadscope-reorder

chaos: $(VENV)/installed
	$(BIN)/pytest -m chaos --durations=15

$(VENV)/installed: pyproject.toml cluster/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c cluster/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
