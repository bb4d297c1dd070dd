"""Ablations: one base config, one change at a time, one table."""
