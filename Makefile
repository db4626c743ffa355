# `make up` and `make test` are all a new user needs; both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up test docs docs-reference drills smoke lint format evaluate plots lock secrets screenshots clean bench-training bench-serving bench-side-by-side bench-gpu reproduce

up: $(VENV)/.installed
	$(BIN)/python -m services.dev

# Three processes: most of the time goes into waiting for others. A file's tests share their servers, so they stay
# together; the files that take longest come first (tests/conftest.py).
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Every way it can break, but for the half-hour soak. Prints the table of drills and writes it into docs/explanation/reliability.md.
drills: $(VENV)/.installed
	@report=$$(mktemp) && trap 'rm -f $$report' EXIT; \
	KILN_DRILL_REPORT=$$report $(BIN)/python -m pytest tests/drills -m "not soak" -q -n 3 --dist loadfile; status=$$?; \
	$(BIN)/python -m tests.drills.table $$report && exit $$status

# Every preset through POST /jobs, with its own networks and batch size, for two iterations: some ten seconds a row.
smoke: $(VENV)/.installed
	$(BIN)/python -m pytest tests/e2e/test_presets.py -m "smoke or not smoke" -q

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Kiln against the plain PyTorch way: docs/explanation/performance.md. E.g. make bench-training BENCH="--rounds 3 --parts ratio".
bench-training: $(VENV)/.installed
	$(BIN)/python -m benchmarks.training $(BENCH)

# Kiln against others that serve the same model: docs/explanation/performance.md. E.g. make bench-serving BENCH="--network 3.4M".
bench-serving: $(VENV)/.installed
	$(BIN)/python -m benchmarks.serving $(BENCH)

# What a training job costs the API beside it.
bench-side-by-side: $(VENV)/.installed
	$(BIN)/python -m benchmarks.side_by_side $(BENCH)

# On a machine with a GPU: the CUDA tests and all benchmarks, in under nine minutes, into one file.
bench-gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu $(BENCH)

# Both reports, run again through the API: docs/explanation/reproduction.md. smoke: minutes; hours: an hour or two of two cores; day:
# a day of them; full: for a GPU. What was trained is not trained again; KILN_URL uses a stack that runs already.
REPRODUCE_BUDGET ?= smoke
reproduce: $(VENV)/.installed
	$(BIN)/python -m benchmarks.reproduction --budget $(REPRODUCE_BUDGET) $(REPRODUCE)

# The dashboard's pictures in the README, of the Kiln that runs here and has trained something.
screenshots: $(VENV)/.installed
	$(BIN)/python -m tests.dashboard.screenshots

# The documentation site in build/site. A broken link stops the build.
docs: $(VENV)/.installed docs-reference
	$(BIN)/zensical build --clean --strict

# docs/reference/, from the code. Run it after a change to the API, the presets, the settings, the CLI or the metrics.
docs-reference: $(VENV)/.installed
	$(BIN)/python -m docs.generate

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Figures of a model, by id, by folder, or of a run's weights: `make evaluate MODEL=models/starter N=10000`.
N ?= 50000
evaluate: $(VENV)/.installed
	$(BIN)/python -m services.trainer evaluate $(MODEL) --images $(N)

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

# Pins every dependency of every group in pyproject.toml, for all platforms and Pythons, without index URLs.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --no-header --no-annotate --no-emit-index-url --upgrade -o requirements.lock

# The password that `docker compose` hands to Redis and its clients. It is made once; to change it, delete the file.
# The folder keeps other users of this machine out. The file itself is readable, because compose mounts it with the
# mode it has here, and the users inside the containers are others than this one.
secrets: secrets/redis_password

secrets/redis_password:
	@mkdir -p secrets && chmod 700 secrets
	@$(PYTHON) -c 'import secrets; print(secrets.token_hex(32))' > $@.new
	@chmod 444 $@.new && mv $@.new $@

# A first key for the API, for docker-compose.keys.yml; more of them go into the same file, one a line.
secrets/api_keys:
	@mkdir -p secrets && chmod 700 secrets
	@$(PYTHON) -c 'import secrets; print("admin:read+generate+train:" + secrets.token_hex(32))' > $@.new
	@chmod 444 $@.new && mv $@.new $@

clean:
	rm -rf $(VENV)
