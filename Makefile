# Needs Python 3.11 or later and make; everything else goes into .venv.
PYTHON ?= python3
SOAK_MINUTES ?= 60
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo compare test test-long test-oldest test-rllib soak lint bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

demo: .venv/installed ## train the quick preset on the built-in oracle; a new run folder each time
	$(BIN)/python -m seqgan_rl train --preset quick

compare: .venv/installed ## a small comparison of nine agents and controls: some 10 minutes on 2 cores
	$(BIN)/python -m seqgan_rl compare --preset quick --agents mle,mle_continued,seqgan,seqgan_advantage,rloo,ppo,dqn,random,shuffled \
		--tracks adversarial,exact --exact.tasks table --seeds 3 --budget 25600 --folder comparisons/small

test: .venv/installed-dev ## run the tests, but for those of the next line
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not long" --durations 30

test-long: .venv/installed-dev ## whole comparisons, launchers, torchrun, tuning, the report in Chromium: some minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m long --durations 10 tests

test-oldest: .venv/oldest/installed ## the environments and their clients under the oldest supported Gymnasium
	PYTHONPATH=.venv/oldest OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope tests/envs tests/agents \
		tests/adversarial/test_callback.py tests/adversarial/test_replay.py

test-rllib: .venv-rllib/installed ## the RLlib example and the Ray launcher, in an environment of its own: Ray pins Gymnasium
	OMP_NUM_THREADS=1 .venv-rllib/bin/python -m pytest tests/test_examples.py tests/comparison/test_ray.py -k 'rllib or ray'

soak: .venv/installed-dev ## the long checks, within SOAK_MINUTES (60)
	SOAK_MINUTES=$(SOAK_MINUTES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --soak -n 2 --dist worksteal -v tests/soak

lint: .venv/installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev ## all timings, each beside its plain form, in one run: some 10 minutes of an idle machine
	for name in rollout training growth environment scores; do $(BIN)/python benchmarks/$$name.py || exit; done

clean: ## remove the virtual environment and what tools left behind; runs stay
	rm -rf .venv .venv-rllib build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find seqgan_rl tests -name __pycache__ -prune -exec rm -rf {} +

.venv/installed: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; the first time this takes some minutes."
	$(PIP) torch==2.13.0
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	@touch $@

.venv/oldest/installed: .venv/installed-dev
	rm -rf .venv/oldest
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/oldest gymnasium==1.1.0
	@touch $@

.venv-rllib/installed: setup.cfg constraints.txt
	test -x .venv-rllib/bin/python || $(PYTHON) -m venv .venv-rllib
	grep -v '^gymnasium==' constraints.txt > .venv-rllib/constraints.txt
	.venv-rllib/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-rllib/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-rllib/constraints.txt \
		-e '.[ray]' pytest hypothesis
	@touch $@
