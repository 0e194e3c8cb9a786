# make setup   everything installed and built, nothing twice
# make app     the same, the default model fetched, and the dashboard opened on 127.0.0.1:8501
# make test    the same, then lint, types and every test
# make fuzz    bad input, guided by coverage, on every reader and operator (FUZZ_INPUTS each; what breaks one is kept
#              in FUZZ_FINDINGS)
# make trust   every promise of docs/reliability.md proven again, which takes long; writes that file
# make docs    the API reference, from docstrings, into docs/api
# make audit   known vulnerabilities of what is installed; exit code 3 where the service that knows does not answer
# make golden  the scores that the tests compare with, written anew: for a change that is meant
# make gpu-check   on a machine with a GPU: the CUDA operators tested, checked and timed, within 8 minutes
#
# Without a C++ compiler, or with DSAE_BUILD=0, the package is pure Python: the same results, slower.
# With a GPU:  make setup TORCH_INDEX=<the index URL that PyTorch's install page names for your CUDA version>
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
AUDIT ?= pip-audit==2.10.1
PORT ?= 8501
FUZZ_INPUTS ?= 100000
FUZZ_FINDINGS ?= build/fuzz

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(shell find csrc -type f -not -name '*.pyc' 2>/dev/null)
COMPILER := $(if $(filter 0,$(DSAE_BUILD)),,$(shell for name in $$CXX c++ g++ clang++; do command -v $$name; done; true))
BUILT := $(VENV)/$(if $(COMPILER),.built,.built-pure)

.PHONY: setup runtime app test trust docs audit audit-tool fuzz golden gpu-check lint format clean

setup: $(BUILT)

$(VENV)/.torch:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); install Python 3.11 to 3.13 (make PYTHON=... names another)."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < 4 << 30)' || { echo "Less than 4 GB of disk space is free here; free some and run make again."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; install it (on Debian: apt-get install python3-venv)."; exit 2; }
	$(PIP) install -q "$(TORCH)" $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") || { echo "torch could not be installed; check the network (and TORCH_INDEX, if set) and run make again."; exit 2; }
	@touch $@

# What the package runs with, and no more; the Dockerfile asks for it.
runtime: $(VENV)/.torch requirements.txt
	$(PIP) install -q -r requirements.txt || { echo "The requirements could not be installed; check the network and run make again."; exit 2; }

$(VENV)/.requirements: $(VENV)/.torch requirements.txt requirements-dev.txt
	$(PIP) install -q -r requirements-dev.txt || { echo "The requirements could not be installed; check the network and run make again."; exit 2; }
	@touch $@

$(BUILT): $(VENV)/.requirements $(SOURCES)
	$(PIP) install -q --no-build-isolation --no-deps -e .
	@$(if $(COMPILER),,echo "Without a C++ compiler: the operators run in plain torch, with the same results but slower. Install one (on Debian: apt-get install g++) and run make again.")
	@touch $@

app: setup
	$(BIN)/dsae models fetch smollm2-135m
	$(BIN)/dsae app --port $(PORT)

test: setup lint
	$(BIN)/dsae models fetch smollm2-135m
	$(BIN)/pytest

trust: setup
	$(BIN)/dsae models fetch smollm2-135m
	-@$(MAKE) --no-print-directory audit-tool
	$(BIN)/python benchmarks/trust.py --audit $(VENV)/audit/bin/pip-audit $(TRUST)

docs: setup
	$(BIN)/python docs/build_api.py

# pip-audit has an environment of its own, so that its needs do not change the versions that are audited.
audit: audit-tool
	@$(BIN)/python benchmarks/trust_audit.py $(VENV)/audit/bin/pip-audit

audit-tool: setup
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip --disable-pip-version-check install -q $(AUDIT) || { echo "pip-audit could not be installed; check the network and run make again."; exit 3; }

golden: setup
	$(BIN)/dsae models fetch smollm2-135m
	$(BIN)/python benchmarks/golden.py

gpu-check: setup
	$(BIN)/python benchmarks/gpu_check.py

fuzz: setup
	$(BIN)/python -m fuzz all --inputs $(FUZZ_INPUTS) --findings $(FUZZ_FINDINGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info dsae_core/*.so $(VENV)
