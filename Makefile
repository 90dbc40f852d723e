# Two environments: .venv for the project, .venv-serving for vLLM. environments.py builds them if they are missing or if
# their pins have changed; after that every target starts at once.

ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
    $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
OUT ?= runs/demo
# The tests spend a third of their time waiting for servers and processes, so three run at a time on two cores. The
# quick ones wait for nothing, and each process of theirs first imports what all need.
SIDE_BY_SIDE := -n 3 --dist loadscope
QUICK_SIDE_BY_SIDE := -n 2 --dist loadscope
# Passed on to environments.py: `make demo ACCELERATOR=cpu` leaves a GPU alone.
export ACCELERATOR

DOCKER ?= docker
REGISTRY ?= registry.example.com/quantgate
VLLM_CPU := docker.io/vllm/vllm-openai-cpu:v0.32.0
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag_of = $(shell awk '$$2 ~ "/$(1)$$" {found = 1} found && $$1 == "newTag:" {print $$2; exit}' manifests/images/kustomization.yaml)
image = $(REGISTRY)/$(1):$(or $(2),$(call tag_of,$(1)))
build = $(DOCKER) build -f manifests/images/$(1).Containerfile$(3) -t $(2) .$(if $(PUSH), && $(DOCKER) push $(2))

.PHONY: help demo test check lint format docs images environments project-environment python lock clean
.DEFAULT_GOAL := help

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=… chooses the interpreter (3.11 or newer), ACCELERATOR=cpu|cuda overrules nvidia-smi, OUT=… moves the demo."

demo: environments ## Quantize, serve, evaluate and judge the embedded model; results in runs/demo
	.venv/bin/quantgate run --out "$(OUT)" --use-case demo

test: environments ## Run every test, including those with real servers
	.venv/bin/python -m pytest $(SIDE_BY_SIDE)

check: lint ## Formatting, lint, types and the quick tests
	.venv/bin/python -m pytest -m "not slow and not e2e" $(QUICK_SIDE_BY_SIDE)

lint: project-environment ## Formatting, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: project-environment ## Format the sources and fix what ruff can fix
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: project-environment ## Update the program's output in README and docs/
	.venv/bin/python -m tests.printed

images: ## Build the images (REGISTRY=… DOCKER=podman PUSH=1 CPU=1)
	$(call build,quantgate,$(call image,quantgate))
	$(call build,quantize,$(call image,quantgate-quantize,$(VERSION)))
	$(call build,mlflow,$(call image,quantgate-mlflow))
	$(call build,llama,$(call image,quantgate-llama))
ifdef CPU
	$(call build,vllm,$(call image,quantgate-vllm-cpu), --build-arg VLLM=$(VLLM_CPU))
else
	$(call build,vllm,$(call image,quantgate-vllm))
endif

environments: python ## Build the environments without running anything
	@"$(PYTHON)" environments.py project serving

project-environment: python
	@"$(PYTHON)" environments.py project

lock: python ## Resolve the locks, with hashes, again from pyproject.toml and *.in (with Python 3.11)
	"$(PYTHON)" environments.py lock

clean: ## Remove the environments and caches, and keep the results of runs
	rm -rf .venv .venv-serving .venv*.log .venv.lock build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Without a usable Python, print what to install before anything else fails.
python:
	@"$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "quantgate needs Python 3.11 or newer with its venv module$(if $(PYTHON),; $(PYTHON) is older or has none)."; \
	    echo "Debian, Ubuntu: apt-get install python3-venv. Elsewhere: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; \
	    exit 1; } >&2
