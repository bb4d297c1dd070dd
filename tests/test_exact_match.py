"""Candidates of scenes: the first, the best by the reranker, any that is right."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from dalle.config import Sampling
from dalle.text_to_image import Samples, TextToImage
from dalle_base.data.shapes import example
from dalle_evaluation import exact_match
from dalle_evaluation.intervals import interval, ratio

Script = Callable[..., tuple[int, str, str]]


def scenes(count: int, each: int, right: Callable[[int, int], bool]) -> Samples:
    """Candidates of scenes: the real image where one is right, else a blank."""
    images, captions = [], []
    for i in range(count):
        image, caption = example("test", 1, i, 64)
        for k in range(each):
            images.append(image if right(i, k) else Image.new("RGB", image.size))
            captions.append(caption)
    blank = torch.zeros(len(images), 16, dtype=torch.long)
    none = [0] * len(images)
    return Samples(images, blank, torch.zeros(len(images)), captions, none, none)


def test_the_best_of_more_candidates_is_the_rerankers(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = scenes(4, 5, lambda i, k: k == i)  # scene 0 is right at once, scene 3 in its fourth
    monkeypatch.setattr(exact_match, "sample", lambda *_: samples)
    scores = torch.tensor([[5.0, 0, 0, 0, 9], [0, 5, 0, 0, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    model = SimpleNamespace(rank=lambda _: scores.flatten())
    found = exact_match.exact_match_of_samples(model, Sampling(candidates=5), "test", 4)  # type: ignore
    exact = {name: np.asarray(each) for name, each in found.items() if name.endswith("exact")}
    means = {name: float(each.mean()) for name, each in exact.items()}
    assert means == {
        "sample_exact": 0.25,
        "sample_best_of_4_exact": 0.5,
        "sample_any_of_4_exact": 1.0,
        "sample_best_of_5_exact": 0.25,
        "sample_any_of_5_exact": 1.0,
    }
    monkeypatch.setattr(exact_match, "sample", lambda *_: scenes(4, 1, lambda i, k: i == 2))
    one = exact_match.exact_match_of_samples(model, Sampling(candidates=1), "test", 4)  # type: ignore
    assert [name for name in one if "of" in name] == []


def test_candidates_without_a_reranker_are_one_line(
    toy: Path, tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TextToImage, "batches", lambda *_, **__: pytest.fail("something was sampled")
    )
    bare = tmp_path / "bare"
    shutil.copytree(toy, bare, ignore=shutil.ignore_patterns("reranker"))
    status, _, error = run_script(evaluate.main, bare, "--checker", "2", "--candidates", "4")
    assert status == 2
    assert "--candidates needs a reranker" in error.splitlines()[-1]
    status, _, error = run_script(evaluate.main, toy, "--candidates", "4")
    assert status == 2
    assert "give --judge as well" in error


def test_a_resample_that_counts_nothing_does_not_count() -> None:
    found = interval(ratio(np.array([1.0, 4, 0, 3]), np.array([2.0, 4, 1, 3]), 1), 200)
    assert found.value == pytest.approx(0.8)
    assert found.low < 0.8 < found.high <= 1
    rare = interval(ratio(np.array([0.0, 0, 0, 2]), np.array([0.0, 0, 0, 2]), 1), 200)
    assert rare == (1, 1, 1)
