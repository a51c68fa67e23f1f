# What one types here. Needs python3 >= 3.11, git and make; everything else is fetched into .venv/.
PYTHON ?= python3
PORT ?= 8000
# Test files that run at the same time: most of a test is waiting.
JOBS ?= 4
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test lint observability services services-stop matrix clean bench soak

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Run the example service on http://127.0.0.1:$PORT (8000)
	@scripts/venv .venv examples
	PORT=$(PORT) .venv/bin/python -m examples.orders

test: ## Run the tests; ARGS are handed to pytest
	@scripts/venv .venv examples,test,clients,instrumentation,observability
	.venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: ## Check style and types
	@scripts/venv .venv examples,test,clients,instrumentation,observability,lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

observability: ## Run Prometheus and Alertmanager beside the example service, until Ctrl-C
	@scripts/services install promtool prometheus-alertmanager
	@scripts/venv .venv examples,observability
	PORT=$(PORT) .venv/bin/python scripts/observability

services: ## Install and start the servers that the tests want: databases, caches, coordinators
	@scripts/services install
	@scripts/services start

services-stop: ## Stop the servers and forget their data
	@scripts/services stop

matrix: ## Run the tests on the other Pythons found, and on the oldest with the oldest dependencies
	@$(PYTHON) scripts/matrix $(ARGS)

bench: ## Take every figure and write them into the README
	@scripts/services install
	@scripts/venv .venv-bench examples,test,bench
	.venv-bench/bin/python -m tests.benchmarks $(ARGS)

soak: ## Hold the fault gates at full length; ARGS="--scale 0.02" for the short form
	@scripts/services install
	@scripts/venv .venv-soak examples,test,clients,soak
	.venv-soak/bin/python -m tests.soak $(ARGS)

clean: ## Remove what was made here, except running servers
	rm -rf .venv .venv-bench .venv-soak .venvs .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	rm -rf tests/observability/pictures/node_modules tests/observability/pictures/bundle.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
