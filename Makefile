# Everything from a bare clone: `make test`, `make reproduce`, `make lab`. Needs Python 3.11+, git and make.
# Run `make` for the list of targets. Recipes call the library; what a notebook depends on: indus_lib/fingerprint.py.

PROFILE ?= tiny
SEEDS ?= 1
TIMEOUT ?= $(if $(filter qwen3-vl-8b,$(PROFILE)),2419200,14400)
PYTHON ?= python3
WORKERS ?= 2
INDEX_URL ?=
PIP_ARGS ?=
LAB_ARGS ?=

PROFILES := smoke tiny qwen3-vl-8b
ifneq ($(words $(PROFILE))$(filter $(PROFILE),$(PROFILES)),1$(PROFILE))
$(error unknown PROFILE '$(PROFILE)': choose one of $(PROFILES))
endif
ifneq ($(shell echo '$(SEEDS)' | grep -cx '[1-9][0-9]*'),1)
$(error SEEDS='$(SEEDS)': give a number from 1 up)
endif

# `make PY=python ...` uses the environment that is active (conda: environment.yml) instead of making .venv
ifeq ($(origin PY),command line)
ENV :=
else
PY := .venv/bin/python
ENV := .venv/.stamp
endif

NAMES := $(basename $(notdir $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))))
OUT := results/$(PROFILE)/notebooks
INPUTS := results/$(PROFILE)/.inputs
DONE := $(NAMES:%=$(OUT)/%.ipynb)
WORLD := data/generated/.$(PROFILE).done

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help env lab test check reproduce world base-model bench lock notebooks-strip clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PROFILE=smoke|tiny|qwen3-vl-8b ($(PROFILE))   SEEDS=1   TIMEOUT=seconds for a cell   PYTHON=python3"
	@echo "  INDEX_URL=URL: one more package index, for CPU-only torch say   PY=python: the active environment, no .venv"

env: $(ENV) ## install the locked environment into .venv and register the notebook kernel

lab: $(ENV) ## JupyterLab on the notebooks, with the right kernel
	$(PY) -m jupyterlab --ServerApp.root_dir='$(CURDIR)' --MultiKernelManager.default_kernel_name=indus \
	  --LabApp.default_url=/lab/tree/notebooks/$(firstword $(NAMES)).ipynb $(LAB_ARGS)

test: check ## lint, lock and notebook checks, then all tests (every notebook at smoke scale among them)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

check: $(ENV) ## ruff, stripped notebooks, lock file
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(if $(NAMES),$(PY) -m nbstripout --keep-id --verify $(NAMES:%=notebooks/%.ipynb))
	$(PY) scripts/lock.py --check

reproduce: $(DONE) ## run every notebook that is out of date; tables, figures and copies go to results/PROFILE
	@$(if $(DONE),echo "complete: results/$(PROFILE)",echo "make: no notebooks/NN_*.ipynb to run" >&2; exit 1)

world: $(WORLD) ## make the profile's generated data sets, or check that the real ones are there

base-model: $(ENV) ## train indus-tiny's base weights again from nothing (ten minutes on a GPU, days on 2 cores)
	$(PY) -m indus_lib base-model

bench: $(ENV) ## how fast factory, tools, model and loop are on this machine
	$(PY) scripts/bench.py

lock: $(ENV) ## write requirements.lock and environment.yml from .venv and pyproject.toml
	$(PY) scripts/lock.py

notebooks-strip: $(ENV) ## take outputs out of the notebooks
	$(PY) -m nbstripout --keep-id $(NAMES:%=notebooks/%.ipynb)

clean: ## remove what was generated; keeps data/raw, results/reference and .venv
	rm -rf data/generated .pytest_cache .ruff_cache .hypothesis
	find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +
	find indus_lib tests scripts -name __pycache__ -type d -exec rm -rf {} +

# ---- the environment -------------------------------------------------------------------------------------------------
.venv/.stamp: requirements.lock
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) lacks venv: install python3-venv" >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing $$(grep -c == requirements.lock) packages into .venv, once; about two minutes"
	.venv/bin/python -m pip install -q --disable-pip-version-check $(if $(INDEX_URL),--extra-index-url $(INDEX_URL)) $(PIP_ARGS) -r requirements.lock
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv/bin/python -c 'from indus_lib.notebook_runs import install_kernel; install_kernel()'
	@touch $@

# ---- the notebooks: each depends on the fingerprint of its own inputs and on the copies of those before it ----------------
$(INPUTS)/%.sha256: FORCE | $(ENV)
	@$(PY) -m indus_lib.fingerprint --out $@ $(if $(filter world,$*),indus_lib/worlds.py,notebooks/$*.ipynb) profile=$(PROFILE) seeds=$(SEEDS)

$(OUT)/%.ipynb: $(INPUTS)/%.sha256 | $(ENV)
	$(PY) -m indus_lib.notebook_runs notebooks/$*.ipynb --profile $(PROFILE) --seeds $(SEEDS) --timeout $(TIMEOUT)

$(WORLD): $(INPUTS)/world.sha256 | $(ENV)
	$(PY) -m indus_lib world --profile $(PROFILE)
	@mkdir -p $(@D) && touch $@

numbered = $(filter $(OUT)/$(1)_%,$(DONE))
after = $(if $(call numbered,$(1)),$(eval $(call numbered,$(1)): $(foreach n,$(2),$(call numbered,$(n))) $(3)))
$(call after,02,01,$(WORLD))
$(call after,03,02)
$(call after,04,03)
$(call after,05,04)
$(call after,06,04 05)
$(call after,07,06)
.SECONDARY:
