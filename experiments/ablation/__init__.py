"""Ablations: change one thing, train, compare. `python -m experiments.run` is the command."""
