# Every command sets up what it needs first; a second run needs no network.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Processes that tests are shared out to, each with a Kafka and a Postgres of its own. A quarter of a test
# is waiting, so that two cores have work for three.
TOGETHER ?= 3
# Where an environment forbids it, each of hundreds of processes would compile all of our code anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: run demo test check audit faults bench help setup lock proto reference format helm-check build release-notes image clean

run: setup ## The whole system in the foreground: Kafka, Postgres, registry, receiver, consumer, API (Ctrl-C stops it)
	@exec $(BIN)/registry-quota dev up

demo: setup ## The main job in one go: push, account, announce, clean up, verify
	@exec $(BIN)/registry-quota demo

test: setup ## All tests (embedded parts, or containers with RQ_TEST_BACKEND=docker)
	@$(BIN)/python -m pytest -n $(TOGETHER) -m "not alone" $(ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m alone $(ARGS) || [ $$? -eq 5 ]

check: setup ## Format, lint, types, links of the pages, import arrows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m tools.links
	@$(BIN)/python -m pytest -q tests/unit/test_import_arrows.py

audit: setup ## Known vulnerabilities of the pinned packages; needs the network, and says so where it has none
	@sh requirements/audit.sh

faults: setup ## The long form of every fault test; prints the promise table and writes docs/reliability.md
	@exec env RQ_FAULTS=long RQ_TEST_HISTORIES=5 $(BIN)/python -m pytest -m promise --promise-table=docs/reliability.md $(ARGS)

bench: setup ## Benchmarks, as a table and as JSON under bench/results/
	@exec $(BIN)/python -m bench $(ARGS)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "registry-quota needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "setup: creating $(VENV)"; $(PYTHON) -m venv $(VENV) || \
	  { echo "python's venv module is missing (Debian: apt-get install python3-venv)"; rm -rf $(VENV); exit 1; }; }
	@echo "setup: installing pinned packages into $(VENV) (about a minute, once)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: setup ## Pin again (after a change of pyproject.toml), with hashes and without addresses
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --no-annotate --extra otel pyproject.toml -o requirements/runtime.txt $(UPGRADE)
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --no-annotate --all-extras --group dev pyproject.toml -o requirements/dev.txt -c requirements/runtime.txt $(UPGRADE)
	@echo 'hatchling>=1.27' | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --no-annotate - -o requirements/build.txt -c requirements/dev.txt

proto: setup ## Generate code from proto/ again (after a change there)
	@$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto idp/build/v1/build.proto

format: setup ## Format and fix what can be fixed by itself
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

reference: setup ## Write docs/reference/ anew: OpenAPI, AsyncAPI, JSON Schemas of the events, metrics, commands, settings, from the code
	@$(BIN)/python -m quota.api.reference docs/reference
	@$(BIN)/python -m cli.metric_table > docs/reference/metrics.md
	@$(BIN)/python -m cli.command_table > docs/reference/commands.md
	@$(BIN)/python -m cli.setting_table > docs/reference/settings.md

helm-check: setup ## The Helm chart by helm lint, helm template and Kubernetes' schemas (builds Helm with Go: minutes, once)
	@$(BIN)/python -m tools.helm
	@$(BIN)/python -m pytest -q tests/unit/deploy/test_chart.py tests/integration/deploy/test_chart.py

build: setup ## Wheel and source distribution in dist/
	@$(BIN)/python -m hatchling build

release-notes: setup ## What CHANGELOG.md says of VERSION (else of the project's version)
	@$(BIN)/python -m tools.release_notes $(VERSION)

image: setup ## The image of all roles, registry-quota:VERSION, with version and revision in its labels
	@version=$$($(BIN)/registry-quota version) && docker build --build-arg VERSION=$$version \
	  --build-arg REVISION=$$(git rev-parse HEAD) -t registry-quota:$$version .

clean: ## Remove what was built and what the embedded stack kept
	rm -rf $(VENV) .run dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
