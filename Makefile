# A menu: every entry is one call to nox. `make` prints it.
# Arguments: REPO=org/name, TAG=x, and anything else in ARGS="...".

.DEFAULT_GOAL := help
PYTHON ?= python3
NOX := .venv/bin/nox
ARGS ?=

# A missing variable fails before anything starts, and names itself.
need = $(if $($(1)),,$(error $(1) is missing: make $@ $(1)=$(2)))

.venv/bin/nox: Makefile
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check 'nox[uv]>=2025.10.16'
	@touch $@

##@ Start here
.PHONY: help demo test
help: ## This menu
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
demo: .venv/bin/nox ## The whole way on this machine, with a real model
	$(NOX) -s demo -- $(ARGS)
test: .venv/bin/nox ## The tests
	$(NOX) -s tests -- $(ARGS)

##@ Publish
.PHONY: plan fetch build push
plan: .venv/bin/nox ## What would be built: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s plan -- $(REPO) $(ARGS)
fetch: .venv/bin/nox ## Download a repo into the cache: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s fetch -- $(REPO) $(ARGS)
build: .venv/bin/nox ## Build the image: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s build -- $(REPO) $(ARGS)
push: .venv/bin/nox ## Push it: TAG=x
	$(call need,TAG,x)$(NOX) -s push -- $(TAG) $(ARGS)

##@ Use
.PHONY: verify
verify: .venv/bin/nox ## Check a cache directory or an image: TARGET=path-or-image
	$(call need,TARGET,path-or-image)$(NOX) -s verify -- $(TARGET) $(ARGS)

##@ Develop
.PHONY: lint typecheck clean
lint: .venv/bin/nox ## ruff, hadolint, shellcheck, zizmor, schemas
	$(NOX) -s lint
typecheck: .venv/bin/nox ## mypy, strict
	$(NOX) -s typecheck
clean: ## Remove the virtual environments and everything built
	rm -rf .venv .nox dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
