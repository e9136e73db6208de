# The user's two commands are `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/milscope
DATA := examples/demo
MILSCOPE_DATA ?=

.PHONY: help setup demo test check real bench clean

help:
	@sed -n 's/^## //p' Makefile

## make demo   the whole flow on rendered slides; ends by naming the report to open
demo: .venv/.ready
	@$(RUN) synth $(DATA)
	@$(RUN) run $(DATA)/slides.csv --cells $(DATA)/cells.csv --truth $(DATA)/truth/cells.csv --recipe demo --out runs/demo

## make test   every test
test: .venv/.ready-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

## make check  style and types
check: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ty check src

## make real   real slides, five seeds: MILSCOPE_DATA must name the folder that holds malaria/ and cric/
real: .venv/.ready
	$(BIN)/python benchmarks/real.py "$(MILSCOPE_DATA)" --docs docs/results.md

## make bench  speed, as ratios
bench: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/pretrain.py --docs docs/performance.md
	$(BIN)/python benchmarks/train.py --docs docs/performance.md
	$(BIN)/python benchmarks/multitask.py --docs docs/performance.md
	$(BIN)/python benchmarks/endtoend.py --docs docs/performance.md
	$(BIN)/python benchmarks/tile.py --docs docs/performance.md
	$(BIN)/python benchmarks/read.py --docs docs/performance.md
	$(BIN)/python benchmarks/scale.py --docs docs/cluster.md

## make setup  the environment only
setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "milscope needs Python 3.11 or newer: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -m venv .venv
	@echo "installing milscope into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[review]'
	@test -e src/milscope/review/static/openseadragon/version.txt || echo "without the viewer of whole slides, as npm could not bring it: see docs/review.md"
	@touch $@

.venv/.ready-dev: .venv/.ready
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs examples build dist
