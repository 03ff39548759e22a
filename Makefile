# make PYTHON=python3.13 …: another Python than the one that scripts/setup finds.
PYTHON ?=
BIN := .venv/bin

.PHONY: help setup run test check bench proto lock fmt stripe-dev clean

help: ## Print what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: .venv/ready ## Create .venv with the locked dependencies

.venv/ready: requirements.lock pyproject.toml clients/python/pyproject.toml clients/typescript/package-lock.json clients/react/package-lock.json
	@scripts/setup $(PYTHON)

run: setup ## Start Valkey, Postgres and meterd, play a small trace, then keep serving
	@$(BIN)/meterd dev --play 500

# A file's tests stay in one worker: stories share an installation, and some go on where others have ended.
test: setup ## Run all tests against servers that they start themselves
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup ## Lint, types, floors, protos, generated stubs
	@scripts/check

bench: setup ## Measure, with ratios in one run
	@$(BIN)/python -m benchmarks

proto: setup ## Generate the stubs from protos/
	@scripts/proto clients/python/src/meterd_client

lock: setup ## Resolve the locked dependencies anew
	@scripts/lock

fmt: setup ## Format the code
	@$(BIN)/ruff check -q --fix . && $(BIN)/ruff format -q .

stripe-dev: setup ## Take in the webhooks of a Stripe account in test mode, through the Stripe CLI
	@scripts/stripe-dev

clean: ## Remove what setup and runs left behind
	@rm -rf clients/*/node_modules clients/*/dist clients/*/build .venv .meterd .pytest_cache .ruff_cache .hypothesis
