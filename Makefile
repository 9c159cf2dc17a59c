# Targets for people; `make` alone lists them. Needs GNU make and a Python of 3.10 or later.
PYTHON ?= python3
VENV := .venv
AUDIT ?= lock build detectron2
UV ?= $(firstword $(shell command -v uv) $(VENV)/bin/uv)
ARGS ?=

run := $(VENV)/bin/python
lock := UV_CUSTOM_COMPILE_COMMAND="make lock (for Linux, CPython 3.10 and later)" $(UV) pip compile -q \
	--universal --python-version 3.10 --generate-hashes --no-emit-index-url $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-floor test-slow fuzz faults lint format lock audit benchmark \
	results licenses api clean

help: ## list the targets
	@echo "make TARGET [ARGS='options for the program'] [PYTHON=python3.12: which Python makes $(VENV)]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## make .venv and install the locked set, Detectron2 and det_transfer (once)
	@$(PYTHON) tools/bootstrap.py

quickstart: setup ## from nothing to a trained and evaluated detector in about ten minutes
	@$(run) tools/quickstart.py $(ARGS)

test: setup ## the tests, without the slow ones, on all cores (at most 8)
	@$(run) -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-floor: ## the tests on the oldest torch, torchvision and timm that are supported
	@$(PYTHON) tools/bootstrap.py --floor
	@$(VENV)-floor/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-slow: setup ## the slow tests alone
	@$(run) -m pytest -m slow $(ARGS)

fuzz: setup ## 10,000 damaged files for each reader: none ends in a traceback or a hang (an hour)
	@FUZZ_CASES=10000 $(run) -m pytest -n auto --maxprocesses 8 tests/fuzz $(ARGS)

faults: setup ## thirty kills, full disks, lost processes, damaged and hostile files (minutes)
	@FAULT_KILLS=30 $(run) -m pytest -rP tests/faults $(ARGS)

lint: setup ## what ruff has to say
	@$(run) -m ruff check
	@$(run) -m ruff format --check

format: setup ## let ruff mend and format
	@$(run) -m ruff check --fix
	@$(run) -m ruff format

benchmark: setup ## every script in tools/benchmarks, and a page of bars (hours)
	@$(run) tools/run_benchmarks.py $(ARGS)

results: setup ## the page of results, docs/scale.md and README's picture, from docs/results/*.json
	@$(run) tools/make_results.py $(ARGS)
	@$(run) tools/estimate_scale.py
	@$(run) tools/draw_results.py docs/results/quickstart.json docs/pictures/quickstart.svg \
		--metrics AP APr APc APf

api: setup ## pages of the API from its docstrings, in output/api
	@$(run) -W ignore:Found -m pdoc --docformat google --output-directory output/api det_transfer \
		$$(ls -d det_transfer/*.py det_transfer/*/__init__.py | \
		sed '/det_transfer.__init__/d; s,/__init__,,; s,\.py$$,,; s,/,.,g')

lock: ## solve the requirements anew with uv (ARGS=--upgrade: newest versions)
	$(lock) --no-emit-package opencv-python requirements/base.in -o requirements/lock.txt
	cp requirements/lock.txt requirements/floor.txt
	$(lock) --no-emit-package opencv-python --override requirements/floor.in requirements/base.in \
		-o requirements/floor.txt
	$(lock) -c requirements/lock.txt requirements/build.in -o requirements/build.txt

# What cannot be looked up fails too (--strict). Each pin is asked for as it stands, nothing is solved.
audit: ## the locked sets against the package index's advisories, by pip-audit (AUDIT=floor)
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && \
		$(VENV)-audit/bin/python -m pip install -q pip-audit; }
	@status=0; for file in $(AUDIT); do echo "requirements/$$file.txt"; \
		$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		-r requirements/$$file.txt $(ARGS) || status=1; done; exit $$status

licenses: setup ## docs/licenses.json and its table in docs/dependencies.md, from what is installed
	@$(run) tools/make_license_table.py $(ARGS)

clean: ## remove what tools leave behind; .venv, output and datasets stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find det_transfer tools datasets tests -name __pycache__ -prune -exec rm -rf {} +
