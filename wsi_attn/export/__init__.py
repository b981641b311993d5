"""Export of predictions and stores to formats of other pathology tools."""
