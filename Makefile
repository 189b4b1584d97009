# make run    train a pruner on the embedded backbone, evaluate it, export it   (make run ARGS="prune_ratio=0.11")
# make test   run the test suite
# make check  style and types
# make format put the code into shape
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: run test check format clean

run: .venv/.installed
	$(BIN)/python train.py $(ARGS)

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else f"Python is {sys.version.split()[0]}; this project needs 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv logs .pytest_cache .ruff_cache .mypy_cache
