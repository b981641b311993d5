"""Reading slides and images: one contract, one reader a family of formats."""
