# What each target does without make is in README.md. The second use of a target starts in seconds: .venv/.* are stamps.
PYTHON ?= python3
LESSON ?= 01_representations
BIN := .venv/bin
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .venv-uv/bin/uv)
TORCH_FLAG := $(if $(TORCH),--torch-backend $(TORCH))
# Where Python keeps no bytecode, every process would compile PyTorch again.
BYTECODE_FLAG := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
define TORCH_HELP
|| { echo "With TORCH=$(TORCH) PyTorch comes from its makers' own index. Where that cannot be reached: make lab"; exit 1; }
endef
ROOT_FLAG := $(shell test "$$(id -u)" = 0 && echo --allow-root)

.PHONY: help lab edit test test-fast test-slow lint run bench site pdf epub slides home test-colab
.DEFAULT_GOAL := help

help:  ## This list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

lab: .venv/.lab  ## JupyterLab at notebook 01 (or LESSON=06_simclr), in copies that are yours (FRESH=1: new ones)
	@$(BIN)/python -m tools.work $(if $(FRESH),--fresh)
	@echo "JupyterLab starts; open the address below that ends in a token (Ctrl-C twice stops it)."
	$(BIN)/jupyter lab $(ROOT_FLAG) --ServerApp.root_dir=work --LabApp.default_url=/lab/tree/$(LESSON).ipynb

edit: .venv/.lab  ## JupyterLab for authors: saving a notebook also writes its text in notebooks/src
	@$(BIN)/jupyter trust notebooks/*.ipynb notebooks/frontier/*.ipynb >/dev/null  # else JupyterLab strips the sliders out of stored outputs
	$(BIN)/jupyter lab $(ROOT_FLAG) --LabApp.default_url=/lab/tree/notebooks/$(LESSON).ipynb

test: .venv/.test  ## Every check, about an hour on two cores
	$(BIN)/python tests/stages.py

test-fast: .venv/.test  ## What most changes break, in two minutes: lint, house rules, core, notebook 01
	$(BIN)/python tests/stages.py fast

test-slow: .venv/.test  ## Kills, faults, mutants, two minutes of load: half an hour (REPLEARN_RECORD=1 stores results)
	$(BIN)/python -m pytest -q -p no:cacheprovider -m slow tests

lint: .venv/.test  ## Code style and the house rules of the course, in seconds
	$(BIN)/python tests/stages.py lint format course

run: .venv/.lab  ## Execute all notebooks, store their outputs, print seconds and claims held
	$(BIN)/python -m tools.notebooks run

bench: .venv/.test  ## Measure again what suits this machine (half an hour; leave it alone)
	$(BIN)/python benchmarks/run.py

site: .venv/.site  ## Build the site from the stored outputs into _build/html
	$(BIN)/jupyter-book build . -W --keep-going
	@echo "Open _build/html/index.html"

pdf: site  ## The site as one PDF in build/, printed by Chromium
	$(BIN)/python -m tools.book pdf

epub: .venv/.site  ## The site as an EPUB in build/ (npm fetches MathJax once)
	$(BIN)/python -m tools.book epub

slides: .venv/.lab  ## Slides of all lessons into build/slides, from the stored notebooks
	$(BIN)/python -m tools.slides

home: .venv/.lab  ## Give the course an address: make home URL=https://github.com/ACCOUNT/NAME (URL= takes it away)
	$(if $(filter undefined,$(origin URL)),$(error Name the address: make home URL=https://github.com/ACCOUNT/NAME))
	$(BIN)/python -m tools.home "$(URL)"

test-colab: .venv/.lab  ## The lesson layer and three notebooks with the package versions of Colab
	bash tests/colab.sh

# --- the virtual environment ------------------------------------------------------------------------------------------

.venv/.lab .venv/.site .venv/.test: .venv/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(UV) pip install $(BYTECODE_FLAG) $(TORCH_FLAG) --python $(BIN)/python -e ".[$*]" -c constraints.txt $(if $(TORCH),$(TORCH_HELP))
	@touch $@

$(BIN)/python: | $(filter .venv-uv/bin/uv,$(UV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or newer is needed; found $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.11 ..."; exit 1; }
	$(UV) venv --quiet --seed --allow-existing --python $(PYTHON) .venv

# uv into a folder of its own; pip's --target also works where the system's Python is externally managed (PEP 668).
.venv-uv/bin/uv:
	@{ $(PYTHON) -m venv .venv-uv && .venv-uv/bin/python -m pip install --quiet uv; } >/dev/null 2>&1 \
		|| $(PYTHON) -m pip install --quiet --target .venv-uv uv \
		|| { echo "uv could not be installed: Python needs venv or pip (Debian: apt-get install python3-venv)."; exit 1; }
