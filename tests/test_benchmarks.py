"""The benchmarks run and end with one JSON object; what they say is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (
            "attention --quick --rounds 1",
            "row_vs_masked column_vs_masked conv_vs_masked row_vs_causal column_vs_causal",
        ),
        (
            "sampling --quick",
            "vs_dense_cache_64 cache_memory_vs_dense last_row_vs_first floor_share_64",
        ),
        ("startup --quick", "target_vs_first_picture"),
        ("growth --quick --rounds 1", "row_vs_dense column_vs_dense conv_vs_dense"),
    ],
)
def test_the_last_line_is_json_with_the_ratios(command: str, names: str) -> None:
    full = [sys.executable, "-m", *f"benchmarks.{command}".split()]
    done = subprocess.run(full, cwd=ROOT, check=True, capture_output=True, text=True)
    ratios = json.loads(done.stdout.splitlines()[-1])["ratios"]
    assert set(names.split()) <= set(ratios)
    assert all(ratio > 0 for ratio in ratios.values())
