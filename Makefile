# make run    train a pruner on the embedded backbone, evaluate it, export it   (make run ARGS="prune_ratio=0.11")
# make test   run the test suite
# make check  style and types
# make format put the code into shape
# make docs   API pages from the docstrings, in build/api
# make lock   hashes anew, after a version in requirements.lock was changed (needs uv)
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Not in the lock: each kind of machine has a build of its own, with its own hash and its own libraries for a GPU beside it.
TORCH ?= torch==2.13.0
MODULES = $(subst /,.,$(patsubst %/__init__,%,$(basename $(filter-out %/_clip.py %/_sinkhorn.py %/_aot_video.py,$(wildcard learnpruner/*/*.py learnpruner/*/*/*.py)))))

.PHONY: run test check format docs lock clean

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

docs: .venv/.installed
	$(BIN)/python -m pdoc --docformat google --output-directory build/api learnpruner \
		$(filter-out learnpruner.integrations%,$(MODULES))  # these need lmms-eval

lock:
	sed -E '/^ *(#|--hash)/d; s/ *\\$$//' requirements.lock | uv pip compile - --no-deps --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock.new
	mv requirements.lock.new requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else f"Python is {sys.version.split()[0]}; this project needs 3.11 to 3.13: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes --requirement requirements.lock
	$(PIP) $(TORCH)
	$(PIP) --no-deps --editable .
	touch $@

clean:
	rm -rf .venv build logs .pytest_cache .ruff_cache .mypy_cache
