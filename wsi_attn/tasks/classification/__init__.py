"""Classification of whole slides and images: a label for each, and where the model looked."""
