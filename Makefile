# Everything by one word: `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
SERVING := $(VENV)/.serving
READY := $(VENV)/.ready

.PHONY: help run test engine images venv lint types specs bench chaos soak clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: engine $(SERVING) ## start the server, with everything it needs; it builds the larger images while it serves
	@$(BIN)/sandlot serve --build

test: engine images $(READY) ## run all tests but the benchmarks, WORKERS (2) at a time
	@$(BIN)/pytest -n $(or $(WORKERS),2)

engine: ## use the running container engine, or install and start one
	@deploy/engine

images: engine $(SERVING) ## build the images whose inputs changed
	@$(BIN)/sandlot images

venv: $(READY) ## make .venv, with the project and its tools in it

lint: $(READY) ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## check types
	@$(BIN)/mypy

specs: $(READY) ## write specs/ and docs/configuration.md from the code
	@$(BIN)/python -m specs.generate

bench: engine images $(READY) ## measure, print the table, write JSON
	@$(BIN)/python -m tests.bench

chaos: engine images $(READY) ## kill and starve a server for ROUNDS (500); SEED repeats a run
	@$(BIN)/python -m tests.chaos $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

soak: engine images $(READY) ## load a server for SECONDS (600) with CLIENTS (20)
	@$(BIN)/python -m tests.load $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CLIENTS),--clients $(CLIENTS))

clean: ## remove what was built here (images and volumes stay)
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What serving needs; and the development tools beside it.
$(SERVING): pyproject.toml deploy/venv
	@deploy/venv $(VENV) && touch $@

$(READY): $(SERVING)
	@deploy/venv $(VENV) dev && touch $@
