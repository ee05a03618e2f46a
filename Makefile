# `make help` lists the targets. Settings, given as NAME=value:
#   PYTHON  the interpreter that makes the environment (python3)
#   VENV    the folder of the environment (.venv)
#   EXTRA   for `make setup`: cuda12, cuda13 or tpu, on such a machine; targets
#           to compile for one that is elsewhere
#   ARGS    for the tests: more arguments of pytest, as in ARGS=tests/kernels;
#           for `make reproduce-full`: where the data is
PYTHON ?= python3
VENV ?= .venv
EXTRA ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := $(VENV)/.installed
EXTRAS := cuda12 cuda13 tpu targets
$(if $(filter-out $(EXTRAS),$(EXTRA)),$(error EXTRA must be some of \
  $(EXTRAS), got $(EXTRA)))
# Those of before, too: they are of the versions in the lock.
READY := $(INSTALLED) $(sort $(patsubst %,$(INSTALLED)-%,$(EXTRA)) \
  $(wildcard $(INSTALLED)-*))

# Else each of the processes that tests start would compile all of JAX anew.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/python -m pytest -n 2 --dist=worksteal

.NOTPARALLEL: # Two installations into one environment would break it.
.PHONY: help setup train test test-slow test-full reproduce reproduce-full \
  lint format lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' \
	  Makefile

setup: $(READY) ## make the environment (the others do it, too)

train: $(READY) ## train the quickstart with SLiM: minutes, no download
	$(BIN)/python -m slim.train --config=configs/quickstart.py \
	  --workdir=runs/quickstart

test: $(READY) ## run the tests: minutes
	$(PYTEST) $(ARGS)

test-slow: $(READY) ## run grids by pairs, processes and memory marks
	$(PYTEST) -m 'slow and not full' $(ARGS)

test-full: $(READY) ## run all tests and whole grids: hours
	$(PYTEST) -m '' $(ARGS)

reproduce: $(READY) ## run small experiments, check README and docs
	$(BIN)/python experiments/reproduce.py --mode=quick

reproduce-full: $(READY) ## run all experiments, write tables of docs: many hours
	$(BIN)/python experiments/reproduce.py --mode=full $(ARGS)

lint: $(READY) ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY) ## repair what `make lint` can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Versions that still fit are kept; delete requirements.lock to renew them all.
# Not $(INSTALLED): a lock that pyproject.toml has left behind installs nothing.
lock: ## write requirements.lock anew from pyproject.toml
	@test -x $(BIN)/uv || { $(MAKE_VENV) && $(PIP) install 'uv>=0.9'; }
	$(BIN)/uv pip compile --quiet --universal --generate-hashes \
	  --no-emit-index-url --python-version 3.11 --extra dev \
	  --custom-compile-command "make lock" \
	  --output-file requirements.lock pyproject.toml

# Python 3.11 first, as pip's own words for an old one are many and unclear.
define MAKE_VENV
{ test -x $(BIN)/pip || { \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null || { \
    echo "error: slim needs Python 3.11 or newer, but $(PYTHON) is" \
      "'$$($(PYTHON) --version 2>&1 | head -n 1)'; name another, as in" \
      "'make setup PYTHON=python3.12'" >&2; exit 1; }; \
  $(PYTHON) -m venv $(VENV); }; }
endef

# The lock holds setuptools, so slim itself is built without a download. Python
# compiles a file when it is first imported; here most of them never are.
$(INSTALLED): requirements.lock pyproject.toml setup.py
	@$(MAKE_VENV)
	@echo "installing into $(VENV); the first time this takes a minute or two"
	@$(PIP) install --no-compile --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

# jax is there already, so pip keeps it and adds the plugin of its version.
$(INSTALLED)-%: $(INSTALLED)
	@echo "installing the libraries of $* into $(VENV)"
	@$(PIP) install --no-build-isolation --editable '.[$*]'
	@$(PIP) check
	@touch $@
