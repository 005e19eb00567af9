# `make help` lists the verbs. `up`, `demo` and the verbs for contributors first install what the machine
# lacks.
.DEFAULT_GOAL := help
.PHONY: help setup demo up watch deploy rollback deploys doctor secret rotate location down destroy backup backup-verify restore move-to-store upgrade cluster-up cluster-images cluster-status cluster-backup cluster-down status credentials logs run-step sizes dev test test-quick test-whole test-release test-chaos test-cluster screenshots bench bench-million bench-soak bench-quick bench-nodes lint format lock
SHELL := bash

help: ## List the commands.
	@command -v python3 >/dev/null || { echo 'python3 is missing: `make demo` installs it'; exit 1; }
	@python3 -m cli.reference help

setup: ## Install what this machine lacks, and get the base images.
	@machine/setup.sh

# The operator's verbs call ./stack (cli/). FORCE=1, FOLLOW=1, RUN=<id>, STEP=<key>, FOR=<user>,
# NAME=<location>, FROM=<folder>, REMOVE=1, WAIT=1, KEEP=<n>, LOCATION=<name>,
# BACKUP=<file>, KEY=<file>, PASSPHRASE=<file>, DAGSTER=1 and POSTGRES=<image> set its most used flags.
demo up watch deploys status doctor sizes rotate move-to-store cluster-up cluster-status cluster-backup cluster-down:
	@./stack $@

cluster-images:
	@./stack cluster-images

down:
	@./stack down $(if $(filter 1,$(WAIT)),--wait)

destroy:
	@./stack destroy $(if $(filter 1,$(FORCE)),--force)

location:
	@./stack location $(NAME) $(if $(FROM),--from '$(FROM)') $(if $(filter 1,$(REMOVE)),--remove)

credentials:
	@./stack credentials $(FOR)

logs:
	@./stack logs $(if $(filter 1,$(FOLLOW)),--follow) $(RUN)

deploy rollback:
	@./stack $@ $(LOCATION)

secret:
	@./stack secret $(NAME) $(LOCATION) $(if $(filter 1,$(REMOVE)),--remove)

backup:
	@./stack backup $(if $(KEEP),--keep $(KEEP))

backup-verify restore:
	@./stack $@ $(BACKUP) $(if $(KEY),--key $(KEY)) $(if $(PASSPHRASE),--passphrase $(PASSPHRASE))

upgrade:
	@./stack upgrade $(if $(filter 1,$(DAGSTER)),--dagster) $(if $(POSTGRES),--postgres $(POSTGRES)) $(if $(KEY),--key $(KEY)) $(if $(PASSPHRASE),--passphrase $(PASSPHRASE))

run-step:
	@./stack run-step $(RUN) $(STEP)

# uv trusts the authorities that this machine trusts, and uses the package index that pip is configured with.
export UV_SYSTEM_CERTS ?= 1
export UV_DEFAULT_INDEX ?= $(shell sed -n 's/^PIP_INDEX_URL=//p' .machine.env 2>/dev/null)

# A virtual environment contains the tools, the packages of one project (locked like the images), and the
# project itself. When a lock changes, make creates it again. In it, Dagster keeps its instance in
# .dagster. Without DAGSTER_HOME it would use the dagster.yaml of the current folder, and look for Postgres.
define install
.venv/bin/uv pip install --quiet --python $(1)/bin/python --require-hashes --requirement requirements/dev.txt
@.venv/bin/uv pip install --quiet --python $(1)/bin/python --require-hashes --requirement $(2)/requirements.txt
@printf '%s\n' '$(CURDIR)/$(2)/src' \
	'import os, sys; os.environ.setdefault("DAGSTER_HOME", "$(CURDIR)/.dagster"); os.environ.setdefault("VIRTUAL_ENV", sys.prefix)' \
	>$$(echo $(1)/lib/python*/site-packages)/project.pth
endef

.dagster/dagster.yaml:
	@mkdir -p .dagster && echo 'telemetry: {enabled: false}' >$@

