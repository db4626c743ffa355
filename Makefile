# A new user needs `make up` and `make test`; both create the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test docs docs-reference drills smoke lint format evaluate plots lock secrets screenshots clean bench-training bench-serving bench-side-by-side bench-gpu bench-generation augment-study reproduce

up: $(VENV)/.installed
	$(BIN)/python -m services.dev

# Three processes, because tests mostly wait for other processes. Tests of one file share servers, so each file stays
# in one process; the slowest files start first (tests/conftest.py).
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# All failure drills except the half-hour soak. Prints their table and writes it into
# docs/explanation/reliability.md.
drills: $(VENV)/.installed
	@report=$$(mktemp) && trap 'rm -f $$report' EXIT; \
	KILN_DRILL_REPORT=$$report $(BIN)/python -m pytest tests/drills -m "not soak" -q -n 3 --dist loadfile; status=$$?; \
	$(BIN)/python -m tests.drills.table $$report && exit $$status

# Trains every preset for two iterations through POST /jobs: about ten seconds per preset.
smoke: $(VENV)/.installed
	$(BIN)/python -m pytest tests/e2e/test_presets.py -m "smoke or not smoke" -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Training speed, Kiln against a plain PyTorch loop: docs/explanation/performance.md.
# E.g. make bench-training BENCH="--rounds 3 --parts ratio".
bench-training: $(VENV)/.installed
	$(BIN)/python -m benchmarks.training $(BENCH)

# Serving speed, Kiln against other servers with the same model: docs/explanation/performance.md.
# E.g. make bench-serving BENCH="--network 3.4M".
bench-serving: $(VENV)/.installed
	$(BIN)/python -m benchmarks.serving $(BENCH)

# How much a training job slows down the API on the same machine.
bench-side-by-side: $(VENV)/.installed
	$(BIN)/python -m benchmarks.serving.side_by_side $(BENCH)

# On a machine with a GPU: the CUDA tests and all benchmarks. Takes under nine minutes and writes one file.
bench-gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu $(BENCH)

# Does synthetic data help? Classifiers on 5, 20 and 100 % of CIFAR-10, with and without images of a model: about two
# hours on two cores. E.g. make augment-study MODEL=models/starter STUDY="--epochs 1 --shares 0.05".
augment-study: $(VENV)/.installed
	$(BIN)/python -m benchmarks.augment_study $(if $(MODEL),--model $(MODEL)) $(STUDY)

# Rate and memory of a generate job, against the batcher of the API: make bench-generation BENCH="--images 50000".
bench-generation: $(VENV)/.installed
	$(BIN)/python -m benchmarks.generation $(BENCH)

# Reproduces both student reports through the API: docs/explanation/reproduction.md. Budgets: smoke (minutes), hours
# (1 to 2 hours on two cores), day (a day on two cores), full (needs a GPU). Finished runs are not repeated.
# KILN_URL selects a stack that already runs.
REPRODUCE_BUDGET ?= smoke
reproduce: $(VENV)/.installed
	$(BIN)/python -m benchmarks.reproduction --budget $(REPRODUCE_BUDGET) $(REPRODUCE)

# The pictures of the dashboard in README and docs, from a Kiln that runs on this machine and has trained something.
screenshots: $(VENV)/.installed
	$(BIN)/python -m tests.dashboard.screenshots

# The documentation site in build/site. A broken link stops the build.
docs: $(VENV)/.installed docs-reference
	$(BIN)/zensical build --clean --strict

# The generated pages of docs/. Run it after a change to the API, the presets, the settings, the CLI or the metrics.
docs-reference: $(VENV)/.installed
	$(BIN)/python -m docs.generate

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Evaluates a model, given as an id, a folder or weights: `make evaluate MODEL=models/starter N=10000`. CAS=50000 adds
# its classification accuracy score from as many images, which takes 40 minutes more of one core.
N ?= 50000
CAS ?= 0
evaluate: $(VENV)/.installed
	$(BIN)/python -m services.trainer evaluate $(MODEL) --images $(N) --cas $(CAS)

# docs/images/fid_by_*.png, from the figures in benchmarks/curves.json.
plots: $(VENV)/.installed
	$(BIN)/python -m benchmarks.curves

# uv installs the same wheels as pip, several at a time.
$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Kiln needs Python 3.11 or newer; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Pins the dependencies of all groups in pyproject.toml for all platforms and Python versions, without index URLs.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --no-header --no-annotate --no-emit-index-url --upgrade -o requirements.lock

# The password of Redis for `docker compose`. It is created once; delete the file to change it. Compose mounts the file
# with its mode, and the containers run as other users, so the file is readable by all; its folder is closed to others.
secrets: secrets/redis_password

secrets/redis_password:
	@mkdir -p secrets && chmod 700 secrets
	@$(PYTHON) -c 'import secrets; print(secrets.token_hex(32))' > $@.new
	@chmod 444 $@.new && mv $@.new $@

# A first API key for docker-compose.keys.yml. Add further keys to the same file, one per line.
secrets/api_keys:
	@mkdir -p secrets && chmod 700 secrets
	@$(PYTHON) -c 'import secrets; print("admin:read+generate+train:" + secrets.token_hex(32))' > $@.new
	@chmod 444 $@.new && mv $@.new $@

clean:
	rm -rf $(VENV)
