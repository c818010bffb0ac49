# `make demo` pretrains an encoder, `make test` checks everything; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links --extra dev

ifeq ($(DATA),)
DEMO := digits
else ifeq ($(DATA),cifar10)
DEMO := cifar10
else
DEMO := images --name "images-$(notdir $(patsubst %/,%,$(DATA)))" --data.train "$(DATA)"
endif

export RAY_USAGE_STATS_ENABLED = 0

# The environment for V100s, whose torch is the last with code for them.
VOLTA := .venv-volta
VOLTA_STAMP := $(VOLTA)/.installed

# pip-audit's own environment: what it needs is no part of what it audits.
AUDIT := .venv-audit
AUDIT_STAMP := $(AUDIT)/.installed

# What runs by other code on a GPU; there, its kernels are stood in for by references.
BRANCHES := tests/methods tests/model tests/objective tests/optim tests/distributed tests/gpu tests/training/test_loop.py \
  tests/training/test_learners.py --ignore tests/model/test_pretrained.py

# Tests whose results hang on how a CPU computes.
NUMERIC := tests/data/stream tests/data/views tests/evaluation tests/model tests/objective \
  tests/optim tests/training/test_loop.py --ignore tests/data/stream/test_broken_images.py \
  --ignore tests/model/test_pretrained.py

# What needs a server or an environment of its own, and no Ray.
SERVERS := tests/data/preparation/test_object_store.py tests/pipelines/test_encoder_commands.py \
  tests/pipelines/test_terminal.py tests/report tests/storage tests/tracking tests/test_contributing.py tests/test_wheel.py

# Two tests at a time, those of a file one after the other.
BY_TWO := --numprocesses 2 --dist loadfile

.PHONY: help setup demo test check lint types test-fast test-run test-ray test-lesser-cpu test-cuda-branch \
  test-cluster test-volta test-volta-fast test-slow audit wheel format lock clean

help: ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bt_ray needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	$(call install,$(VENV),requirements.lock)

$(VOLTA_STAMP): requirements-volta.lock pyproject.toml
	$(call install,$(VOLTA),requirements-volta.lock)

$(AUDIT_STAMP): Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

define install
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(2)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(1)/.installed
endef

setup: $(STAMP) ## Make the environment in .venv

demo: $(STAMP) ## Pretrain on handwritten digits, or on DATA=FOLDER or DATA=cifar10
	$(BIN)/python -m pipelines.pretrain $(DEMO)

check: $(STAMP) lint types test-fast ## Format, lint, types and the fast tests

lint: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .

types: $(STAMP)
	$(BIN)/mypy

test-fast: $(STAMP)
	$(BIN)/pytest -q $(BY_TWO) -m "not (run or ray or cluster or slow or gpu)"

test: check test-run test-ray test-lesser-cpu ## What must hold on this machine, whatever its CPU

test-run: $(STAMP)
	$(BIN)/pytest -q $(BY_TWO) -m "run and not (ray or cluster or slow or gpu)"

test-ray: $(STAMP) # one at a time: Ray gives its workers a low priority
	$(BIN)/pytest -q -m "ray and not (cluster or slow or gpu)"

test-lesser-cpu: $(STAMP)
	$(BIN)/python tests/lesser_cpu.py -q $(BY_TWO) -m "not (run or ray or cluster or slow or gpu)" $(NUMERIC)

test-cuda-branch: $(STAMP) ## What a GPU computes by other code, on this CPU
	BT_RAY_TEST_CUDA_BRANCH=1 $(BIN)/pytest -q $(BY_TWO) -m "not (ray or cluster or slow or gpu)" $(BRANCHES)

test-volta: $(VOLTA_STAMP) ## The tests of GPU code, with the torch of V100s
	BT_RAY_TEST_CUDA_BRANCH=1 $(VOLTA)/bin/pytest -q $(BY_TWO) -m "not (run or ray or cluster or slow or gpu)" $(BRANCHES)

test-volta-fast: $(VOLTA_STAMP) ## All fast tests, with the torch of V100s
	$(VOLTA)/bin/pytest -q $(BY_TWO) -m "not (run or ray or cluster or slow or gpu)"

test-cluster: $(STAMP) ## What needs its own cluster, fresh environment or server
	$(BIN)/pytest -q $(BY_TWO) -m "cluster and not (slow or gpu)" $(SERVERS)
	$(BIN)/pytest -q -m "cluster and not (slow or gpu)" $(SERVERS:%=--ignore %)

test-slow: $(STAMP) ## The long campaigns
	$(BIN)/pytest -q -m slow --timeout 3600

audit: $(AUDIT_STAMP) ## Known vulnerabilities of the pinned packages (needs OSV, or AUDIT_SERVICE=pypi)
	$(AUDIT)/bin/python .ci/audit.py requirements.lock requirements-volta.lock

wheel: $(STAMP) ## Build dist/bt_ray-VERSION-py3-none-any.whl
	@rm -rf build  # setuptools would pack what an earlier build left there
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

format: $(STAMP) ## Format the code and mend what lint can
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

lock: ## Pin what fits pyproject.toml, with hashes (needs uv): for all, and for V100 GPUs
	uv pip compile $(LOCK) --constraint deploy/newest.in --output-file requirements.lock pyproject.toml
	uv pip compile $(LOCK) --constraint deploy/volta.in --output-file requirements-volta.lock pyproject.toml

clean: ## Remove the environments
	rm -rf $(VENV) $(VOLTA) $(AUDIT)
