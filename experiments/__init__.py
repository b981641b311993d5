"""Programs that measure the systems: `python -m experiments.run TASK` trains and tests, `python -m experiments.report`
writes docs/results.md from `experiments/results`.
"""
