# make demo: train, sample and score a small model in minutes. make test: everything that is checked.
# Both set up .venv by themselves; PYTHON=python3.12 chooses the interpreter, VENV=path an environment of your own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo
SEEDS ?= 0-499

.PHONY: demo test lint setup clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt "pytest>=8,<10" "pytest-xdist>=3.6,<4" "ruff>=0.8,<1" "import-linter>=2.1,<3" "diffusers>=0.30,<1"
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal --durations=15

demo: setup
	PATH="$(abspath $(BIN)):$$PATH" bash demo.sh $(OUT) $(SEEDS)

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .ruff_cache
