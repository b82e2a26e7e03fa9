# make demo: install, attack a defense, build the board.  make test: install what tests need, and pass them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILES := run.py train.py attacks certification defenses harness leaderboard models training tests benchmarks

.PHONY: demo setup test check lint types unit cluster-test chromium clean

demo: $(VENV)/installed
	$(BIN)/python run.py attack=pma defense=adaptive_smoothing
	$(BIN)/python -m leaderboard

setup: $(VENV)/installed-dev

test: $(VENV)/installed-dev chromium check

check: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(FILES)
	$(BIN)/ruff format --check $(FILES)

types: $(VENV)/installed-dev
	$(BIN)/mypy

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# A sweep on a real Slurm of one node, which the tests start and stop; skipped where it cannot be had.
cluster-test: $(VENV)/installed-dev
	@command -v sbatch >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null; } \
		|| echo "no Slurm and no right to install one: its tests will be skipped"
	$(BIN)/python -m pip install --quiet --editable '.[dev,slurm]'
	GAUNTLET_CLUSTER=1 $(BIN)/python -m pytest -rs tests/cluster

# The page is tested in a real browser where one can be had; elsewhere those tests are skipped and say so.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no Chromium and no right to install one: the browser tests will be skipped"

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
