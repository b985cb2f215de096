# The project's commands, each one line of what you would type yourself.
PYTHON ?= python3
VENV   := .venv
CONSTRAINTS := constraints.txt
BIN    := $(VENV)/bin
OUT    ?= $(if $(NOTES),demo-$(basename $(notdir $(NOTES))),demo)

.PHONY: help setup demo test test-fast coverage test-oldest test-slurm check docs bench

help:
	@echo "make demo [NOTES=my_notes.csv] [OUT=folder] [ARGS='--columns.patient MRN']   the whole job on a CPU"
	@echo "make test                                     all tests"
	@echo "make test-fast                                tests for while you edit: 2 minutes"
	@echo "make test-oldest                              unit tests with the oldest versions that are claimed to work"
	@echo "make coverage                                 all tests, and how much of the code runs in their processes"
	@echo "make test-slurm                               those on a real SLURM (sudo tests/slurm/install.sh)"
	@echo "make check                                    ruff, mypy, import-linter, codespell, shellcheck; builds the docs"
	@echo "make docs                                     the documentation, at http://127.0.0.1:8000"
	@echo "make setup                                    only .venv"
	@echo "make bench                                    the figures that need no GPU: 5 hours"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch 'setuptools>=77' wheel
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/clinical-pretrain demo --out '$(OUT)' $(if $(NOTES),--notes '$(NOTES)') $(ARGS)

IN_TWO = -n 2 --dist loadscope --no-loadscope-reorder
test: setup
	$(BIN)/python -m pytest $(IN_TWO) $(PYTEST_ARGS)

test-fast: setup
	$(BIN)/python -m pytest $(IN_TWO) -m 'not slow' tests/unit $(PYTEST_ARGS)

coverage:
	$(MAKE) test PYTEST_ARGS='--cov --cov-report=term:skip-covered $(PYTEST_ARGS)'

test-oldest:  # what another torch has compiled to the shared cache can crash this one
	TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/.venv-oldest/compiled $(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt PYTEST_ARGS='tests/unit $(PYTEST_ARGS)'

test-slurm: setup
	$(BIN)/python -m pytest tests/slurm $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/shellcheck -x .ci/run $$(git ls-files '*.sh')
	$(BIN)/mkdocs build --quiet --strict

docs: setup
	$(BIN)/mkdocs serve

bench: setup
	benchmarks/cpu.sh
