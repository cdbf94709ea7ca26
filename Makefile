# make demo        boots Debian's kernel to a shell on this terminal
# make test        style, types and tests; about 16 minutes on 2 cores
# make mutants     plants faults in our devices and counts what the conformance kit finds; hours
# make bench       measures ours beside its peers and writes docs/performance.md; an hour or more
# make test-long   the tests that take longer than that
# make venv        sets up .venv; the others do it by themselves
# make clean       removes what was built; downloaded packages and measurements stay in .cache

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON_IN_VENV := $(VENV)/bin/python
PYTEST := $(PYTHON_IN_VENV) -m pytest
STAMP := $(VENV)/.set-up

DISTRIBUTIONS := vbox_pdm vbox_vmm $(patsubst %/,%,$(dir $(wildcard plugins/*/pyproject.toml)))
# What others might have written: checked here, and installed by its tests alone.
EXAMPLES := $(patsubst %/,%,$(dir $(wildcard examples/*/pyproject.toml)))
PACKAGES := $(foreach each,$(DISTRIBUTIONS) $(EXAMPLES),$(notdir $(patsubst %/__init__.py,%,$(wildcard $(each)/src/*/__init__.py))))
# Whatever an installation is made of; sources in Python are used where they lie.
SET_UP_BY := scripts/setup.sh requirements-dev.txt vbox_vmm/setup.py \
  $(wildcard $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))) \
  $(wildcard vbox_vmm/src/vbox_vmm/*.c vbox_vmm/src/vbox_vmm/rem/native/*.[ch])

empty :=
space := $(empty) $(empty)
export MYPYPATH := $(subst $(space),:,$(addsuffix /src,$(DISTRIBUTIONS) $(EXAMPLES)) scripts benchmarks)

.PHONY: demo test test-long lint types core plugins-bench plugins-kernel conformance machines mutants bench venv clean

demo: venv
	@$(PYTHON_IN_VENV) scripts/demo.py

# Two things at a time: guests on one core, the rest on the other.
test: venv
	$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target \
	  machines lint types core plugins-bench plugins-kernel conformance

lint: venv
	$(PYTHON_IN_VENV) -m ruff check --output-format concise
	$(PYTHON_IN_VENV) -m ruff format --check

types: venv
	$(PYTHON_IN_VENV) -m mypy --strict $(addprefix -p ,$(PACKAGES)) -p mutants
	$(PYTHON_IN_VENV) -m mypy --strict $(wildcard scripts/*.py) $(wildcard benchmarks/*.py)

core: venv
	$(PYTEST) -m "not long" vbox_pdm vbox_vmm

# Every device twice: on the bench without a CPU, and on the real kernel.
plugins-bench: venv
	$(PYTEST) -m "not long" plugins

plugins-kernel: venv
	$(PYTEST) -m "not long" plugins --vbox-bench kernel

conformance: venv
	$(PYTHON_IN_VENV) -m vbox_pdm.testing.conformance all

machines: venv
	$(PYTEST) -m "not long" tests

# No test need be long: pytest's status 5 is that it found none.
test-long: venv
	$(PYTEST) -m long --timeout 3600 vbox_pdm vbox_vmm plugins tests || [ $$? = 5 ]

# Beside QEMU, on a machine that does nothing else; writes docs/performance.md.
bench: venv
	$(PYTHON_IN_VENV) benchmarks/performance.py

mutants: venv
	PYTHONPATH=scripts $(PYTHON_IN_VENV) -m mutants

venv: $(STAMP)

$(STAMP): $(SET_UP_BY)
	bash scripts/setup.sh $(VENV)

clean:
	rm -rf $(VENV) .cache/apt .cache/media .cache/tiny .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf $(foreach each,$(DISTRIBUTIONS) $(EXAMPLES),$(each)/build $(each)/dist $(wildcard $(each)/src/*.egg-info))
	find $(DISTRIBUTIONS) examples tests scripts docs -name __pycache__ -prune -exec rm -rf {} +
	find $(DISTRIBUTIONS) -name '*.so' -delete
