# Everything a contributor runs; `make help` explains it. Each target works as the first command after a clone.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.complete

PYTEST_ARGS ?=
UP_ARGS     ?=
DEMO_ARGS   ?=
BENCH_ARGS  ?=

.PHONY: help setup demo up test lint types bench clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Arguments go in PYTEST_ARGS, UP_ARGS, DEMO_ARGS and BENCH_ARGS, as in: make demo DEMO_ARGS='--nodes 100'"

setup: ## Make .venv with everything in it (.venv/bin/uneventful)
	@sh deploy/bootstrap setup "$(PYTHON)"
	@$(MAKE) -s --no-print-directory $(STAMP)

# The stamp is written last: a cut-short installation is done again, a complete one is left alone.
$(STAMP): pyproject.toml
	@echo "make: setting up $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --editable '.[server,cli,agent,embedded]' --group dev \
		| { grep --line-buffered -E '^(Collecting|Installing|Successfully)' || true; }
	@$(BIN)/python -c 'import services.standalone.supervisor, pytest'
	@touch $(STAMP)
	@echo "make: $(VENV) is complete"

demo: ## Watch releases soak on canaries, follow to production by themselves, and a bad one being halted
	@sh deploy/bootstrap demo "$(PYTHON)"
	@$(MAKE) -s --no-print-directory $(STAMP)
	@$(BIN)/uneventful demo $(DEMO_ARGS)

up: ## Run all of Uneventful on this machine until Ctrl-C
	@sh deploy/bootstrap demo "$(PYTHON)"
	@$(MAKE) -s --no-print-directory $(STAMP)
	@$(BIN)/uneventful up $(UP_ARGS)

test: ## Run all tests, on a real Postgres and a real RabbitMQ of their own
	@sh deploy/bootstrap test "$(PYTHON)"
	@$(MAKE) -s --no-print-directory $(STAMP)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup ## Check style, formatting and the walls between packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: setup ## Check types (mypy, strict)
	@$(BIN)/mypy

bench: ## Measure the hot paths and print the ratios with their raw figures
	@sh deploy/bootstrap test "$(PYTHON)"
	@$(MAKE) -s --no-print-directory $(STAMP)
	@$(BIN)/python tests/bench $(BENCH_ARGS)

clean: ## Remove .venv, caches and what builds left
	rm -rf $(VENV) dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
