# Everything that a person or CI runs, from a bare checkout: Python 3.11 or newer with its headers, and a C compiler.
# `make` alone lists the targets. ARGS="..." is handed on to run, test and bench.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
SOURCES := $(wildcard engine/*.pyx engine/*.pxd engine/fastpath/*)
PROTOS  := $(wildcard protos/scada/v1/*.proto)
CHECKED := engine workers bench fuzz tests setup.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test crash lint format build bench fuzz protos venv constraints clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.ready-run $(VENV)/.built ## Set everything up, then show readings arriving, live; Ctrl-C stops it
	@$(BIN)/scada-engine demo $(ARGS)

test: $(VENV)/.ready-dev $(VENV)/.built ## Set up what is missing, then run all tests against real servers
	@$(BIN)/python -m pytest $(ARGS)

crash: $(VENV)/.ready-dev $(VENV)/.built ## Kill, cut and fill everything under load for up to 10 minutes; nothing may be lost
	@$(BIN)/python -m pytest -n 0 -q --session-timeout=600 tests/crash $(ARGS)

lint: $(VENV)/.ready-dev $(VENV)/.built ## Check style, types, Cython and that the generated gRPC code is current
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo 'run `make format`' >&2; exit 1; }
	@$(BIN)/mypy engine workers bench fuzz tests
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint engine
	@$(BIN)/python protos/generate.py --check

format: $(VENV)/.ready-dev ## Rewrite the Python files in the house's style
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

build: $(VENV)/.built ## Compile engine/_fastpath where it stands

bench: $(VENV)/.ready-dev $(VENV)/.built ## Measure every claim; one only: make bench ARGS="decode --json"
	@$(BIN)/python -m bench $(or $(ARGS),all)

fuzz: $(VENV)/.ready-dev ## Fuzz each decoder for a minute under AddressSanitizer (needs clang); ARGS="publish --seconds 600"
	@$(BIN)/python -c 'import atheris' 2> /dev/null || $(call install,--editable '.[fuzz]')
	@$(BIN)/python -m fuzz $(or $(ARGS),all)

protos: $(VENV)/.ready-dev ## Generate the gRPC code from protos/scada/v1/*.proto
	@$(BIN)/python protos/generate.py

venv: $(VENV)/.ready-dev ## Make the virtual environment with everything for development

constraints: $(VENV)/.ready-dev ## Pin what is installed now in constraints.txt
	@{ echo '# Exact versions of everything, direct or not. Written by `make constraints`; used by every pip install here.'; \
	   $(PIP) freeze --all --exclude-editable --exclude pip; } > constraints.txt

clean: ## Remove what was built (not .venv, not the demo's data in .scada)
	@rm -rf build dist *.egg-info engine/_fastpath*.so engine/_fastpath.c engine/_fastpath.html $(VENV)/.built
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find engine workers bench tests protos migrations -name __pycache__ -type d -prune -exec rm -rf {} +

# The Python that makes the environment must be able to do everything that follows; else say what to install.
define CHECK_PYTHON
import os, shutil, sys, sysconfig
def need(fits, what):
    if not fits:
        sys.exit("scada-engine needs " + what)
need(sys.version_info >= (3, 11), "Python 3.11 or newer, and %s is %s. Name another: make PYTHON=/path/to/python3.12"
     % (sys.executable, sys.version.split()[0]))
try:
    import ensurepip, venv
except ImportError:
    need(False, "the modules venv and ensurepip. On Debian and Ubuntu: apt install python3-venv")
compiler = os.environ.get("CC", "").split()[:1] or ["gcc", "cc", "clang"]
need(any(map(shutil.which, compiler)), "a C compiler. On Debian and Ubuntu: apt install gcc")
need(os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
     "the headers of Python (Python.h). On Debian and Ubuntu: apt install python3-dev")
endef
export CHECK_PYTHON

# pip says much: on a terminal one line that changes is enough, and all of it only when it fails. Modules are compiled
# when they are first imported, most never are: that saves half of the time.
define SHOW_PROGRESS
import sys
said, packages, status = [], 0, 1
def show(text):
    if sys.stdout.isatty():
        print("\r\033[K" + text, end="", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "Collecting":
        packages += 1
        show("  %d packages: %s" % (packages, rest.split(" ")[0]))
    elif line.startswith("Installing collected"):
        show("  installing %d packages" % packages)
    elif line.startswith("  Building editable"):
        show("  compiling the extension")
    elif line.startswith("pip ended with"):
        status = int(line.split()[-1])
    said.append(line)
show("")
if status:
    sys.stderr.writelines(said)
sys.exit(status)
endef
export SHOW_PROGRESS
install = { PYTHONUNBUFFERED=1 $(PIP) install --no-compile --constraint constraints.txt --no-build-isolation $(1) 2>&1; \
	echo "pip ended with $$?"; } | $(BIN)/python -c "$$SHOW_PROGRESS"

# In a variable, because a comma would end the argument of `call`.
FOR_DEVELOPMENT := '.[embedded,dev]'

# Compiling asyncua's large modules leaves 40 MB behind in the process that does it: here it is a short-lived one.
warm = $(BIN)/python -c 'import workers.ingest'

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo 'scada-engine needs Python 3.11 or newer: $(PYTHON) is not there' >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo 'setting up, once: a virtual environment in $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# Cython and setuptools are installed first and for good, so that a later build needs no network.
$(VENV)/.ready-build: constraints.txt | $(BIN)/python
	@$(call install,setuptools Cython)
	@touch $@

$(VENV)/.ready-run: pyproject.toml setup.py constraints.txt | $(VENV)/.ready-build
	@echo 'setting up, once: packages for running, and the compiled extension (a minute or two)'
	@$(call install,--editable '.[embedded]')
	@$(warm)
	@touch $@

$(VENV)/.ready-dev: pyproject.toml setup.py constraints.txt | $(VENV)/.ready-build
	@echo 'setting up, once: packages for running and development, and the compiled extension (a minute or two)'
	@$(call install,--editable $(FOR_DEVELOPMENT))
	@$(warm)
	@touch $(VENV)/.ready-run $@

# The installation above has built it already; after a change of the sources it is built again.
$(VENV)/.built: $(SOURCES) setup.py | $(VENV)/.ready-run
	@so=$$(ls engine/_fastpath.*.so 2> /dev/null) && [ -z "$$(find $^ -newer "$$so")" ] \
		|| { echo 'compiling engine/_fastpath'; $(BIN)/python setup.py --quiet build_ext --inplace; }
	@touch $@
