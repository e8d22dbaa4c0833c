# Every target makes its own environment in .venv first, from setup.cfg and the pinned set in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow mutants bench bench-check lint docs env clean
env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $@

demo: env
	rm -rf runs/demo
	$(BIN)/pyrarchy fit ladder_vae --out runs/demo

test: env
	$(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS)

# long training; then what checks a Monte Carlo average, a hundred times on the same random numbers and on others
test-slow: env
	$(BIN)/python -m pytest -m slow $(ARGS)
	$(BIN)/python -m pytest -m "stochastic and not slow" --repeat 100 $(ARGS)
	$(BIN)/python -m pytest -m "stochastic and not slow" --repeat 200 --fresh-seeds $(ARGS)

# break the numerical core on purpose, one change at a time, and see that the tests notice
mutants: env
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/mutants/run.py $(ARGS)

lint: env
	$(PIP) --editable '.[lint]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# all timings to docs/benchmarks.* and the README, then the figure; a part, to the terminal only: make bench ARGS="--only vae_20"
bench: env
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m benchmarks.run $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks.scaling)

# a quick part anew (all: make bench-check ARGS=--all): fails where a ratio is more than 15 % worse than the committed one
bench-check: env
	$(PIP) --editable '.[bench]'
	$(BIN)/python -m benchmarks.check $(ARGS)

docs: env
	$(PIP) --editable '.[docs]'
	$(BIN)/python docs/make.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/_generated runs
