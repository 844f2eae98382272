# `make` alone lists the targets. Everything runs in .venv, which `make venv` fills with exact, hashed versions.
#   PYTHON=python3.11         the interpreter that .venv is made from
#   JDM_FAST_CUDA=0|1         as in setup.py, as are TORCH_CUDA_ARCH_LIST, MAX_JOBS and DEBUG
#   DEMO_ARGS="--data.x DIR"  arguments for `jdm-fast demo`;  PYTEST_ARGS="-k name" for `make test` and `make bench`
#   BENCHMARKS=benchmarks/bench_instance_norm.py  what `make bench` runs instead of everything
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv data data-seasons demo test lint bench static-evidence gpu-check clean

PYTHON ?= python3
BENCHMARKS ?= benchmarks
VENV := .venv
RUN := $(VENV)/bin/python
LOCKS := requirements/lock.txt requirements/nvcc.txt
SOURCES := $(shell find csrc -type f) setup.py jdm_fast/_toolchain.py
CPP_FILES = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inl')

export MAX_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# Two architectures keep the build short: code for 8.0 runs on every 8.x, code for 9.0a on Hopper. With a GPU at hand
# setup.py compiles for that one.
ifeq ($(origin TORCH_CUDA_ARCH_LIST)$(shell nvidia-smi -L 2>/dev/null | grep GPU),undefined)
export TORCH_CUDA_ARCH_LIST := 8.0;9.0a
endif

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.built ## make .venv with everything in it and build the extension

data: venv ## fetch the real pictures and videos of the tests into the cache folder (nothing if they are there)
	$(VENV)/bin/jdm-fast data fetch earth videos photos fashion-mnist

data-seasons: venv ## fetch summer and winter textures of the same ground into the cache folder (downloads 1.3 GB)
	$(VENV)/bin/jdm-fast data fetch seasons

demo: venv ## train on the whole Earth and make a two-domain video (DEMO_ARGS=...)
	$(VENV)/bin/jdm-fast demo $(DEMO_ARGS)

test: venv data ## run the whole test suite (PYTEST_ARGS=...)
	$(RUN) -m pytest -q $(PYTEST_ARGS)

lint: venv ## check the style of Python, C++ and CUDA
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

bench: venv ## run the benchmarks and print ratios (PYTEST_ARGS=...)
	@mkdir -p benchmarks/results/local
	$(RUN) -m pytest $(BENCHMARKS) -q --benchmark-only --benchmark-columns=median,iqr,rounds \
	--benchmark-json=benchmarks/results/local/$$(date +%Y%m%d-%H%M%S).json $(PYTEST_ARGS)

static-evidence: venv ## write docs/kernels_static.md: registers, local memory and widths of accesses of every CUDA kernel
	$(RUN) -m benchmarks.static_evidence

# Without .venv, an interpreter that has PyTorch and pytest serves as it is: a GPU machine may have no network.
gpu-check: ## with a GPU: build, test, sanitize, benchmark, write results; without: the emulated kernels' tests
	@if [ ! -e $(VENV)/.built ] && $(PYTHON) -c "import torch, pytest, pybind11" 2>/dev/null; \
	then $(PYTHON) benchmarks/gpu_check.py; \
	else $(MAKE) --no-print-directory venv && $(RUN) benchmarks/gpu_check.py; fi

clean: ## remove what was built (.venv and runs stay)
	rm -rf build *.egg-info jdm_fast/_C*.so $(VENV)/.built .pytest_cache .ruff_cache
	find jdm_fast tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "jdm_fast needs Python 3.10 or newer: make venv PYTHON=python3.11"; exit 1; }
	@[ -x $(RUN) ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	echo "This Python cannot make virtual environments (Debian, Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "Installing PyTorch and the other packages into $(VENV) (2 to 3 GB to download the first time) ..."
	@$(RUN) -m pip install -q --no-compile --disable-pip-version-check --require-hashes -r requirements/lock.txt
	@[ "$$JDM_FAST_CUDA" = 0 ] || $(RUN) -c 'import sys, torch; from jdm_fast._toolchain import find_cuda; \
	sys.exit(not (torch.version.cuda is None or find_cuda(torch.version.cuda)[0]))' || { \
	echo "No CUDA compiler here: installing NVIDIA's from Python wheels ..."; \
	$(RUN) -m pip install -q --no-compile --disable-pip-version-check --require-hashes -r requirements/nvcc.txt; }
	@JDM_FAST_EXTENSION=0 $(RUN) -m pip install -q --no-compile --disable-pip-version-check --no-deps \
	--no-build-isolation -e .
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	@set -o pipefail; $(RUN) setup.py -q build_ext --inplace 2>&1 | \
	sed -uE 's|^(\[[0-9]+/[0-9]+\]).* -c -c [^ ]*/(csrc/[^ ]*).*|\1 \2|'
	@touch $@
