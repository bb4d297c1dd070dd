"""Speed and memory, as ratios against named baselines measured in the same run.

Each script prints a table and, as its last line, one JSON object with `ratios`; `--quick` takes
under a minute. benchmarks/RESULTS.md keeps results with the commit they were measured at.
"""
