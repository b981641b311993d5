"""Any task over many inputs, and its evaluation against the rows of a manifest."""
