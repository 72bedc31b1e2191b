# make demo: train on the sample session, decode it, draw a picture, make the report. make test: the whole test suite.
# make docs: the documentation, its notebooks run, in docs/_build/html. make bench: every benchmark, with its table.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test docs bench clean

demo: $(VENV)/.demo
	rm -rf demo
	mkdir demo
	cd demo && ../$(BIN)/ldmfilter train ../sample_data/linear_track_sim.nwb --interval epochs=run --run run
	cd demo && ../$(BIN)/ldmfilter decode --run run --out latents.zarr
	$(BIN)/python sample_data/draw.py demo/latents.zarr sample_data/linear_track_sim.nwb demo/latents.png
	cd demo && ../$(BIN)/ldmfilter report run --out report.html --behavior linear_position --behavior facing
	@echo "run folder: demo/run"
	@echo "states:     demo/latents.zarr   (xarray.open_zarr)"
	@echo "picture:    demo/latents.png"
	@echo "report:     $(CURDIR)/demo/report.html   (a browser opens it; its numbers: report.json)"

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "documentation: $(CURDIR)/docs/_build/html/index.html"

bench: $(VENV)/.bench
	for one in tests/benchmarks/[a-z]*_*.py tests/benchmarks/calibration.py tests/benchmarks/scores.py tests/benchmarks/fuzz.py tests/benchmarks/kills.py; do $(BIN)/python $$one; done

# An extra is installed again when what it is made of changes.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)
	$(PIP) -e '.[test,bench]'
	touch $@

$(VENV):
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "ldmfilter needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo docs/_build build dist *.egg-info
