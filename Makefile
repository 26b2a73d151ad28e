# A menu: every entry is one call to nox. `make` prints it.
# Arguments: REPO=org/name, TAG=x, and anything else in ARGS="...".

.DEFAULT_GOAL := help
PYTHON ?= python3
NOX := .venv/bin/nox
ARGS ?=

# Standard output is the command's result, alone: `make inspect IMAGE=... | head`.
.SILENT:

# A missing variable fails before anything starts, and names itself.
need = $(if $($(1)),,$(error $(1) is missing: make $@ $(1)=$(2)))

.venv/bin/nox: Makefile .github/requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement .github/requirements.txt
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
.PHONY: plan fetch build push publish assemble models catalog refresh
plan: .venv/bin/nox ## What would be built: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s plan -- $(REPO) $(ARGS)
fetch: .venv/bin/nox ## Download a repo into the cache: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s fetch -- $(REPO) $(ARGS)
build: .venv/bin/nox ## Build the image: REPO=org/name
	$(call need,REPO,org/name)$(NOX) -s build -- $(REPO) $(ARGS)
push: .venv/bin/nox ## Push it: TAG=x
	$(call need,TAG,x)$(NOX) -s push -- $(TAG) $(ARGS)
publish: .venv/bin/nox ## Hub to registry, no engine, no disk: REPO=org/name TO=registry/name
	$(call need,REPO,org/name)$(call need,TO,registry/name)$(NOX) -s publish -- $(REPO) --to $(TO) $(ARGS)
assemble: .venv/bin/nox ## One image from shards: TAG=x TO=registry/name
	$(call need,TAG,x)$(call need,TO,registry/name)$(NOX) -s assemble -- $(TAG) --to $(TO) $(ARGS)
models: .venv/bin/nox ## The entries of models.toml; add one with ARGS="add org/name"
	$(NOX) -s models -- $(or $(ARGS),list)
catalog: .venv/bin/nox ## The page of what is published
	$(NOX) -s catalog -- $(ARGS)
refresh: .venv/bin/nox ## Which published tags are behind the Hub
	$(NOX) -s refresh -- $(ARGS)

##@ On a CI runner
.PHONY: farm cleanup peers
farm: .venv/bin/nox ## A step of the publishing workflow: STEP=plan
	$(call need,STEP,plan)$(NOX) -s farm -- $(STEP)
cleanup: .venv/bin/nox ## Free the disk of a hosted runner; look first with ARGS=--dry-run
	$(NOX) -s cleanup -- $(ARGS)
peers: .venv/bin/nox ## Install what the tests use and a hosted runner lacks
	$(NOX) -s peers

##@ Use
.PHONY: restore serve inspect verify
restore: .venv/bin/nox ## An image back into the cache: IMAGE=registry/name:tag
	$(call need,IMAGE,registry/name:tag)$(NOX) -s restore -- $(IMAGE) $(ARGS)
serve: .venv/bin/nox ## A Hub out of images, for HF_ENDPOINT: SOURCE=registry/name
	$(call need,SOURCE,registry/name)$(NOX) -s serve -- $(SOURCE) $(ARGS)
inspect: .venv/bin/nox ## What an image carries: IMAGE=registry/name:tag
	$(call need,IMAGE,registry/name:tag)$(NOX) -s inspect -- $(IMAGE) $(ARGS)
verify: .venv/bin/nox ## Check a cache directory or an image: TARGET=path-or-image
	$(call need,TARGET,path-or-image)$(NOX) -s verify -- $(TARGET) $(ARGS)

##@ Develop
.PHONY: lint typecheck clients bench fuzz docs lock dist release clean
lint: .venv/bin/nox ## ruff, hadolint, shellcheck, zizmor, schemas
	$(NOX) -s lint
typecheck: .venv/bin/nox ## mypy, strict
	$(NOX) -s typecheck
clients: .venv/bin/nox ## Real clients of the Hub against serve
	$(NOX) -s clients -- $(ARGS)
bench: .venv/bin/nox ## Speed, side by side: ARGS="publish" or ARGS="restore"
	$(NOX) -s bench -- $(ARGS)
fuzz: .venv/bin/nox ## A parser against a fuzzer: ARGS="tar -max_total_time=60"
	$(NOX) -s fuzz -- $(ARGS)
docs: .venv/bin/nox ## The documentation site, into dist/site/docs
	$(NOX) -s docs
lock: .venv/bin/nox ## Pin again what the tool and nox install; to the newest with ARGS=--upgrade
	$(NOX) -s lock -- $(ARGS)
dist: .venv/bin/nox ## Wheel, sdist, hf-models.pyz, checksums, and the tool's image
	$(NOX) -s dist
release: .venv/bin/nox ## A step of release.yml: STEP=dist
	$(call need,STEP,dist)$(NOX) -s release -- $(STEP) $(ARGS)
clean: ## Remove the virtual environments and caches; with DIST=1 what was built, too
	rm -rf .venv .nox $(if $(DIST),dist) .mypy_cache .pytest_cache .ruff_cache .hypothesis
