"""The benchmarks run and end with one JSON object of ratios; what the ratios are is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measuring, sampling
from benchmarks.sampling import LONG, SHORT, Case, Found, ratios_of

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
        (
            "startup --quick",
            "help_vs_import_torch mistake_vs_import_torch loading_vs_import_torch "
            "first_image_vs_import_torch",
        ),
        ("growth --quick --rounds 1", "row_vs_dense column_vs_dense conv_vs_dense"),
    ],
)
def test_the_last_line_is_json_with_the_ratios(command: str, names: str) -> None:
    full = [sys.executable, "-m", *f"benchmarks.{command}".split()]
    done = subprocess.run(full, cwd=ROOT, check=True, capture_output=True, text=True)
    ratios = json.loads(done.stdout.splitlines()[-1])["ratios"]
    assert set(names.split()) <= set(ratios)
    assert all(ratio > 0 for ratio in ratios.values())


def figures(case: Case) -> dict[str, float]:
    """Figures that differ from case to case."""
    rate = 100.0 * (1 + sampling.VARIANTS.index(case.variant)) + case.candidates
    found = {"tokens_per_second": rate, "step_ms": 1e3 / rate}
    if case.variant != "recompute":
        found |= {"last_row_vs_first": 1.5, "cache_mb": rate / 2, "first_row_s": 1.0}
    return found | ({} if case.variant in ("dense", "recompute") else {"floor_share": 0.25})


def found_for(*candidates: int, variants: tuple[str, ...] = sampling.VARIANTS) -> Found:
    cases = [
        Case(stream, variant, count)
        for stream in sampling.STREAMS
        for count in candidates
        for variant in variants
    ]
    return {case: figures(case) for case in cases if case.is_worth_it}


def test_sampling_has_all_its_ratios_where_8_and_64_candidates_were_measured() -> None:
    ratios = ratios_of(found_for(1, 8, 64, 512), peer=10)
    assert ratios == pytest.approx(
        {
            "last_row_vs_first": 1.5,
            "floor_share_64": 0.25,
            "vs_dense_cache_64": 264 / 564,  # compiled, the second variant; dense, the fifth
            "cache_memory_vs_dense": 564 / 264,
            "vs_recompute_8": 208 / 608,
            "vs_peer_batch8": 20.8,
            "vs_peer_batch8_eager": 10.8,
            "vs_peer_batch8_bfloat16": 30.8,
            "vs_peer_batch8_int8": 40.8,
        }
    )


def test_sampling_leaves_out_the_ratios_whose_parts_were_not_measured() -> None:
    of_64 = {"last_row_vs_first", "floor_share_64", "vs_dense_cache_64", "cache_memory_vs_dense"}
    assert set(ratios_of(found_for(8))) == {"vs_recompute_8"}
    assert set(ratios_of(found_for(64))) == of_64
    assert ratios_of(found_for(1, 512)) == {}
    quick = ratios_of(found_for(8, 64, variants=sampling.QUICK_VARIANTS), peer=10)
    assert set(quick) == of_64 | {"vs_recompute_8", "vs_peer_batch8", "vs_peer_batch8_eager"}
    assert quick["vs_dense_cache_64"] == pytest.approx(164 / 564)  # eager, the first variant


def test_rounded_weights_and_full_passes_are_measured_where_they_say_more() -> None:
    found = found_for(1, 8, 64)
    assert [case for case in found if case.variant == "int8"] == [
        Case(SHORT, "int8", 8),
        Case(SHORT, "int8", 64),
    ]
    assert {case.candidates for case in found if case.variant == "recompute"} == {1, 8}
    assert Case(LONG, "dense", 64) in found


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The sampling benchmark with figures made up; the list is of what it would have measured."""
    asked: list[Case] = []

    def measure(model: object, variant: str, candidates: int) -> dict[str, float]:
        asked.append(Case(SHORT, variant, candidates))
        return figures(asked[-1])

    monkeypatch.setattr(sampling, "measure", measure)
    monkeypatch.setattr(sampling, "build", lambda stream: None)
    monkeypatch.setattr(sampling, "floor_seconds", lambda *_: 1e-3)
    monkeypatch.setattr(sampling, "ceiling", lambda dtype: 1e9)
    monkeypatch.setattr(sampling, "bandwidth", lambda: 1e9)
    return asked


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        (["8"], {"vs_recompute_8"}),
        (["1"], set()),
        (["64", "8"], {"vs_recompute_8", "floor_share_64"}),
    ],
)
def test_sampling_ends_with_its_ratios_for_any_counts(
    counts, names, nothing_measured, run_script
) -> None:
    status, out, _ = run_script(sampling.main, "--quick", "--candidates", *counts)
    assert status == 0
    ratios = json.loads(out.splitlines()[-1])["ratios"]
    assert names <= set(ratios)
    assert bool(ratios) == bool(names)
    assert {case.candidates for case in nothing_measured} == set(map(int, counts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "8", "0"], "error: --candidates 0: write numbers of at least 1"),
        (
            ["--candidates", "64", "--peer", "x"],
            "error: --peer is compared at 8 candidates: have 8",
        ),
    ],
)
def test_sampling_refuses_what_it_cannot_measure_at_once(
    arguments, message, nothing_measured, run_script
) -> None:
    status, _, error = run_script(sampling.main, *arguments)
    assert status == 2
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert nothing_measured == []


def test_the_product_for_a_ceiling_stays_small_where_it_takes_long(monkeypatch) -> None:
    sides = []

    def timed(functions: dict, rounds: int) -> dict[str, float]:
        (product,) = functions.values()
        side = len(product.args[0])
        sides.append(side)
        return {"product": 2 * side**3 / 1e9}

    monkeypatch.setattr(measuring, "interleaved", timed)
    assert measuring.ceiling(torch.float32) == pytest.approx(1e9)
    assert sides == [256, 512]  # a quarter of a second, at 1 GFLOP/s
