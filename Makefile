# Everything sets itself up: a .venv in this folder, made with PYTHON, from the package index alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint format pythons wheel clean
help:
	@echo "make demo    enrol two people, identify a group picture, draw it into demo/"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff rewrite the code"
	@echo "make pythons build a wheel and try it on every Python 3.10 to 3.13 found here"
	@echo "make wheel   build the wheel into dist/"

$(VENV)/demo: pyproject.toml constraints.txt hatch_build.py
	@echo "Setting up $(VENV) with what the demo needs (once; a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e ".[demo]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt hatch_build.py
	@echo "Setting up $(VENV) with what the tests need (once; a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e ".[dev]"
	touch $(VENV)/demo $@

demo: $(VENV)/demo
	$(BIN)/facespace demo --output demo

test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/dev
	$(PIP) build
	$(BIN)/python -m build --outdir dist

pythons: wheel
	scripts/try_pythons.sh dist/facespace-*.whl

clean:
	rm -rf $(VENV) dist build demo
