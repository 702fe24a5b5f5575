# What a developer types; CI types `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With a path file instead of an import hook, a script beside the clone imports the package too.
EDITABLE := --config-settings editable_mode=compat --editable
export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast test-families test-images test-clients test-node-clients release faults faults-long soak sbom audit check format docs session pictures up train-demo eval-demo bench bench-engine bench-peers bench-service bench-queue bench-contention bench-size bench-batch bench-redis bench-stream bench-structured bench-startup plots lock clean

help:
	@echo "make demo           caption drawn scenes with the whole service, on this machine"
	@echo "make test           install what the tests need, run them all, then the checks"
	@echo "make test-fast      the tests that need no server and no model: what to run at each change"
	@echo "make test-families  compare every kind on every model with transformers, a line each"
	@echo "make test-images    build the container images and have them answer a job"
	@echo "make test-clients   other people's OpenAI libraries on the whole service; test-node-clients for Node's"
	@echo "make release        build wheel and sdist, and use them in an empty environment"
	@echo "make faults         kill, stop and cut everything for some minutes, and count what was lost"
	@echo "make soak           everyday load for MINUTES=60, and what has grown meanwhile"
	@echo "make faults-long    the same for ROUNDS=10 rounds, and longer lives of the record"
	@echo "make check          format, lint, types, import rules"
	@echo "make docs           write the generated parts of docs/api.md and docs/cli.md"
	@echo "make session        record the terminal session that the README shows"
	@echo "make pictures       draw the dashboards and idefiq top as a real run fills them"
	@echo "make up             run the service until Ctrl-C"
	@echo "make train-demo     train the demonstration model again (two to three hours)"
	@echo "make eval-demo      measure it on scenes it was never trained on"
	@echo "make sbom, audit    list what is installed, and compare it with known holes"
	@echo "make bench          all benchmarks; bench-engine, -peers, -service, -queue, -contention, -size, -batch, -redis, -stream, -structured, -startup for one"
	@echo "make plots          draw their last figures into docs/performance.svg"

$(VENV)/python: # the environment itself
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/python pyproject.toml constraints.txt # what the service needs to run here
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) '.[api,engine,embedded]'
	touch $@

$(VENV)/dev: $(VENV)/run # what tests and checks need besides
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) '.[dev]'
	touch $@

demo: $(VENV)/run
	$(BIN)/python -m workers.demo.show

up: $(VENV)/run
	$(BIN)/idefiq up

# So many at a time; each has servers of its own.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

test: $(VENV)/dev
	tests/install-servers
	$(PYTEST)
	$(MAKE) check

test-fast: $(VENV)/dev
	$(PYTEST) -m fast

test-families: $(VENV)/dev
	$(BIN)/python -m tests.workers.families.report --write
	$(BIN)/python -m pytest tests/workers/gpu -m grid

faults: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m tests.faults --greedy --soak 60 --write

MINUTES ?= 60
soak: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m tests.faults --rounds 0 --soak $$(( 60 * $(MINUTES) ))

ROUNDS ?= 10
faults-long: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m tests.faults --rounds $(ROUNDS) --seconds 300 --soak 1800 --write
	$(BIN)/python -m pytest tests/db/test_machine.py --hypothesis-profile long

$(VENV)/audit: $(VENV)/dev
	$(BIN)/pip install --quiet --constraint constraints.txt $(EDITABLE) '.[audit]'
	touch $@

sbom: $(VENV)/audit
	mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --output-file build/sbom.json

audit: $(VENV)/audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

test-images: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m tests.deploy.images

build/clients/done: tests/clients/requirements.txt # other people's libraries
	$(PYTHON) -m venv build/clients
	build/clients/bin/pip install --quiet --requirement tests/clients/requirements.txt
	touch $@

test-clients: $(VENV)/dev build/clients/done
	$(BIN)/python -m tests.clients

build/node-clients/done: $(wildcard tests/clients/node/*) # the same for Node, which must be there
	mkdir -p build/node-clients
	cp tests/clients/node/* build/node-clients
	npm ci --silent --no-audit --no-fund --prefix build/node-clients
	touch $@

test-node-clients: $(VENV)/dev build/node-clients/done
	$(BIN)/python -m tests.clients --node

release: $(VENV)/dev
	$(BIN)/python -m tests.deploy.release

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_house.py

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev
	$(BIN)/python -m docs.reference

session: $(VENV)/run
	$(BIN)/python -m docs.session

pictures: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m docs.pictures

train-demo: $(VENV)/run
	$(BIN)/python -m workers.demo.train

eval-demo: $(VENV)/run
	$(BIN)/python -m workers.demo.evaluate

bench: bench-engine bench-peers bench-service bench-queue bench-contention bench-size bench-batch bench-redis bench-stream bench-structured bench-startup

bench-engine: $(VENV)/dev
	$(BIN)/python -m benchmarks.engine

build/peers/done: $(VENV)/dev # the peers, at versions of their own
	$(PYTHON) -m venv build/peers
	build/peers/bin/pip install --quiet --constraint constraints.txt 'ray[data]==2.60.0' litserve==0.2.19 \
		accelerate pillow torch transformers
	touch $@

bench-peers: build/peers/done
	$(BIN)/python -m benchmarks.peers

bench-service: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m benchmarks.service

bench-queue: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m benchmarks.queue

bench-contention: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m benchmarks.contention

bench-size: $(VENV)/dev
	tests/install-servers
	$(BIN)/python -m benchmarks.many_items

bench-batch: $(VENV)/dev
	$(BIN)/python -m benchmarks.batch_check

bench-redis: $(VENV)/dev
	$(BIN)/python -m benchmarks.redis_down

bench-stream: $(VENV)/dev
	$(BIN)/python -m benchmarks.stream

bench-structured: $(VENV)/dev
	$(BIN)/python -m benchmarks.structured

plots: $(VENV)/dev
	$(BIN)/python -m benchmarks.plot

bench-startup: $(VENV)/dev
	$(BIN)/python -m benchmarks.startup

lock: $(VENV)/dev
	echo '# Exact versions of everything that is installed; renew with `make lock`.' >constraints.txt
	$(BIN)/python -m pip list --format freeze --exclude-editable --exclude pip | sed 's/+cpu//' >>constraints.txt

clean:
	rm -rf build data $(VENV)
