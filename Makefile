# `make test` does everything from nothing. Stamps in .venv remember what is done.
SHELL := /bin/bash
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do $$each -c '' 2>/dev/null && echo $$each && break; done)
BIN := .venv/bin
WORKERS ?= 4
TESTS ?=

# Where it is set, each of the hundreds of processes that the tests start would compile all that it imports of ours.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup run test lint format bench clean lock

setup: .venv/.project .venv/.system .venv/.controlplane .venv/.restate

# --clear: a virtual environment that was not finished is made anew.
.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	touch $@

.venv/.locked: requirements.lock .venv/.made
	$(BIN)/python -m pip install --quiet --no-input --require-hashes -r requirements.lock
	touch $@

.venv/.project: pyproject.toml .venv/.locked
	$(BIN)/python -m pip install --quiet --no-input --no-deps --no-build-isolation -e .
	touch $@

.venv/.system: scripts/setup-system .venv/.made
	scripts/setup-system
	touch $@

# Fills the user's cache once (minutes), so that no test has to wait for it.
.venv/.controlplane: landlord/dev/kubernetes_go/go.mod landlord/dev/kubernetes_go/go.sum .venv/.project
	$(BIN)/python -m landlord.dev.kubernetes_binaries
	touch $@

.venv/.restate: landlord/dev/restate_npm/package-lock.json .venv/.project
	$(BIN)/python -m landlord.dev.restate
	touch $@

run: .venv/.project
	$(BIN)/landlord dev

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: .venv/.project
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.project
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/run.py

lock: COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header
lock: .venv/.made
	$(BIN)/python -m pip install --quiet --no-input uv
	{ echo '# Every dependency to run and to test, with hashes. Made by `make lock`.'; \
	  $(COMPILE) pyproject.toml --extra docker --extra embedded --extra restate --group dev; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock
	{ echo '# What Landlord needs to run, with hashes, for the image. Made by `make lock`.'; \
	  $(COMPILE) pyproject.toml --extra docker --extra restate -c requirements.lock; \
	} > requirements-runtime.lock.new
	mv requirements-runtime.lock.new requirements-runtime.lock
	{ echo '# What builds the wheel, with hashes. Made by `make lock`.'; \
	  echo hatchling | $(COMPILE) - -c requirements.lock; \
	} > requirements-build.lock.new
	mv requirements-build.lock.new requirements-build.lock

clean:
	rm -rf .venv .landlord .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
