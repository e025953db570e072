# From a task to a small model that may ship. `make` alone says what there is.
# Each verb is a subcommand of `harness`; RUN names runs/RUN.yaml; ARGS goes to the command as it is.

RUN    ?= helpdesk
ARGS   ?=
PYTHON ?= python3
EXTRAS ?= auto

HARNESS := .venv/bin/harness
PYTEST  := .venv/bin/python -m pytest

export PYTHON
# The install writes no bytecode; Python keeps what it compiles at first use, unless this is set.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL: # the stages of one command line run in the order given, under -j too
.PHONY: help docs setup init augment show-batch train eval report check bless show doctor clean test test-all lint verify-gpu

## The loop
init: .venv/.full ## a run from one file of yours: make init RUN=mine ARGS="--from pairs.csv"
	@$(HARNESS) init $(RUN) $(ARGS)
augment: .venv/.full ## the teacher writes rows, the filters drop some
	@$(HARNESS) augment $(RUN) $(ARGS)
show-batch: .venv/.full ## what students read and learn first, before training
	@$(HARNESS) show-batch $(RUN) $(ARGS)
train: .venv/.full ## one adapter for each cell of the grid
	@$(HARNESS) train $(RUN) $(ARGS)
eval: .venv/.full ## every student on every suite, then the report
	@$(HARNESS) eval $(RUN) $(ARGS)

## Reading it, and letting a model out (these need neither torch nor vLLM)
report: .venv/.base ## report.md and the learning curve again, from the scores on disk
	@$(HARNESS) report $(RUN) $(ARGS)
show: .venv/.base ## all of the report, printed
	@$(HARNESS) show $(RUN) $(ARGS)
bless: .venv/.base ## write the baseline that `check` compares with
	@$(HARNESS) bless $(RUN) $(ARGS)
check: .venv/.base ## may it ship? (make itself knows only 0 and 2: CI calls .venv/bin/harness check)
	@$(HARNESS) check $(RUN) $(ARGS)

## This machine
setup: ## install only; EXTRAS=cpu, gpu or train (no vLLM) overrides what the machine suggests
	@locks/install.sh full $(EXTRAS)
doctor: .venv/.base ## what this machine can do, and what to change
	@$(HARNESS) doctor $(ARGS)
clean: .venv/.base ## remove results that no run file refers to any more
	@$(HARNESS) clean $(ARGS)

## This repository
test: .venv/.full ## the quick tests, offline
	@$(PYTEST) -m "not slow and not gpu" $(ARGS)
test-all: .venv/.full ## the slow tests
	@$(PYTEST) -m "slow or gpu" $(ARGS)
lint: .venv/.full ## ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
docs: .venv/.full ## the guide as HTML, in docs/_build
	@.venv/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build $(ARGS)
verify-gpu: .venv/.full ## the tests that need a GPU; without one they fail
	@HARNESS_REQUIRE=gpu,vllm $(PYTEST) -m gpu $(ARGS)

# A copied or moved checkout: what is in its .venv runs the code of the folder it was made in, until it is set right.
ifneq ($(wildcard .venv/.base),)
ifneq ($(shell locks/install.sh moved),)
.PHONY: .venv/.base
endif
endif

# Two layers, each marked done when all of it is: what reads scores, and what makes models.
.venv/.base: locks/base.txt locks/install.sh pyproject.toml
	@locks/install.sh base
.venv/.full: .venv/.base $(wildcard locks/*.txt)
	@locks/install.sh full $(EXTRAS)

help:
	@echo 'make VERB... [RUN=$(RUN)] [ARGS="--dry-run"]     the first one installs into .venv'
	@awk -F ':.*## ' '/^## / { printf "\n%s\n", substr($$0, 4) } \
	     /^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile
	@echo; echo 'To begin: make augment train eval'
