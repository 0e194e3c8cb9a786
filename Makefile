# make app     installed and built what runs, nothing twice; the default model fetched, the dashboard opened on
#              127.0.0.1:8501 (PORT=... names another port)
# make setup   installed and built what runs, and the tools of all that follows
# make test    the same, then lint, types and every test
# make fuzz    bad input, guided by coverage, on every reader and operator (FUZZ_INPUTS each; what breaks one is kept
#              in FUZZ_FINDINGS)
# make trust   every promise of docs/reliability.md proven again, which takes long; writes that file
# make docs    the API reference, from docstrings, into docs/api
# make audit   known vulnerabilities of what is installed; exit code 3 where the service that knows does not answer
# make golden  the scores that the tests compare with, written anew: for a change that is meant
# make gpu-check   on a machine with a GPU: the CUDA operators built, then tested, checked and timed in 7 minutes
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
GOALS := $(or $(MAKECMDGOALS),setup)
STEPS := $(if $(filter test trust golden,$(GOALS)),5,$(if $(filter-out runtime,$(GOALS)),4,2))
FETCH_MODEL = echo "$(STEPS)/$(STEPS) the model, unless it is here (0.1 GB to fetch, 0.5 GB on disk)" && $(BIN)/dsae models fetch smollm2-135m

.PHONY: setup runtime app test trust docs audit audit-tool fuzz golden gpu-check lint format clean

setup: $(BUILT) $(VENV)/.tools

$(VENV)/.torch:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); install Python 3.11 to 3.13 (make PYTHON=... names another)."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < 4 << 30)' || { echo "Less than 4 GB of disk space is free here; free some and run make again."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; install it (on Debian: apt-get install python3-venv)."; exit 2; }
	@echo "1/$(STEPS) torch (1 to 2 min; longer where it brings CUDA libraries along)"
	@$(PIP) install -q "$(TORCH)" $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") || { echo "torch could not be installed; check the network (and TORCH_INDEX, if set) and run make again."; exit 2; }
	@touch $@

# What the package runs with, and no more; the Dockerfile asks for it.
runtime: $(VENV)/.requirements

$(VENV)/.requirements: $(VENV)/.torch requirements.txt
	@echo "2/$(STEPS) requirements (about 1 min)"
	@$(PIP) install -q -r requirements.txt || { echo "The requirements could not be installed; check the network and run make again."; exit 2; }
	@touch $@

$(BUILT): $(VENV)/.requirements $(SOURCES)
	@echo "3/$(STEPS) $(if $(COMPILER),compiling the operators (1 to 3 min; DSAE_BUILD=0 skips it),the package with nothing compiled)"
	@$(PIP) install -q --no-build-isolation --no-deps -e .
	@$(if $(COMPILER),,echo "Without a C++ compiler: the operators run in plain torch, with the same results but slower. Install one (on Debian: apt-get install g++) and run make again.")
	@touch $@

$(VENV)/.tools: $(VENV)/.requirements requirements-dev.txt | $(BUILT)
	@echo "4/$(STEPS) tools for tests"
	@$(PIP) install -q -r requirements-dev.txt || { echo "The tools for tests could not be installed; check the network and run make again."; exit 2; }
	@touch $@

app: $(BUILT)
	@$(FETCH_MODEL)
	@$(BIN)/dsae app --port $(PORT)

test: setup lint
	@$(FETCH_MODEL)
	$(BIN)/pytest

trust: setup
	@$(FETCH_MODEL)
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
	@$(FETCH_MODEL)
	$(BIN)/python benchmarks/golden.py

# Where Python has a torch for CUDA already, that is built for and used, and nothing is fetched.
gpu-check:
	@if [ ! -e $(VENV)/.torch ] && $(PYTHON) -c 'import sys, torch; sys.exit(torch.version.cuda is None)' 2>/dev/null; then \
	  DSAE_CUDA=1 $(PYTHON) -m pip --disable-pip-version-check install -q --no-build-isolation --no-deps -e . && \
	  $(PYTHON) benchmarks/gpu_check.py; \
	else $(MAKE) --no-print-directory setup && $(BIN)/python benchmarks/gpu_check.py; fi

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