# `dg` looks for a project's environment in the project's folder.
.venv/made: requirements/dev.txt requirements/build.txt code_location/requirements.txt | .dagster/dagster.yaml
	@machine/setup.sh venv
	@echo "making .venv"
	@python3 -m venv --clear .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/build.txt
	@$(call install,.venv,code_location)
	@test -e code_location/.venv || ln -sfn ../.venv code_location/.venv
	@touch $@

locations/%/.venv/made: locations/%/requirements.txt .venv/made
	@echo "making $(@D)"
	@python3 -m venv --clear --without-pip $(@D)
	@$(call install,$(@D),locations/$*)
	@touch $@

SERVED = $(shell sed -n 's/^path = "\(.*\)"/\1/p' dg.toml)
DEV_PORT = 3333
dev: .venv/made .dagster/dagster.yaml $(patsubst %,%/.venv/made,$(filter locations/%,$(SERVED))) ## Run your code without containers, on SQLite, at port 3333.
	@echo "serving the projects of dg.toml: $(SERVED)"
	@DAGSTER_HOME=$(CURDIR)/.dagster VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/dg dev --port $(DEV_PORT)

# Without the files that this variable forbids, each process of the tests compiles Dagster and all tests anew.
unexport PYTHONDONTWRITEBYTECODE
# The number of test processes, each with its own stack (tests/README.md).
WORKERS = 3

test: .venv/made ## Run all tests except those of test-whole, test-release, test-chaos, and the one that kills the engine.
	@machine/setup.sh tests
	@env -u TEST_ENGINE_MAY_BE_KILLED .venv/bin/python -m pytest -n $(WORKERS)
	@test "$$TEST_ENGINE_MAY_BE_KILLED" != 1 || .venv/bin/python -m pytest -m alone

test-quick: .venv/made ## Run the static and unit tests, and the main job on one stack.
	@machine/setup.sh
	@.venv/bin/python -m pytest -n 2 -m quick

test-whole: .venv/made ## Run the long tests: the stores, the upgrade of an earlier stack, Dagster's own launcher and web server, and long forms.
	@machine/setup.sh tests
	@.venv/bin/python -m pytest -n $(WORKERS) -m whole

test-release: .venv/made ## Run what a release needs: bare Debian 13 machines, an earlier Dagster's history, another Postgres or Dagster, Spark, backups of each night, longer long forms.
	@machine/setup.sh tests
	@.venv/bin/python -m pytest -n $(WORKERS) -m release

test-chaos: .venv/made ## Inject at least 300 faults into one stack, and fill its disks (an hour; writes bench/results/chaos.md). With TEST_ENGINE_MAY_BE_KILLED=1 also end the engine.
	@machine/setup.sh tests
	@.venv/bin/python -m pytest -s -m chaos

test-cluster: .venv/made ## Run the stack on a Kubernetes cluster of three nodes on this machine (the first time, Kubernetes is built: ten minutes more). SHORT=1 loses no nodes.
	@machine/setup.sh tests
	@PYTHONPATH=tests .venv/bin/python -m support.kubernetes
	@.venv/bin/python -m pytest -m "$(if $(SHORT),short,cluster)"

screenshots: .venv/made ## Take the pictures in docs/images/ from the running stack, after `make demo`.
	@machine/setup.sh tests
	@env $$(./stack credentials) PYTHONPATH=tests .venv/bin/python -m support.take_screenshots

# On stacks of their own, which are deleted afterwards.
MEASURED = guard_cost large_data run_resources soak history
bench: export STACK_NAME := dagster-bench
bench: export HTTP_PORT := 3900
bench: export COMPOSE_PROFILES := warehouse
bench: export KEEP_SUCCEEDED_CONTAINERS := 1m
bench: .venv/made ## Run the measurements in bench/; write bench/results/ and README's table.
	@machine/setup.sh tests
	@./stack up
	@status=0; for name in $(MEASURED); do .venv/bin/python bench/$$name.py bench/results/$$name.md || { status=1; break; }; done; ./stack destroy --force --images; exit $$status
	@python3 bench/side_by_side.py

