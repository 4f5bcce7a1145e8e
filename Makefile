# Needs only make and Python 3.11 or newer; PYTHON=python3.12 selects another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A file is run by one worker, for what its tests share; in the order of `testpaths`, which begins with what takes long.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

# Without this each worker, and each process that a test starts, would compile every file again where it is set.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow long coverage check format docs site build gpu-check client-check smoke release-check release-notes clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv, once

# The stamp is newer than these files while everything they require is installed, and the kernels are compiled.
$(STAMP): pyproject.toml constraints.txt $(wildcard src/convmodel/hf_model/_*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convmodel needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	@echo "Installing into $(VENV); this takes a few minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## go from a sample chat export to a bot: import, check, fine-tune, compare
	@$(BIN)/convmodel demo

test: $(STAMP) ## run the quick tests (ARGS="-k layout" selects some)
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

slow: $(STAMP) ## run the slow tests
	@$(BIN)/python -m pytest $(PARALLEL) -m "slow and not long" $(ARGS)

long: $(STAMP) ## run the tests that take longest
	@$(BIN)/python -m pytest $(PARALLEL) -m long $(ARGS)

coverage: $(STAMP) ## run all tests and measure how much of the code they run
	@$(BIN)/python -m pytest $(PARALLEL) -m "not soak" --cov --cov-report=term:skip-covered $(ARGS)

check: $(STAMP) ## lint, formatting, types, layers, generated pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py
	@$(BIN)/python scripts/build_docs.py --check

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP) ## write the generated pages again
	@$(BIN)/python scripts/build_docs.py

site: $(STAMP) ## build the documentation site into site/, without a network
	@$(BIN)/python scripts/build_site.py

build: $(STAMP) ## build the wheel and the source archive into dist/
	@$(BIN)/python scripts/build_dist.py

gpu-check: $(STAMP) ## check and measure training and generation on a GPU, in six minutes at most
	@$(BIN)/python scripts/gpu_check.py $(ARGS)

client-check: $(STAMP) ## check the server with real clients, each installed in an environment of its own (needs a network)
	@$(BIN)/python scripts/check_clients.py $(ARGS)

smoke: $(STAMP) ## build the wheel and test it in a new environment, from an empty folder
	@$(BIN)/python scripts/release_check.py --quick

release-check: $(STAMP) ## build a release and test it with each extra (ARGS=--resume resumes)
	@$(BIN)/python scripts/release_check.py $(ARGS)

release-notes: ## print the notes of the tag, from CHANGELOG.md
	@$(PYTHON) scripts/release_notes.py $(ARGS)

clean: ## delete caches and build results; keep the environment
	rm -rf build dist site .cache htmlcov .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
