# Two commands: `make demo` runs the main job on a real slide, `make test` runs the tests. Both set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo-output
SLIDE  ?= tests/data/cmu1_small_region.svs
SMOKE  ?= .smoke
STEM   := $(basename $(notdir $(SLIDE)))

.PHONY: demo test test-all smoke smoke-lowest lowest check format clean

demo: $(VENV)/.run
	@mkdir -p $(DEMO)
	$(BIN)/wsi-attn tile $(SLIDE) --output $(DEMO)
	$(BIN)/wsi-attn predict $(DEMO)/$(STEM).zarr --output $(DEMO)
	$(BIN)/wsi-attn heatmap $(DEMO)/$(STEM).prediction.json
	@echo "store    $(DEMO)/$(STEM).zarr"
	@echo "answer   $(DEMO)/$(STEM).prediction.json"
	@echo "heatmap  $(DEMO)/$(STEM).heatmap.png"
	@echo "regions  $(DEMO)/$(STEM).geojson (drop it onto the slide in QuPath)"

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m 'not slow'

# With the tests marked slow, as .ci/run does.
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# The wheel with its runtime dependencies only, as a user installs it: newest tested versions, then the oldest allowed.
smoke: $(VENV)/.dev $(SMOKE)/newest/.ready
	WSI_ATTN_EXECUTABLE=$(abspath $(SMOKE)/newest/bin/wsi-attn) $(BIN)/python -m pytest tests/smoke

smoke-lowest: $(VENV)/.dev $(SMOKE)/lowest/.ready
	WSI_ATTN_EXECUTABLE=$(abspath $(SMOKE)/lowest/bin/wsi-attn) $(BIN)/python -m pytest tests/smoke

# Rewrites tests/smoke/lowest.txt. The CUDA libraries of torch are left out: the CPU build needs none of them.
lowest: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet uv
	{ echo '# Oldest versions that pyproject.toml allows, for Python 3.11. Written by `make lowest`.'; \
	  $(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --no-header --no-annotate \
	    pyproject.toml | grep -Ev '^(cuda|nvidia|triton)'; } > tests/smoke/lowest.txt

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp files make both commands idempotent: nothing is installed twice.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,view,encoders]'
	@touch $@ $(VENV)/.run

$(SMOKE)/wheel/.built: pyproject.toml README.md $(shell find wsi_attn -type f -not -path '*/__pycache__/*')
	rm -rf $(SMOKE)/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir $(SMOKE)/wheel .
	@touch $@

$(SMOKE)/newest/.ready: CONSTRAINTS = constraints.txt
$(SMOKE)/newest/.ready: constraints.txt
$(SMOKE)/lowest/.ready: CONSTRAINTS = tests/smoke/lowest.txt
$(SMOKE)/lowest/.ready: tests/smoke/lowest.txt
$(SMOKE)/newest/.ready $(SMOKE)/lowest/.ready: $(SMOKE)/wheel/.built
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-compile --constraint $(CONSTRAINTS) $(SMOKE)/wheel/*.whl
	$(@D)/bin/python -m pip install --quiet --force-reinstall --no-deps $(SMOKE)/wheel/*.whl
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) $(SMOKE)
