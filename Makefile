# Every target makes the environment it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint docs clean

quickstart: $(VENV)/ready ## three controls and three students that two of them teach, on the starter corpus, in minutes
	$(BIN)/tutelage run quickstart --workers 2

test: $(VENV)/ready ## everything that matters, in minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/ready ## the same at sizes that take minutes: fuzzing, sixty kinds of models
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check src tests docs examples
	$(BIN)/mypy

docs: $(VENV)/ready ## regenerate docs/recipes.md and docs/study-keys.md from the schemas
	$(BIN)/python docs/make_recipes.py

# torch by itself first: resolving it together with the rest may pick another build.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean: ## remove the environment; runs/ stays
	rm -rf $(VENV)
