# Everything runs in VENV, which the first target that needs it makes.
#   PYTHON=python3.12 make test      another Python
#   JOBS=8 make test                  so many tests at once; 0 is one after the other, here
#   ARGS="-k name" make test         arguments for pytest, the benchmark or the demo

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Twice the cores of a small machine: half of the time a test waits for processes.
JOBS   ?= 4
# What `make test-all` makes on every Python.
EACH   ?= test

PY      := $(VENV)/bin/python
READY   := $(VENV)/.ready
PEERS_VENV := .venvs/peers
PEERS   := $(PEERS_VENV)/.ready
PYRIGHT := $(VENV)/.pyright
VERSIONS := 3.11 3.12 3.13

# What exists of it: a checker or pytest refuses a path that is not there.
SOURCES := $(wildcard noex_mp tests bench examples typings)
FAST    := $(wildcard tests/core tests/wire tests/supervision tests/client tests/services tests/testing tests/bench \
             tests/test_architecture.py tests/test_exports.py)

# One block of output per checker where make can do that (macOS ships an old one).
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# Pyright's look for news of itself goes out to the network; a check should not.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# Where a machine sets it, each of the thousand processes that the tests start would compile all
# of noex-mp anew: it doubles the time of the tests.
unexport PYTHONDONTWRITEBYTECODE

# Before an environment is made: whether this Python can make one.
define CHECK_PYTHON
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no $(PYTHON) here. noex-mp needs Python 3.11 or later; on Debian: apt install python3 python3-venv" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "noex-mp needs Python 3.11 or later; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module. On Debian: apt install $(notdir $(PYTHON))-venv" >&2; \
	  exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-fallbacks check format chaos bench bench-peers bench-faults clean \
        check-format check-lint check-mypy check-pyright check-tests

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | awk -F'\t' '{printf "make %-14s %s\n", $$1, $$2}'

test-fallbacks: $(READY) ## run the tests of processes and faults with what macOS has
	@NOEX_MP_FALLBACKS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal tests/processes tests/faults $(ARGS)

demo: $(READY) ## run the example application and kill one of its workers
	@$(PY) -m examples.codeindex.demo $(ARGS)

test: $(READY) ## run all tests
	@$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-all: ## run all tests on every supported Python
	@failed=; for version in $(VERSIONS); do \
	  python=; \
	  for candidate in python$$version "$$HOME"/.pyenv/versions/$$version.*/bin/python; do \
	    if "$$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" \
	         2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "Python $$version: not found; install it (python$$version and python$$version-venv)" >&2; \
	    failed="$$failed $$version"; continue; \
	  fi; \
	  echo "Python $$version: $$python"; \
	  $(MAKE) --no-print-directory $(EACH) VENV=.venvs/$$version PYTHON="$$python" \
	    || failed="$$failed $$version"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed on Python:$$failed" >&2; exit 1; fi

conformance: ## run CPython's own tests of its process pool against ours, on every supported Python
	@$(MAKE) --no-print-directory test-all EACH=conformance-here

conformance-here: $(READY)
	@$(PY) -m tests.conformance $(ARGS)

# Two at once: pyright, which comes first, takes longer than all others together, and a core of its
# own makes it as fast as it gets.
check: $(READY) $(PYRIGHT) ## format, lint, types and fast tests, all at once
	@$(MAKE) --no-print-directory --jobs=2 --keep-going $(SYNC) \
	  check-pyright check-mypy check-tests check-format check-lint
	@echo "check: all good"

check-format: $(READY)
	@echo "== ruff format"; $(PY) -m ruff format --check --quiet --diff $(SOURCES)

check-lint: $(READY)
	@echo "== ruff check"; $(PY) -m ruff check --quiet $(SOURCES)

check-mypy: $(READY)
	@echo "== mypy"; $(PY) -m mypy $(SOURCES)
	@echo "== mypy, as on macOS"; $(PY) -m mypy --platform darwin --cache-dir .mypy_cache/macos noex_mp

check-pyright: $(READY) $(PYRIGHT)
	@echo "== pyright"; $(PY) -m pyright --pythonpath $(PY) $(SOURCES)

check-tests: $(READY)
	@echo "== fast tests"; $(PY) -m pytest -q -m "not slow" $(FAST)

format: $(READY) ## format the code
	@$(PY) -m ruff check --fix --quiet $(SOURCES) || true
	@$(PY) -m ruff format --quiet $(SOURCES)

chaos: $(READY) ## kill servers under load for a minute, and say what became of it
	@$(PY) -m tests.chaos $(ARGS)

bench: $(READY) ## measure the runtime and its floors
	@$(PY) -m bench $(ARGS)

# Ray and Dask are large and not built for every Python: without them the table has two rows less.
bench-peers: $(PEERS) ## measure other libraries beside the runtime
	@$(PEERS_VENV)/bin/python -m bench.peers $(ARGS)

bench-faults: $(PEERS) ## what happens to pools, other libraries' and ours, when things go wrong
	@$(PEERS_VENV)/bin/python -m bench.faults $(ARGS)

$(PEERS): pyproject.toml
	$(CHECK_PYTHON)
	@echo "Setting up $(PEERS_VENV) ..."
	@"$(PYTHON)" -m venv "$(PEERS_VENV)"
	@$(PEERS_VENV)/bin/python -m pip install -qq --disable-pip-version-check -e . \
	  xoscar Pyro5 thespian loky
	@for peer in ray distributed; do \
	  $(PEERS_VENV)/bin/python -m pip install -qq --disable-pip-version-check $$peer \
	    || echo "$$peer does not install here"; \
	done
	@touch $@

clean: ## remove the environments and everything built
	@rm -rf .venv .venvs build dist bench/.build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A second try, since a download may just have had a bad moment.
$(READY): pyproject.toml
	$(CHECK_PYTHON)
	@echo "Setting up $(VENV) ..."
	@"$(PYTHON)" -m venv "$(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]' \
	  || { echo "Trying once more ..." >&2; \
	       $(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'; }
	@touch $@

# Pyright is a JavaScript program. The package brings the program; node is taken from PATH, else
# from a package of its own, 60 MB, which therefore is no part of what `make test` installs.
$(PYRIGHT): $(READY)
	@if command -v node >/dev/null && $(PY) -m pyright --version >/dev/null 2>&1; then :; else \
	  echo "Setting up node for pyright ..."; \
	  $(PY) -m pip install -qq --disable-pip-version-check 'pyright[nodejs]' \
	    && $(PY) -m pyright --version >/dev/null; \
	fi || { echo "pyright does not run here: install node (Debian: apt install nodejs), then make check" >&2; exit 1; }
	@touch $@
