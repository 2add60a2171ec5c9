# Every target sets up what it needs in .venv: the first time from the network, after that without it.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
BENCH ?= replay
EXAMPLES ?= 50000
MINUTES ?= 5
MICROBENCH := -m pytest bench/micro --quiet --benchmark-enable --benchmark-autosave --benchmark-time-unit=us \
    --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
INSTALL_SELF := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index

.PHONY: help up test test-long simulate chaos mutants fuzz lint format bench microbench microbench-compare lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 20

up: .venv/dev ## Run everything on this machine, with a demo retailer, in .availability/ (PORT=8000)
	@exec $(BIN)/availability up --demo --data-dir .availability --port $(PORT)

test: .venv/dev ## Run the tests, against real servers that they start themselves
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

test-long: .venv/dev ## Try many more made-up examples than `test` does, others each time (EXAMPLES=50000)
	@CONVERGENCE_EXAMPLES=$(EXAMPLES) AGREEMENT_EXAMPLES=$$(($(EXAMPLES) / 10)) \
	    $(BIN)/python -m pytest -m long -o faulthandler_timeout=0

simulate: .venv/dev ## Run the whole service under simulated faults (MINUTES=5), or replay one run of it (SEED=7)
	@PYTHONPATH=tests:. $(BIN)/python -m simulation $(if $(SEED),--seed $(SEED),--first $$(date +%s) --minutes $(MINUTES))

chaos: .venv/dev ## Break a running service under load, again and again, and judge it: CHAOS="--faults kill-valkey --times 50 --seed 7"
	@PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS)

mutants: .venv/dev ## Break each guard in a copy, and see its test go red (ONLY=P3 some of them)
	@$(BIN)/python -m tests.mutants $(ONLY)

fuzz: .venv/fuzz ## Make up requests from the OpenAPI document, and bytes for the feeds, to find a bug (MINUTES=5; SEED=7 repeats)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: .venv/dev ## Check style and types, of code and tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

format: .venv/dev ## Put the code into its one format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: .venv/bench ## Replay real baskets, or run another command of the bench: BENCH="flash-sale --rate 500"; BENCH=--help lists them
	@$(BIN)/python -m bench $(BENCH)

microbench: .venv/dev ## Time verbs, queue, codecs and journal one by one; the figures are kept in .benchmarks/
	@$(BIN)/python $(MICROBENCH)

microbench-compare: .venv/dev ## The same, each beside what was kept last
	@$(BIN)/python $(MICROBENCH) --benchmark-compare --benchmark-group-by=fullname

lock: .venv/dev ## Choose the newest of all packages and write the lock files
	@config/lock.sh --upgrade

clean: ## Remove what the targets made, except the data in .availability/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .chaos .fuzz build *.egg-info

.venv/dev: pyproject.toml config/requirements-dev.txt | .venv/bin/python
	@$(INSTALL) -r config/requirements-dev.txt
	@$(INSTALL_SELF) --editable .
	@touch $@

.venv/bench: config/requirements-bench.txt .venv/dev
	@$(INSTALL) -r config/requirements-bench.txt
	@touch $@

.venv/fuzz: config/requirements-fuzz.txt .venv/dev
	@$(INSTALL) -r config/requirements-fuzz.txt
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=…")'
	@$(PYTHON) -m venv .venv
