"""Checks of the installation and the machine; every check finishes, whatever is broken."""
