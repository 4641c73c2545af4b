# `make run` and `make test` each do all of the set-up from a bare checkout; a second time it costs nothing.
# The .venv is made once, and again when pyproject.toml or constraints.txt change.

VENV := .venv
READY := $(VENV)/.ready
# The newest interpreter that the pinned versions were tried with; `make PYTHON=...` overrides.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# Of pyproject.toml; `make test EXTRAS=dev,cluster` has the tests on a Ray cluster as well.
EXTRAS ?= dev

.DEFAULT_GOAL := help
.PHONY: help run test setup

help:
	@echo 'make run    set up, then evolve the plain matmul seed; no GPU and no key needed'
	@echo 'make test   set up, then the fast test-suite'
	@echo 'make setup  set up only'

run: $(READY)
	$(VENV)/bin/evolve run --config configs/quickstart.yaml

# Two cores take nine minutes one test at a time, and under seven two at a time.
test: $(READY)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'evolve needs Python 3.11 or later: install it, or name one, make $(MAKECMDGOALS) PYTHON=/path/to/python'; exit 2; }
	@echo 'Setting up $(VENV) with $(PYTHON): torch and triton make this some minutes, once.'
	@$(PYTHON) -m venv $(VENV) || { echo 'No virtual environment: on Debian and Ubuntu, apt install python3-venv'; exit 2; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
