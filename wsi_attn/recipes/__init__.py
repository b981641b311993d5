"""Recipes of the shipped models, from data to card; one repeatable command each."""