bench-million: export STACK_NAME := dagster-bench
bench-million: export HTTP_PORT := 3900
bench-million: .venv/made ## Measure with a history of a million runs (three quarters of an hour, 40 GB of disk).
	@machine/setup.sh tests
	@./stack up
	@status=0; .venv/bin/python bench/history.py bench/results/million.md --million || status=1; ./stack destroy --force --images; exit $$status

bench-soak: export STACK_NAME := dagster-bench
bench-soak: export HTTP_PORT := 3900
bench-soak: export KEEP_SUCCEEDED_CONTAINERS := 1m
bench-soak: ## Measure the memory of each service over 3,000 runs (half an hour).
	@./stack up
	@status=0; python3 bench/soak.py bench/results/long_soak.md --long || status=1; ./stack destroy --force --images; exit $$status

bench-nodes: ## Measure waiting runs on a Kubernetes cluster of one to three nodes, and a hundred at once (half an hour; the first time, Kubernetes is built).
	@machine/setup.sh tests
	@.venv/bin/python bench/nodes.py bench/results/nodes.md

bench-quick: ## Measure this stack beside Dagster's documented one, with few rounds; writes no file.
	@machine/setup.sh
	@python3 bench/side_by_side.py --quick

lint: setup .venv/made ## Check formatting, types, Python, shell, Compose files and Dockerfiles.
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/shellcheck machine/*.sh requirements/*.sh machine/standin/*.sh control_plane/postgres/*.sh parts/backup/*.sh .ci/run
	.venv/bin/hadolint Dockerfile.code Dockerfile.dagster locations/warehouse/Dockerfile machine/standin/Dockerfile bench/stock/Dockerfile
	docker compose --env-file /dev/null --profile '*' config --output .venv/resolved.yml
	.venv/bin/compose-lint check --fail-on low .venv/resolved.yml

format: .venv/made ## Apply the formatter and the linter's safe fixes, and write docs/reference/.
	@.venv/bin/python -m cli.reference
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

# The platform's locks, each constrained by those before it, and one for each project, constrained by the
# control plane's: one version of Dagster everywhere.
PROJECTS = code_location $(patsubst %/pyproject.toml,%,$(wildcard locations/*/pyproject.toml))
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) $(if $(DAGSTER_VERSION),--upgrade-package "dagster$(DAGSTER_VERSION)" $(OF_DAGSTER:%=--upgrade-package %))
# Their versions follow from Dagster's.
OF_DAGSTER = $(filter-out dagster,$(shell sed -n 's/^\(dagster[a-z-]*\)==.*/\1/p' requirements/dev.txt))
define newline


endef
lock: .venv/made ## Compile all requirements.txt from pyproject.toml (UPGRADE=1: with the newest versions; DAGSTER_VERSION='==1.13.*': with the newest such Dagster).
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) --group control-plane -c requirements/build.txt -o requirements/control-plane.txt
	$(COMPILE) --group store -c requirements/build.txt -c requirements/control-plane.txt -o requirements/store.txt
	$(COMPILE) --group kubernetes -c requirements/build.txt -c requirements/control-plane.txt -c requirements/store.txt -o requirements/kubernetes.txt
	$(COMPILE) --group guard -c requirements/build.txt -c requirements/control-plane.txt -o requirements/guard.txt
	$(COMPILE) --group caddy -o machine/standin/caddy.txt
	$(COMPILE) --group build --group control-plane --group store --group kubernetes --group guard --group dev --group tests --group tools -c requirements/build.txt -c requirements/control-plane.txt -c requirements/store.txt -c requirements/kubernetes.txt -c requirements/guard.txt -o requirements/dev.txt
	$(foreach project,$(PROJECTS),$(COMPILE) $(project)/pyproject.toml -c requirements/control-plane.txt -c requirements/store.txt -o $(project)/requirements.txt$(newline)	)
	$(COMPILE) --group locations/warehouse/pyproject.toml:emulators -o locations/warehouse/emulators/requirements.txt
