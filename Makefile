# `make demo` and `make test` set up all they need, in .venv, from python3 (3.11 or 3.12) and the package registry.
PYTHON ?= python3
BIN := .venv/bin

TEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-all faults gpu-compile check docs tutorial dist lock clean

demo: .venv/installed  ## trains a small GCN on drawn shapes and evaluates it, about 2 minutes
	$(BIN)/python run.py --config=configs/shapes.py
	$(BIN)/python run.py --config=configs/shapes.py --mode=eval
	@echo "Open runs/shapes/report.html in a browser: scores, curves, and pictures of what is right and wrong."
	@echo "Curves: $(BIN)/python -m pip install tensorboard && $(BIN)/tensorboard --logdir=runs"

test: .venv/installed-dev  ## every kind of thing, 4 to 5 minutes on 2 cores, 7 the first time
	$(TEST) -m "not slow"

test-slow: .venv/installed-dev  ## the others, about 28 minutes on 2 cores
	$(TEST) -m slow

test-all: test test-slow  ## all tests

faults: .venv/installed-dev  ## kills training at random moments, 20 and 5 times, and compares bit by bit, about 13 minutes
	$(BIN)/python -m tests.faults

gpu-compile: .venv/gpu/installed  ## compiles for NVIDIA GPUs without one, 3 GB of packages, then at most 10 minutes on 2 cores
	.venv/gpu/bin/python -m pytest -n auto tests/test_gpu_plan.py tests/test_gpu_compile.py

check: .venv/installed-dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs  ## the site of docs/, into site/; a dead link, a missing page or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open it: $(BIN)/python -m http.server --directory site, then http://localhost:8000"

tutorial: .venv/installed-dev  ## executes docs/tutorial.ipynb and keeps its outputs, about 10 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.notebook

dist: .venv/installed-dev  ## the sdist and the wheel, checked; the wheel runs in an empty environment, about 2 minutes
	$(BIN)/python -m tests.dist

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gcn_jax needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[docs]'
	touch $@

.venv/gpu/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv/gpu
	.venv/gpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/gpu/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[plan-cuda]' pytest pytest-xdist
	touch $@

lock:  ## writes requirements.txt again, from pyproject.toml
	$(PYTHON) -m venv .venv/lock && .venv/lock/bin/python -m pip install --quiet uv
	.venv/lock/bin/uv pip compile --quiet --universal --no-annotate --upgrade pyproject.toml -o requirements.txt \
		--custom-compile-command 'make lock'

clean:
	rm -rf .venv .pytest_cache build dist site .cache *.egg-info
