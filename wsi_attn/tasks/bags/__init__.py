"""Classification of bags of stored features."""
