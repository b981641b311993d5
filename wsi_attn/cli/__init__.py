"""Command-line interface: a thin layer over the library with one module per command."""
