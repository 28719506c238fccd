# Every target sets itself up: a .venv in this folder, created with PYTHON, with packages from the package index only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python scripts/install.py -c constraints.txt
SETUP := pyproject.toml constraints.txt hatch_build.py scripts/install.py
# The tests start hundreds of processes, each of which would compile every module again without bytecode files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint docs format bench pythons wheel clean
help:
	@echo "make demo    enrol two people, identify a group picture, write it into demo/"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make docs    build the documentation into docs/_build/html; warnings are errors"
	@echo "make format  format the code with ruff"
	@echo "make bench   this project and its peers side by side; SHARED=DIR contains the photos (about 25 minutes; an hour the first time)"
	@echo "make pythons build a wheel and try it on every Python 3.10 to 3.13 found here"
	@echo "make wheel   build the wheel into dist/"

$(VENV)/demo: $(SETUP)
	@echo "Setting up $(VENV) with what the demo needs (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[demo]"
	touch $@

$(VENV)/dev: $(SETUP)
	@echo "Setting up $(VENV) with what the tests need (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[dev]"
	touch $(VENV)/demo $@

# The API reference is read from the modules, so it needs the packages that they import.
$(VENV)/docs: $(SETUP)
	@echo "Setting up $(VENV) with what the documentation needs (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[dev,docs]"
	touch $(VENV)/demo $(VENV)/dev $@

# PostgreSQL, Playwright, Ray and an S3 service: tests that need them are skipped without them, except under CI.
$(VENV)/ci: $(SETUP)
	@echo "Setting up $(VENV) with what CI needs (once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e ".[ci,docs]"
	touch $(VENV)/demo $(VENV)/dev $(VENV)/docs $@

demo: $(VENV)/demo
	$(BIN)/facespace demo --output demo

# On two cores three processes are faster than two: a fifth of the time a test waits for another process or a time-out.
test: $(VENV)/dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d docs/_build/doctrees . docs/_build/html
	@echo "Open docs/_build/html/index.html"

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Peers whose weights are not in a package need PEER_MODELS=DIR; BENCH_HOME=DIR is the folder of the environments.
SHARED ?= ../shared
bench: $(VENV)/dev
	$(BIN)/python benchmarks/bench.py --shared $(SHARED); code=$$?; $(BIN)/python benchmarks/bench_picture.py && exit $$code

wheel: $(VENV)/dev
	$(INSTALL) build
	$(BIN)/python -m build --outdir dist

pythons: wheel
	scripts/try_pythons.sh dist/facespace-*.whl

clean:
	rm -rf $(VENV) .bench dist build demo docs/_build docs/api
