# Thin: each target makes sure that the tools are there, then calls one of them. `make help` lists the targets.
ENV    ?= local
PYTHON ?= python3

VENV    := .venv
BIN     := $(VENV)/bin
KIT     := $(BIN)/kit
UV      := $(BIN)/uv
# CDK's Python runtime warns loudly on a Node release that is past its end of life; it works all the same.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION ?= $(shell node -p 'process.versions.node.split(".")[0]' 2>/dev/null)
export NODE_NO_WARNINGS ?= 1

.DEFAULT_GOAL := help
.PHONY: help up test lint format synth oracle parity upstream docs bench image lock clean

help:  ## what there is to do
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: tools  ## a tracking server on this machine, from the stacks that AWS would get (ENV=local)
	@$(KIT) up $(ENV)

test: tools .venv-checkov/.ready .cache/database .cache/programs  ## every test and check
	@$(MAKE) --no-print-directory lint
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder  # two: most tests wait for a process that they started

lint: tools  ## formatting, linting and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@cd container && ../$(BIN)/mypy --strict tracking_server

format: tools  ## let ruff format and mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

synth: tools  ## the CloudFormation templates of an environment (ENV=dev)
	@npx cdk synth --quiet -c env=$(ENV)

oracle: tools  ## compare the policy evaluator with another one, which this installs (AGPL-3.0, test only)
	@npm --prefix tests/oracle ci --no-audit --no-fund --loglevel=error
	@$(BIN)/pytest tests/oracle -q

parity: tools .cache/database  ## 10,000 random sequences of calls, answered alike by MLflow's own store and the fast one
	@$(BIN)/python -m tests.parity

upstream: tools .cache/database  ## MLflow's own tests with both stores (CHECKOUT=its source tree); writes docs/parity.md
	@$(BIN)/python -m tests.parity.upstream $(CHECKOUT)

docs: tools  ## regenerate the reference pages, and the tables and pictures of the newest benchmarks
	@$(BIN)/python -m stacks.reference
	@$(BIN)/python -m benchmarks.performance_document
	@$(BIN)/python -m benchmarks.growth --redraw
	@$(KIT) cost --markdown > docs/costs.md.new && mv docs/costs.md.new docs/costs.md
	@$(KIT) access matrix --markdown > docs/access-matrix.md.new && mv docs/access-matrix.md.new docs/access-matrix.md

bench: tools .cache/database  ## every benchmark, about two hours on a quiet machine: prints tables, writes benchmarks/results
	@echo "The kit and other servers: about 30 minutes" && $(BIN)/python -m benchmarks.versus_stock
	@echo "Single operations: about 8 minutes" && $(BIN)/python -m benchmarks.operations
	@echo "Start and memory: about 5 minutes" && $(BIN)/python -m benchmarks.start
	@echo "Growth: about 10 minutes" && $(BIN)/python -m benchmarks.growth
	@echo "What the gate costs: about 5 minutes" && $(BIN)/python -m benchmarks.gate
	@echo "Memory of the gate: about 2 minutes" && $(BIN)/python -m benchmarks.gate_memory
	@if [ -n "$(ENGINE)" ] && $(ENGINE) info >/dev/null 2>&1; then $(MAKE) --no-print-directory image && echo "What the sizes bear: about 40 minutes" && $(BIN)/python -m benchmarks.calibrate && $(BIN)/python -m benchmarks.scaling; \
	  else echo "What the sizes bear is left out: it needs docker or podman, running"; fi

ENGINE ?= $(firstword $(foreach engine,docker podman,$(shell command -v $(engine))))
IMAGE  := mlflow-aws-kit:local
image:  ## build the server's container image with docker or podman, and print its size
	@$(if $(ENGINE),,echo "No container engine: install docker or podman"; exit 1)
	@$(ENGINE) build --tag $(IMAGE) container
	@$(ENGINE) image inspect --format '{{.Size}}' $(IMAGE) | awk '{printf "$(IMAGE): %.0f MB unpacked\n", $$1 / 1e6}'

COMPILE := pip compile --universal --python-version 3.10 --generate-hashes --upgrade --quiet
lock: tools  ## resolve the Python dependencies anew and write the locks
	@$(UV) $(COMPILE) --no-header pyproject.toml -o requirements.txt
	@cd container && ../$(UV) $(COMPILE) --excludes requirements.exclude requirements.in -o requirements.txt
	@cd container && for file in requirements-compiled requirements-build; do ../$(UV) $(COMPILE) $$file.in -o $$file.txt; done
	@cd tests/security && ../../$(UV) $(COMPILE) checkov-requirements.in -o checkov-requirements.txt

clean:  ## remove what the targets above made (not the data under .local)
	@rm -rf $(VENV) .venv-server .venv-checkov node_modules cdk.out .cache

.PHONY: tools
tools: $(VENV)/.ready .venv-server/.ready node_modules/.package-lock.json

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; say which with: make PYTHON=python3.12"; exit 1; }
	@echo "Making a Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu the venv module is a package of its own: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet "$$(grep -o '^uv==[0-9.]*' requirements.txt)"

$(VENV)/.ready: requirements.txt pyproject.toml client/pyproject.toml | $(UV)
	@echo "Installing the kit's Python packages (1.4 GB, once)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . --editable client
	@touch $@

.venv-server/.ready: container/requirements.txt container/requirements-compiled.txt | $(UV) $(VENV)/.ready
	@echo "Installing the server's Python packages, as the image has them (0.5 GB, once)"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-server
	@$(UV) pip sync --quiet --reinstall --python .venv-server/bin/python --require-hashes container/requirements.txt
	@$(BIN)/python -m local.get_mysqlclient
	@touch $@

.venv-checkov/.ready: tests/security/checkov-requirements.txt | $(UV)
	@echo "Installing checkov apart from the rest: it pins an old boto3"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-checkov
	@$(UV) pip sync --quiet --python .venv-checkov/bin/python --require-hashes tests/security/checkov-requirements.txt
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	@command -v npm >/dev/null || { echo "Node.js LTS is needed (22 or 24): https://nodejs.org"; exit 1; }
	@echo "Installing the pinned CDK command line"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.cache/database: | $(VENV)/.ready
	@$(BIN)/python -m local.get_database
	@mkdir -p .cache && touch $@

.cache/programs: | $(VENV)/.ready
	@$(BIN)/python -m tests.get_programs
	@mkdir -p .cache && touch $@
