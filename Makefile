# Everything by one word: `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help run test engine images venv lint types bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: engine images ## start the server, with everything it needs
	@$(BIN)/sandlot serve

test: engine images ## run all tests but the benchmarks
	@$(BIN)/pytest

engine: ## use the running container engine, or install and start one
	@deploy/engine

images: engine $(READY) ## build the images whose inputs changed
	@$(BIN)/sandlot images

venv: $(READY) ## make .venv, with the project and its tools in it

lint: $(READY) ## check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## check types
	@$(BIN)/mypy

bench: engine images ## measure, print the table, write JSON
	@$(BIN)/python -m tests.bench

clean: ## remove what was built here (images and volumes stay)
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml deploy/venv
	@deploy/venv $(VENV) && touch $@
