# make setup   everything installed and built, nothing twice
# make app     the same, the default model fetched, and the dashboard opened on 127.0.0.1:8501
# make test    the same, then lint, types and every test
# make gpu-check   on a machine with a GPU: the CUDA operators tested, checked and timed, within 8 minutes
#
# With a GPU:  make setup TORCH_INDEX=<the index URL that PyTorch's install page names for your CUDA version>
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PORT ?= 8501

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: setup app test gpu-check lint format clean

setup: $(VENV)/.built

$(VENV)/.torch:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); install Python 3.10 to 3.13 (make PYTHON=... names another)."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) is not Python 3.10 to 3.13; name one that is: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < 4 << 30)' || { echo "Less than 4 GB of disk space is free here; free some and run make again."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; install it (on Debian: apt-get install python3-venv)."; exit 2; }
	$(PIP) install -q "$(TORCH)" $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") || { echo "torch could not be installed; check the network (and TORCH_INDEX, if set) and run make again."; exit 2; }
	@touch $@

$(VENV)/.requirements: $(VENV)/.torch requirements.txt requirements-dev.txt
	$(PIP) install -q -r requirements-dev.txt || { echo "The requirements could not be installed; check the network and run make again."; exit 2; }
	@touch $@

$(VENV)/.built: $(VENV)/.requirements $(SOURCES)
	@command -v $${CXX:-g++} >/dev/null || { echo "There is no C++ compiler; install one (on Debian: apt-get install g++) and run make again."; exit 2; }
	$(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $@

app: setup
	$(BIN)/dsae models fetch smollm2-135m
	$(BIN)/dsae app --port $(PORT)

test: setup lint
	$(BIN)/dsae models fetch smollm2-135m
	$(BIN)/pytest

gpu-check: setup
	$(BIN)/python benchmarks/gpu_check.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info dsae_core/*.so $(VENV)
