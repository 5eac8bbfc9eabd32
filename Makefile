# The only door: every task of this repository is a target here.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
UV_VERSION := 0.13.9
# What `make demo`, `make up` and `make bench-queue` understand; empty means the default.
export BUYERS SEATS EVENTS STACK PEOPLE WATCHERS
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What `buf breaking` compares with: the committed contracts, or, where nothing has changed since, those before the last
# change of them, if this clone has any.
LAST_CHANGE = $(shell git log -n 1 --format=%H -- protos)
BEFORE = $(shell git rev-parse -q --verify '$(LAST_CHANGE)^:protos' >/dev/null && echo '$(LAST_CHANGE)^')
AGAINST ?= $(or $(shell git diff --quiet HEAD -- protos && echo $(BEFORE)),HEAD)
# More arguments for pytest or a benchmark: make test ARGS="tests/edge -x"
ARGS ?=

BIN := .venv/bin
LOCKED := requirements-dev.lock generated/pyproject.toml
# The name carries a digest of what is installed, so that the environment is redone when, and only when, that changes.
INSTALLED := .venv/installed-$(shell cat $(LOCKED) | sha256sum | cut -c1-16)
LINTED := edge services deploy tests bench protos/generate.py

.PHONY: help
help: ## show this help
	@echo "Boxoffice. Variables: BUYERS= SEATS= EVENTS=kafka|redis STACK=name PEOPLE= WATCHERS= ARGS=…"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | \
		while IFS=$$'\t' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: servers ## run one whole sale with a thousand buyers, and check that nothing was oversold
	@$(BIN)/python -m deploy.local.demo $(ARGS)

.PHONY: up
up: servers ## start everything on this machine and leave it running
	@$(BIN)/python -m deploy.local up

.PHONY: down
down: $(INSTALLED) ## end what `make up` started; data stays
	@$(BIN)/python -m deploy.local down

.PHONY: purge
purge: $(INSTALLED) ## end what `make up` started and delete its data
	@$(BIN)/python -m deploy.local purge

.PHONY: status
status: $(INSTALLED) ## show every process of every stack
	@$(BIN)/python -m deploy.local status

.PHONY: test
test: setup ## run every test, against real servers
	@$(BIN)/pytest $(ARGS)

.PHONY: test-fast
test-fast: setup ## run the tests that take less than ten seconds each
	@$(BIN)/pytest -m "not slow" $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## check style, types, imports between services, and contracts
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m deploy.local googleapis
	$(BIN)/buf lint
	$(BIN)/buf format -d --exit-code protos
	@$(MAKE) breaking

# Works offline and in a shallow clone: contracts are taken out of the commits at hand.
.PHONY: breaking
breaking: $(INSTALLED) ## check that contracts break nobody who uses the earlier ones (AGAINST=commit)
	@$(BIN)/python -m deploy.local googleapis
	@rm -rf .boxoffice/committed && mkdir -p .boxoffice/committed/.boxoffice
	@git archive $(AGAINST) buf.yaml protos | tar -x -C .boxoffice/committed
	@cp -r .boxoffice/googleapis .boxoffice/committed/.boxoffice/
	$(BIN)/buf breaking --against .boxoffice/committed

.PHONY: format
format: $(INSTALLED) ## format code and contracts
	$(BIN)/ruff check --fix-only -q $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/buf format -w protos

.PHONY: proto
proto: $(INSTALLED) ## write generated/ from protos/
	$(BIN)/buf format -w protos
	$(BIN)/python protos/generate.py

.PHONY: bench
bench: servers ## measure codecs and reservations beside the ceilings of this machine
	@$(BIN)/python -m bench $(ARGS)

.PHONY: bench-queue
bench-queue: servers ## measure a waiting room of a million, and 19,000 who watch it
	@$(BIN)/python -m bench.queue $(ARGS)

.PHONY: setup
setup: $(INSTALLED) ## install and download everything that running and testing need
	@$(BIN)/python -m deploy.local setup-tests

.PHONY: servers
servers: $(INSTALLED)
	@$(BIN)/python -m deploy.local setup

.PHONY: lock
lock: $(INSTALLED) ## resolve requirements*.in again into the lock files
	@test -x .boxoffice/uv/bin/uv || $(PYTHON) -m venv .boxoffice/uv
	@.boxoffice/uv/bin/pip install -q uv==$(UV_VERSION)
	@for part in requirements requirements-dev; do \
		.boxoffice/uv/bin/uv pip compile --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
			--no-header -q $$part.in -o $$part.lock; \
	done

.venv/installed-%:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "boxoffice: Python 3.11 or later is needed; name one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "boxoffice: Python's venv is missing; on Debian install python3-venv" >&2; exit 1; }
	@echo "boxoffice: installing the locked packages into .venv" >&2
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e ./generated
	@rm -f .venv/installed-*
	@touch $@

# The name that the image gets, and that the manifests are pointed at: make image deploy IMAGE=registry/boxoffice:1
IMAGE ?= boxoffice:latest

.PHONY: image
image: ## build the container image (needs docker or podman)
	@engine=$$(command -v docker || command -v podman) || { echo "make image: docker or podman is needed" >&2; exit 1; }; \
	"$$engine" build --file deploy/docker/Dockerfile --tag $(IMAGE) .

.PHONY: deploy
deploy: ## apply the manifests to the cluster of the current context (needs kubectl)
	@command -v kubectl >/dev/null || { echo "make deploy: kubectl is needed" >&2; exit 1; }
	@kubectl kustomize deploy/k8s | sed 's|image: boxoffice:latest|image: $(IMAGE)|' | kubectl apply -f -
	@kubectl apply -k deploy/istio
