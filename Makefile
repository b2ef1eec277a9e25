# make demo    the whole pipeline on the embedded model, from nothing
# make test    every test that needs no GPU and no network
# make quick   the tests that take seconds; run it all the time
# make check   ruff, ruff format, mypy, import rules
# make setup   .venv with everything in the tested versions (constraints.txt)

PYTHON ?= python3
BIN := .venv/bin
# Without its image-model part, llama-cpp-python compiles a minute faster.
LLAMA_CMAKE_ARGS := -DLLAVA_BUILD=OFF
# A process for each core; a file's tests stay together, since they share models that take seconds to make.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: demo setup test quick check

demo: setup
	$(BIN)/medllama run tiny

setup: .venv/installed

.venv/installed: pyproject.toml setup.py constraints.txt $(wildcard medllama/llamacpp/vectorized/*.[ch])
	$(PYTHON) -m venv .venv
	.ci/install-torch $(BIN)/pip
	CMAKE_ARGS="$(LLAMA_CMAKE_ARGS)" $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

quick: setup
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py
