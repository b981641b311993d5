"""Output files: names, locks, atomic writes, and whether an output is written, resumed, skipped or refused."""
