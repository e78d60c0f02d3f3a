# Two commands: `make demo` and `make test`. Everything runs from .venv, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo up test soak lint bench bench-training bench-serving clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## .venv with everything, under the pinned constraints

$(VENV)/.installed: pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c infra/constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## the whole pipeline once, over a small built-in site
	$(BIN)/anime-genre demo

up: install  ## the stack stays: Prefect, MLflow, TensorBoard, the function and its page; Ctrl-C ends all
	$(BIN)/anime-genre up

test: install  ## the whole suite
	$(BIN)/python -m pytest

lint: install  ## ruff, mypy and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: install  ## the long runs of tests/soak: over the replayed site, and against the function; half an hour
	@for file in tests/soak/soak_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench: install  ## the measurements of tests/benchmarks
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-training: install  ## those of training and preprocessing alone: 12 minutes on two idle cores
	@for name in training preprocess; do file=tests/benchmarks/bench_$$name.py; \
		echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-serving: install  ## those of the function, beside the same one with torch: needs two idle cores
	$(BIN)/python tests/benchmarks/bench_serving.py

clean:  ## the environment and the workspaces
	rm -rf $(VENV) workspace
