# make demo: install, attack a defense, build the board.  make test: install what tests need, and pass them.
# make docs: build the documentation as a site in build/docs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILES := run.py train.py gauntlet attacks defenses leaderboard tests benchmarks

.PHONY: demo setup docs test check lint types unit cluster-test chromium clean

demo: $(VENV)/installed
	$(BIN)/python run.py attack=pma defense=adaptive_smoothing
	$(BIN)/gauntlet board

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --quiet --strict

setup: $(VENV)/installed-dev

test: $(VENV)/installed-dev chromium check

# Types beside the tests: mypy uses one core, and the tests wait for theirs now and then.
check: lint
	$(MAKE) -j2 types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(FILES)
	$(BIN)/ruff format --check $(FILES)

types: $(VENV)/installed-dev
	$(BIN)/mypy

unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Minutes of damaged, foreign and hostile evidence against every program (benchmarks/assault.md); unit has a part of it.
assault: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 0 --timeout 3600 tests/assault/*_assault.py

# Sweeps on a real Slurm of one node, which the tests start and stop, and on Ray; skipped where they cannot be had.
cluster-test: $(VENV)/installed-dev $(VENV)-ray/installed
	@command -v sbatch >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null; } \
		|| echo "no Slurm and no right to install one: its tests will be skipped"
	$(BIN)/python -m pip install --quiet --editable '.[dev,slurm]'
	GAUNTLET_CLUSTER=1 GAUNTLET_RAY=$(CURDIR)/$(VENV)-ray/bin/python $(BIN)/python -m pytest -rs --durations 20 tests/cluster

# Ray's launcher pins an old cloudpickle, so it has an environment of its own; torch and the rest it sees in $(VENV).
$(VENV)-ray/installed: $(VENV)/installed-dev
	test -x $(VENV)-ray/bin/python || $(PYTHON) -m venv $(VENV)-ray
	echo 'import site; print(site.getsitepackages()[0])' > $(VENV)-ray/where.py
	$(BIN)/python $(VENV)-ray/where.py > "$$($(VENV)-ray/bin/python $(VENV)-ray/where.py)/beside.pth"
	$(VENV)-ray/bin/python -m pip install --quiet 'hydra-ray-launcher>=1.2'
	touch $@

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
	rm -rf $(VENV) $(VENV)-ray .mypy_cache .pytest_cache .ruff_cache .hypothesis
