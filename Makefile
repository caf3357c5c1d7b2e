# mrm from a clone, on a machine with Python 3.11 or later, a C compiler and make.
# Each target makes .venv by itself, and builds what is not built.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install

# Root sets these amounts of huge pages aside for as long as the command runs; others do
# with those that there are, or with small pages, and are told so.
TEST_PAGES ?= 1GiB
DEMO_PAGES ?= 1GiB
WITH = $(BIN)/python -m mrm.tools.fund with

# What a target passes on: make test ARGS="-k batch", make demo ARGS="--seconds 20".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv build demo test test-numpy test-python lint format bench matrix arm64 stress sanitize wheel wheels clean

help:  ## Say what targets there are
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(VENV)/.ready  ## Make .venv, with all that demo, test and bench need

build: $(VENV)/.ready  ## Compile what changed, in place
	@$(BIN)/python setup.py --quiet build_ext --inplace

demo: build  ## Move pages under working threads, and prove that nothing is lost
	@$(WITH) $(DEMO_PAGES) -- $(BIN)/mrm demo $(ARGS)

test: build  ## Run all tests
	@$(WITH) $(TEST_PAGES) -- $(BIN)/python -m pytest $(ARGS)

test-numpy: build  ## Run NumPy's own tests with every array on a heap
	@$(BIN)/python tools/numpy_tests.py $(ARGS)

test-python: build  ## Run CPython's own tests with its objects on huge pages
	@$(BIN)/python tools/python_tests.py $(ARGS)

bench: build  ## Measure ways of remapping side by side
	@$(WITH) $(DEMO_PAGES) -- $(BIN)/mrm bench remap $(ARGS)

matrix: build  ## Run the tests on other kernels, more processors, nodes, limits (root; Debian packages)
	@$(BIN)/python -m tools.machines matrix $(ARGS)

arm64: build  ## Compile for arm64, and run the tests under user-mode emulation (Debian packages)
	@PYTHON=$(BIN)/python $(BIN)/python tools/arm64/run.py $(ARGS)

stress: build  ## Race threads on a pool, and check it all
	@$(WITH) $(DEMO_PAGES) -- $(BIN)/mrm stress $(ARGS)

sanitize: build  ## Run the tests under address, leak and undefined-behaviour sanitizers, races under the thread sanitizer
	@$(WITH) $(TEST_PAGES) -- $(BIN)/python tools/sanitize/run.py $(ARGS)

# cython-lint calls pycodestyle by name, so it has to be on the PATH.
lint: export PATH := $(CURDIR)/$(BIN):$(PATH)
lint: build $(VENV)/.linters  ## Check style and types, and the stubs against the built modules
	ruff check .
	ruff format --check .
	cython-lint mrm
	mypy
	mypy --explicit-package-bases tools/machines
	python -m mypy.stubtest --ignore-disjoint-bases --ignore-unused-allowlist --mypy-config-file pyproject.toml --allowlist tests/typing/stubtest.txt mrm

format: $(VENV)/.linters  ## Lay the Python files out
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

wheels: build  ## Make a wheel for each Python there is, and test each as installed
	@$(WITH) $(TEST_PAGES) -- $(BIN)/python -m tools.wheels $(ARGS)

wheel: $(VENV)/.linters  ## Make the sdist and the wheel, in dist/
	$(BIN)/python -m build

clean:  ## Remove all that was made here, .venv too
	rm -rf $(VENV) build dist *.egg-info .*_cache .hypothesis .benchmarks
	find mrm '(' -name '*.so' -o -name '*.c' ')' -delete
	find . -name __pycache__ -prune -exec rm -r {} +

# The build tools come first, so that the package is compiled once, here, and not in a
# folder of pip's. --no-compile: most of what is installed is never imported.
$(VENV)/.ready: pyproject.toml setup.py
	@python=$$(tools/find-python $(PYTHON)) && $$python -m venv $(VENV)
	@echo "Installing into $(VENV), and compiling: 1 to 2 minutes"
	@$(PIP) --no-compile 'setuptools>=77' 'Cython>=3.3'
	@$(PIP) --no-compile --no-build-isolation --editable '.[cli,bench,test]'
	@touch $@

$(VENV)/.linters: $(VENV)/.ready
	@$(PIP) --no-compile --no-build-isolation --editable '.[dev]'
	@touch $@
