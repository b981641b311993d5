# Two commands: `make demo` runs the main job on a real slide, `make test` runs the tests. Both set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= demo-output
SLIDE  ?= tests/data/cmu1_small_region.svs
STEM   := $(basename $(notdir $(SLIDE)))

.PHONY: demo test check format clean

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
	$(BIN)/python -m pytest

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

clean:
	rm -rf $(VENV) $(DEMO)
