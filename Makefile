# `make demo` and `make test` set up .venv and need only Python 3.11 or newer, make and a package index.
# `make demo TORCH=cpu` takes PyTorch's CPU build, which spares a machine without a GPU gigabytes of CUDA libraries.

PYTHON ?= python3
TORCH ?=
VENV := .venv
READY := $(VENV)/.ready
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test check docs clean
demo: $(READY)
	$(VENV)/bin/compress run resnet18 --prune 0.5 --int8

test: $(READY)
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(READY)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("compress needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --index-url $(CPU_INDEX) torch
endif
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV)
