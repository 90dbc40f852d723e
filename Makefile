# Two environments: .venv for the project, .venv-serving for vLLM. environments.py makes them when they are missing or
# when their pins have changed; after that every target starts at once.

ifndef PYTHON
PYTHON := $(shell for each in python3.11 python3.12 python3.13 python3; do \
    $$each -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
endif
OUT ?= runs/demo
SIDE_BY_SIDE := -n 2 --dist loadscope
# The quick tests wait for stand-ins half of their time.
QUICK_SIDE_BY_SIDE := -n 3 --dist loadscope
# Passed on to environments.py: `make demo ACCELERATOR=cpu` leaves a GPU alone.
export ACCELERATOR

.PHONY: help demo test check lint format docs environments project-environment python lock clean
.DEFAULT_GOAL := help

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=… chooses the interpreter (3.11 or newer), ACCELERATOR=cpu|cuda overrules nvidia-smi, OUT=… moves the demo."

demo: environments ## Quantize, serve, evaluate and judge the embedded model; results in runs/demo
	.venv/bin/quantgate run --out "$(OUT)"

# Most tests wait for servers and processes, so two run at a time; the real runs have all cores for themselves.
test: environments ## Run every test, the real parts among them
	.venv/bin/python -m pytest -m "not e2e" $(SIDE_BY_SIDE); rest=$$?; .venv/bin/python -m pytest -m e2e && exit $$rest

check: lint ## Formatting, lint, types and the quick tests
	.venv/bin/python -m pytest -m "not slow and not e2e" $(QUICK_SIDE_BY_SIDE)

lint: project-environment ## Formatting, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: project-environment ## Format the sources and mend what ruff can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: project-environment ## Write the program's output into README and docs/ again
	.venv/bin/python -m tests.printed

environments: python ## Make the environments without running anything
	@"$(PYTHON)" environments.py project serving

project-environment: python
	@"$(PYTHON)" environments.py project

lock: python ## Resolve the locks anew from pyproject.toml and serving-*.in (with Python 3.11)
	"$(PYTHON)" environments.py lock

clean: ## Remove the environments and caches; what runs wrote stays
	rm -rf .venv .venv-serving .venv*.log .venv.lock build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Makes the message before anything else fails for want of a Python.
python:
	@"$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "quantgate needs Python 3.11 or newer with its venv module$(if $(PYTHON),; $(PYTHON) is older or has none)."; \
	    echo "Debian, Ubuntu: apt-get install python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; \
	    exit 1; } >&2
