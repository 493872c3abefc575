# Everything a person or CI runs. Needs Python >= 3.11 and make; the environment is built on first use.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONDONTWRITEBYTECODE := # modules are compiled once: else each process that tests start does so for 2 s
ARGS ?=
BENCHMARKS := distributed scoring features pipeline backtest store kafka answer call_verdict hooks gateway gateway_flood neighbor event_intake origins archive_merging under_load
INTEGRATION := tests/integration tests/contract tests/lab
UNIT := tests/ingest tests/models tests/scoring/engine tests/scoring/policy tests/scoring/learning tests/risk
PRODUCT := trustwatch ingest models scoring api client lab simulator

.DEFAULT_GOAL := help
.PHONY: help setup newest lock dist audit image-digests sbom demo notebooks notebooks-html example-agents unit test test-wheel fuzz integration console-screenshots acceptance golden check check-types check-style check-security check-imports check-api generated-client format bench bench-quick bench-detection bench-containment docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build the environment in .venv (done by every other target)

$(READY): pyproject.toml client/pyproject.toml deploy/development.lock
	@test -n "$(PYTHON)" || { echo "Trustwatch needs Python 3.11 or newer; none was found (set PYTHON=/path/to/python3)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement deploy/development.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable ./client --editable .
	@touch $(READY)

newest: ## build the environment in VENV from the ranges of pyproject.toml, not from the lock (then: make test VENV=...)
	@test "$(VENV)" != .venv || { echo "say where: make newest VENV=var/newest"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ./client --editable '.[dev]'
	@touch $(READY)

lock: $(READY) ## write the locks of deploy/ anew, from the registry (ARGS=--upgrade: the image's versions, too)
	scripts/lock $(BIN)/uv $(ARGS)

demo: $(READY) ## train on four simulated weeks, serve, play a day with two attacks (ARGS=--exit ends by itself)
	$(BIN)/trustwatch demo $(ARGS)

notebooks: $(READY) ## analysts' notebooks in JupyterLab, on the example (ARGS="--settings FILE" for your own)
	$(BIN)/trustwatch lab $(if $(findstring --settings,$(ARGS)),,--example var/lab) $(ARGS)

notebooks-html: $(READY) ## run all notebooks on the example; executed copies and HTML pages in var/notebooks
	$(BIN)/trustwatch lab --example var/lab --run var/notebooks

example-agents: $(READY) ## the world in small: real agents, tokens, gateway, tools; one is turned (ARGS=--exit ends by itself)
	$(BIN)/python -m examples.agents.run $(ARGS)

unit: $(READY) ## tests of events, features, models, scores and risk, without application and database (90 s)
	$(BIN)/python -m pytest -m "not integration and not acceptance and not wheel" -n auto --dist worksteal $(UNIT) $(ARGS)

test: $(READY) ## unit, contract and house tests, on all cores (ARGS="-n 0 -x PATH": one process)
	$(BIN)/python -m pytest -m "not integration and not acceptance and not wheel" -n auto --dist worksteal $(ARGS)

integration: $(READY) ## tests that start the real service, kill it, load it (ARGS="-n 2 --dist loadfile": two files at a time)
	$(BIN)/python -m pytest -m integration -o "testpaths=$(INTEGRATION)" $(ARGS)

console-screenshots: $(READY) ## every page of the console, two widths, light and dark, into var/screenshots, and the picture of README.md (needs Chromium)
	TRUSTWATCH_NIGHTLY=1 TRUSTWATCH_SCREENSHOTS=$(CURDIR)/var/screenshots $(BIN)/python -m pytest tests/integration/console $(ARGS)
	@test ! -f var/screenshots/console.png || cp var/screenshots/console.png docs/images/console.png

acceptance: $(READY) ## tests on the samples and traces beside the project (TRUSTWATCH_SHARED, default ../shared)
	$(BIN)/python -m pytest -m acceptance -o testpaths=tests/acceptance $(ARGS)

golden: $(READY) ## record the golden results anew (tests/golden, and of the traces where they are); ARGS=FILE…: only these
	$(BIN)/python -m tests.golden.record $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m tests.acceptance.golden_traces)

fuzz: $(VENV)/.ready-fuzz ## fuzz every parser with atheris, SECONDS of each (ARGS="--seconds 600 TARGET"); findings in var/fuzz
	$(BIN)/python -m tests.fuzz.run $(ARGS)

test-wheel: $(READY) ## build the wheel, install it elsewhere, show that it is complete and works there
	scripts/test-wheel $(PYTHON) $(VENV)

check: $(READY) ## formatter, linters, types, import contracts (make --jobs 2 check: two tools at a time)
check: check-types check-style check-security check-imports

check-types: $(READY)
	$(BIN)/mypy

check-style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/vulture

check-security: $(READY)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml $(PRODUCT) deploy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml --severity-level medium benchmarks examples scripts

check-imports: $(READY)
	$(BIN)/lint-imports --no-cache

format: $(READY) ## rewrite files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: $(READY) ## wheel and source archive of HEAD into dist, the same bytes wherever they are built (ARGS="--outdir FOLDER")
	$(BIN)/python -m scripts.build_release $(ARGS)

audit: $(READY) ## known weaknesses of what the locks install (ARGS="--advisories all.zip": from a copy, without the internet)
	$(BIN)/python -m scripts.audit $(ARGS)

image-digests: $(READY) ## digests of the images that we name, asked by docker, crane or skopeo (ARGS=--write: into the files)
	$(BIN)/python -m scripts.image_digests $(ARGS)

sbom: $(READY) ## what the image installs as CycloneDX, checked against its schema, into var/trustwatch.cdx.json
	@mkdir -p var
	$(BIN)/cyclonedx-py requirements deploy/requirements.lock --pyproject pyproject.toml --output-reproducible --validate \
		--output-format JSON --output-file var/trustwatch.cdx.json

bench: $(READY) ## all benchmarks (several minutes); figures go to docs/performance.md by hand
	@missed=0; for b in $(BENCHMARKS); do echo "== $$b"; \
		$(BIN)/python -m benchmarks.bench_$$b $(ARGS) || missed=1; done; exit $$missed

bench-quick: $(READY) ## the same on small data, two at a time, into var/bench-quick: shows that they run, measures nothing (SKIP="detection …")
	@mkdir -p var/bench-quick
	@printf '%s\n' $(filter-out $(SKIP),detection $(BENCHMARKS)) | xargs -P 2 -I NAME sh -c \
		'$(BIN)/python -m benchmarks.bench_NAME --quick >var/bench-quick/NAME.txt 2>&1; status=$$?; \
		echo "== NAME, status $$status"; cat var/bench-quick/NAME.txt; exit $$status'

bench-detection: $(VENV)/.ready-bench ## detection beside other libraries, on traces (TRUSTWATCH_SHARED) and attacks (ARGS=--write: into docs)
	$(BIN)/python -m benchmarks.bench_detection $(ARGS)

bench-containment: $(READY) ## hijacks of 200 clients at a real Ory Hydra behind a real Envoy (ARGS=--write: into docs)
	$(BIN)/python -m benchmarks.bench_containment $(ARGS)

check-api: $(READY) ## lint the OpenAPI document of reference/ with redocly, from npm
	npm exec --yes --ignore-scripts --package @redocly/cli@2.77.0 -- redocly lint reference/openapi.json

generated-client: $(READY) ## make a client of the OpenAPI document, and use it against the live service
	$(BIN)/python -m venv --clear var/generator
	var/generator/bin/python -m pip install --quiet --require-hashes --no-deps --requirement deploy/generator.lock
	rm -rf var/generated && mkdir -p var/generated
	var/generator/bin/openapi-python-client generate --path reference/openapi.json --meta none \
		--output-path var/generated/generated_client
	TRUSTWATCH_GENERATED_CLIENT=$(CURDIR)/var/generated $(BIN)/python -m pytest tests/integration/test_generated_client.py $(ARGS)

docs: $(VENV)/.ready-docs ## the site of the documentation into var/site; dead links end it (make notebooks-html docs: with executed notebooks)
	$(BIN)/python -m scripts.gather_site
	$(BIN)/mkdocs build --strict $(ARGS)

$(VENV)/.ready-docs: $(READY) deploy/docs.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement deploy/docs.lock
	@touch $@

$(VENV)/.ready-bench: $(READY) deploy/bench.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement deploy/bench.lock
	@touch $@

$(VENV)/.ready-fuzz: $(READY) deploy/fuzz.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement deploy/fuzz.lock
	@touch $@

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis var
