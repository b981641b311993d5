"""Files on disk: the store of one slide (OME-Zarr 0.5, `schema.py`) and predictions (`predictions.py`)."""
