"""Scripts that make files by the packages that published weights come from.

Each runs in a process of its own, with the package in a folder of its own, and imports nothing of
ours: `python SCRIPT OUT`. It writes weights with random values, and what the package makes of them.
"""
