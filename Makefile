# Every target does its own set-up. Needs: make, and Python 3.11 to 3.13 with its venv module.
#
#   make run         the demonstration: a hospital and three patients, real daemons, one private sum
#   make test        all tests but the soak tests
#   make lint types  style, layering; static types
#   make bench       the timings of benchmarks/README.md;  make bench-peers adds other people's secure sums
#   make soak        the tests that take minutes
#   make lock        resolve requirements/*.lock again from pyproject.toml
#   make clean       remove every environment and cache
#
# Another interpreter: make clean; make test PYTHON=python3.12

PYTHON ?= python3
UV_VERSION := 0.13.8

VENV := .venv
BIN := $(VENV)/bin
QUIETLY := --quiet --disable-pip-version-check --no-input
# Wheels only: building from source would download build tools that no lock names.
INSTALL := -m pip install $(QUIETLY) --require-hashes --only-binary :all:

.DELETE_ON_ERROR:
.PHONY: help run test lint types bench bench-peers soak lock clean

help:
	@sed -n 's/^#   make/  make/p' Makefile

# ---- the jobs

run: $(VENV)/.core $(VENV)/.project
	$(BIN)/python scripts/run_all.py

test: $(VENV)/.dev $(VENV)/.project
	$(BIN)/python -m pytest --timeout=120

soak: $(VENV)/.dev $(VENV)/.project
	$(BIN)/python -m pytest -m soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.core $(VENV)/.project
	$(BIN)/python benchmarks/secure_sum.py --patients 3 --length 1 --range 3000000 --rounds 20
	$(BIN)/python benchmarks/secure_sum.py --patients 3 --length 1000000 --range 3000000 --rounds 5
	$(BIN)/python benchmarks/secure_sum.py --patients 10 --length 1000000 --range 10000000 --rounds 3
	$(BIN)/python benchmarks/secure_sum.py --patients 50 --length 10000 --range 50000000 --rounds 3
	$(BIN)/python benchmarks/studies.py
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python benchmarks/health.py

bench-peers: .venv-bench/.bench .venv-bench/.project
	.venv-bench/bin/python benchmarks/peers.py --ours

# ---- the environments: a stamp file says that the lock it depends on is installed

$(VENV)/.core: requirements/core.lock
	scripts/fresh_venv $(PYTHON) $(VENV)
	$(BIN)/python $(INSTALL) -r requirements/core.lock
	@touch $@

# Adds to the core environment and is locked against it, so `make test` after `make run` only downloads the tools.
$(VENV)/.dev: requirements/dev.lock $(VENV)/.core
	$(BIN)/python $(INSTALL) -r requirements/dev.lock
	@touch $@

# Ours and theirs together. Flower's pins (an older rich) stay out of the daemons' environment.
.venv-bench/.bench: requirements/bench.lock
	scripts/fresh_venv $(PYTHON) .venv-bench
	.venv-bench/bin/python $(INSTALL) -r requirements/bench.lock
	@touch $@

# The checkout itself, editable. setuptools comes from the lock like the rest: nothing is downloaded here.
$(VENV)/.project: pyproject.toml $(VENV)/.core
.venv-bench/.project: pyproject.toml .venv-bench/.bench
$(VENV)/.project .venv-bench/.project:
	$(@D)/bin/python -m pip install $(QUIETLY) --no-index --no-deps --no-build-isolation --editable .
	@touch $@

# ---- the locks

# Pins stay as they are unless pyproject.toml forbids them; `make lock UPGRADE=--upgrade` takes the newest.
COMPILE = .venv-lock/bin/uv pip compile --quiet --only-binary :all: --no-config --no-sources --system-certs \
	--universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" $(UPGRADE) \
	--group build pyproject.toml

lock: .venv-lock/.uv-$(UV_VERSION)
	$(COMPILE) --output-file requirements/core.lock
	$(COMPILE) --extra dev --constraints requirements/core.lock --output-file requirements/dev.lock
	$(COMPILE) --extra bench --output-file requirements/bench.lock

.venv-lock/.uv-$(UV_VERSION):
	scripts/fresh_venv $(PYTHON) .venv-lock
	.venv-lock/bin/python -m pip install $(QUIETLY) uv==$(UV_VERSION)
	@touch $@

clean:
	rm -rf .venv .venv-bench .venv-lock build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
		.hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
