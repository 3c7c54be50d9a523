# `make run` and `make test` need Python 3.11 or later and make. A target that needs more says so.

PYTHON ?= python3
BIN := .venv/bin
# Generated files depend only on the code, so no variable or `.env` file of the machine is used.
OPENAPI = (cd / && env -i $(CURDIR)/$(BIN)/python -m app openapi)
# `tests/conftest.py` chooses the order of the files and the number of processes.
PARALLEL = --numprocesses auto --maxprocesses 5 --dist loadfile --no-loadscope-reorder
DOCS = env -i $(BIN)/python docs/reference.py
# Without cached bytecode, each of the many processes of a test run would compile all modules again.
export PYTHONDONTWRITEBYTECODE =
# Options that lock the dependencies of the image with their hashes.
locked = --constraint constraints.txt --generate-hashes --no-annotate --python-version 3.13 \
	--python-platform linux --custom-compile-command "make constraints" --quiet \
	--output-file requirements/$(1).txt

.DEFAULT_GOAL := help
.PHONY: help run test coverage test-browser test-clients test-abuse test-faults test-programs check check-types \
	check-rest check-generated format openapi docs constraints bench bench-quick bench-scale bench-ingest bench-months release clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/run ## Run the service on http://127.0.0.1:8000, with its own Postgres and sample data
	@exec $(BIN)/pypi-stats serve

test: .venv/dev ## Run all tests that need only Python
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

coverage: .venv/dev ## Run all tests and report the branch coverage of app/: takes an hour
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-browser: .venv/dev ## Try the documentation pages in Chromium, at CHROMIUM or /usr/bin/chromium
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-clients: .venv/dev ## Generate typed clients and run them: needs npm, Go and a JDK
	$(BIN)/python -m pytest tests/typed_clients $(ARGS)

test-programs: .venv/dev ## Run nginx, Varnish, PgBouncer, Debian's Postgres and others with the service
	$(BIN)/python -m pytest tests/programs $(ARGS)

test-abuse: .venv/dev ## Attack a service with two workers, and measure memory, delays and log
	$(BIN)/python -m pytest tests/abuse $(ARGS)

test-faults: .venv/dev ## Kill, disconnect and starve a service: ARGS="--seed 7" chooses other faults
	$(BIN)/python -m pytest tests/faults $(ARGS)

check: .venv/dev ## Check format, lint, types, import rules, generated files and migrations
	@$(MAKE) --no-print-directory --jobs 2 check-types check-rest

# Without a cache, mypy takes as long as everything else together.
check-types:
	$(BIN)/mypy

check-rest: check-generated
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && export DATA_DIR="$$dir" DATABASE_URL= \
		&& $(BIN)/pypi-stats migrate && $(BIN)/alembic check

check-generated:
	@$(OPENAPI) | diff -u openapi.json - \
		|| { echo "error: openapi.json is outdated: make openapi writes it" >&2; exit 1; }
	@$(DOCS) --check

format: .venv/dev ## Format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: .venv/dev ## Write openapi.json, from which clients are generated
	@document=$$( $(OPENAPI) ) && printf '%s\n' "$$document" > openapi.json

docs: .venv/dev ## Write the generated references in docs, and .env.example
	@$(DOCS)

constraints: .venv/python ## Update constraints.txt and requirements to the newest releases
	rm -rf .venv/fresh && $(PYTHON) -m venv .venv/fresh
	.venv/fresh/bin/python -m pip install --quiet --editable '.[dev]'
	.venv/fresh/bin/python -m pip freeze --exclude-editable > constraints.txt
	.venv/fresh/bin/python -m pip install --quiet uv
	.venv/fresh/bin/uv pip compile pyproject.toml $(call locked,image)
	$(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
		| .venv/fresh/bin/uv pip compile - $(call locked,build)
	rm -rf .venv/fresh

# Generated data is stored in .bench, or BENCH_DIR, for the next run.
bench: .venv/dev ## Measure serving and memory, into docs/benchmarks: needs wrk
	$(BIN)/python -m benchmarks.serving --output docs/benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.memory --output docs/benchmarks

bench-quick: .venv/dev ## Measure both in a minute or two, into .bench/results
	$(BIN)/python -m benchmarks.serving --quick
	$(BIN)/python -m benchmarks.memory --quick

bench-scale: .venv/dev ## Measure more packages and longer history, into docs/benchmarks
	$(BIN)/python -m benchmarks.scale --output docs/benchmarks $(ARGS)

bench-ingest: .venv/dev ## Measure the ingest of a day of PyPI, into docs/benchmarks
	$(BIN)/python -m benchmarks.ingest --output docs/benchmarks $(ARGS)

bench-months: .venv/dev ## Measure the roll-up of a month of PyPI, into docs/benchmarks
	$(BIN)/python -m benchmarks.months --output docs/benchmarks $(ARGS)

release: .venv/dev ## Check version, changelog and tag, and build sdist, wheel and image
	@.ci/release

clean: ## Remove the virtual environment, but no data
	rm -rf .venv

# Environments to run and to develop the service. Each marker is newer than the files that it was
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
