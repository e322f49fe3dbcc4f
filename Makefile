# The one task runner: people and CI call the same targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A machine that reaches its packages through a mirror says so to pip; uv is told the same.
export UV_DEFAULT_INDEX := $(or $(UV_DEFAULT_INDEX),$(PIP_INDEX_URL))
export HF_HUB_OFFLINE ?= 1
ARGS ?=

.PHONY: help setup demo chaos test lint format bench requirements clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make the virtual environment

$(READY): deploy/requirements/bootstrap.txt deploy/requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "uniroute needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r deploy/requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python deploy/requirements/dev.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

demo: $(READY)  ## run the whole path on this machine: make demo ARGS="--prompts 500"
	@$(BIN)/uniroute demo $(ARGS)

chaos: $(READY)  ## break every part under traffic: make chaos ARGS="--prompts 500"
	@$(BIN)/uniroute chaos $(ARGS)

# A process per core: more threads than cores wait for each other by spinning, and take minutes for seconds.
test: export OMP_NUM_THREADS ?= 1
test: $(READY)  ## run the tests: make test ARGS="-k pool_prior"
	@$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: $(READY)  ## check style, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## rewrite the code in the house style
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)  ## measure, side by side: make bench ARGS="--report bench.json"
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

requirements: $(READY)  ## pin what pyproject.toml asks for
	deploy/requirements/compile.sh $(BIN)/uv

clean:  ## remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
