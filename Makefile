# Two commands: `make demo` and `make test`. Everything runs from .venv, which the first command creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The pip that comes with Python 3.11 takes three times as long to find the versions, and pip compiles on one core.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c infra/constraints.txt
# Four workers, because tests that start services wait for them; the others use one per core. tests/conftest.py says
# which tests share a worker.
# Files run in order, and so the longest, tests/flows, run first; by default those with the fewest tests run last.
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo up test test-fast soak lint bench bench-training bench-serving clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## create .venv with all packages, in pinned versions

$(VENV)/.installed: pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --no-compile -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true  # files for other versions of Python
	@touch $@

demo: install  ## run the whole pipeline once over a small built-in site
	$(BIN)/anime-genre demo

up: install  ## start Prefect, MLflow, TensorBoard, the function and its page; Ctrl-C stops all
	$(BIN)/anime-genre up

# The tests start some sixty processes. Each would compile the project's modules again if Python kept no bytecode.
test test-fast: export PYTHONDONTWRITEBYTECODE :=

test: install  ## run the test suite
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: install  ## run the tests that need no service, browser or training
	$(BIN)/python -m pytest $(PARALLEL) -n auto -m "not stack and not browser and not train"

lint: install  ## run ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Long tests and measurements share code with the tests, and that is not installed.
soak bench bench-training bench-serving: export PYTHONPATH := $(CURDIR)

soak: install  ## run the long tests of tests/soak: at most three hours
	$(BIN)/python -m pytest -m long
	@for file in tests/soak/soak_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench: install  ## run all measurements of tests/benchmarks
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-training: install  ## measure training and preprocessing: 12 minutes on two idle cores
	@for name in training preprocess; do file=tests/benchmarks/bench_$$name.py; \
		echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-serving: install  ## measure the function beside the same one on PyTorch; needs two idle cores
	$(BIN)/python tests/benchmarks/bench_serving.py

clean:  ## delete what is built: .venv and caches; `anime-genre reset` deletes a workspace
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
