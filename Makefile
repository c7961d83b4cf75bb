# Every command needs git, make and Python 3.11 or newer; the rest is fetched into the state folder.
PYTHON ?= python3
BOOTSTRAP = $(PYTHON) -m portal.embedded.bootstrap
SECONDS ?= 120

.PHONY: help run test test-slow mutants test-layout test-labs test-pods kubernetes-lab pod-image fuzz lint bench bench-peers docs lock

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run:  ## Set up what is missing and start the demo portal (PORT=8100 for another port)
	@BEAMPORT_DEMO=$${BEAMPORT_DEMO:-1} $(BOOTSTRAP) run

test:  ## Check style, types, layers and run the tests
	@$(BOOTSTRAP) test

test-slow:  ## Run the long proofs
	@$(BOOTSTRAP) test --slow

test-layout:  ## Install the portal by docs/operate/install.md on an empty copy of this machine and walk the story (root)
	@$(BOOTSTRAP) test --layout

test-labs:  ## Sign in and out at Keycloak, SATOSA, canaille and oidc-provider (Java 17)
	@$(BOOTSTRAP) test --labs

test-pods:  ## Walk the story in real pods of a small cluster in a room of its own (root, Go 1.26)
	@$(BOOTSTRAP) test --pods

pod-image:  ## Build the image for pods, JupyterLab and EXtra-data, as an OCI archive (root, debootstrap)
	@$(PYTHON) instances/providers/kubernetes/build.py jupyter

kubernetes-lab:  ## Build the small Kubernetes that tests run on, once (Go 1.26; minutes)
	@$(PYTHON) -m tests.labs.kubernetes build

fuzz:  ## Fuzz the gateway (SECONDS=1800 for longer, KEEP=--keep to write the corpus anew)
	@$(BOOTSTRAP) fuzz --seconds $(SECONDS) $(KEEP)

lint:  ## Check style, types and layers only
	@$(BOOTSTRAP) test --only-checks

mutants:  ## Make the core wrong in every small way and see that a test notices
	@$(BOOTSTRAP) test --mutants

bench:  ## Measure; figures belong in docs/reference/performance.md
	@$(BOOTSTRAP) bench

bench-peers:  ## Measure beside JupyterHub and other proxies; figures belong in docs/reference/performance.md
	@$(BOOTSTRAP) bench --peers

docs:  ## Check that the pages' links and promises hold
	@$(BOOTSTRAP) test --only-docs

lock:  ## Resolve the dependencies anew into requirements/*.txt
	@$(BOOTSTRAP) lock
