"""The power law of losses over sizes of models and data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dalle_base.common.errors import UserError
from experiments import power_law
from experiments.power_law import Law, Point, block_weights, fit, intervals, report

TRUE = Law(0.3, 40.0, 0.4, 9.0, 0.5)


def trainings(law: Law, noise: float = 0.0, seeds: int = 3) -> list[Point]:
    generator = np.random.default_rng(1)
    return [
        Point(n, d, seed, float(law(np.array(n), np.array(d))) * generator.normal(1, noise))
        for n in (50_000, 400_000, 3_000_000)
        for d in (500, 2000, 8000)
        for seed in range(seeds)
    ]


def test_a_law_is_found_again() -> None:
    law = fit(trainings(TRUE))
    for weights, images in ((1e5, 1e3), (1e6, 1e5)):  # between and beyond
        n, d = np.array(weights), np.array(images)
        assert law(n, d) == pytest.approx(float(TRUE(n, d)), rel=0.02)
    assert law.size_exponent == pytest.approx(0.4, abs=0.04)
    assert law.data_exponent == pytest.approx(0.5, abs=0.04)


def test_noise_widens_the_intervals() -> None:
    widths = []
    for noise in (0.001, 0.03):
        points = trainings(TRUE, noise)
        found = intervals(points, fit(points), resamples=12)
        assert all(each.low <= each.high for each in found)
        widths.append(found[4].high - found[4].low)
    assert widths[0] < widths[1]


def test_what_no_law_can_be_fitted_to_is_refused() -> None:
    with pytest.raises(UserError, match="three sizes of the data"):
        fit([point for point in trainings(TRUE) if point.images < 5000])
    growing = [point._replace(loss=-point.loss) for point in trainings(TRUE)]
    with pytest.raises(UserError, match="fall neither"):
        fit(growing)


def test_only_blocks_count(tmp_path: Path) -> None:
    tensors = {"blocks.0.out.weight": torch.zeros(3, 5), "image_head.weight": torch.zeros(7, 7)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert block_weights(tmp_path) == 15


def test_the_report_shows_each_size_once(tmp_path: Path) -> None:
    points = trainings(TRUE)
    law = fit(points)
    text = report(points, law, "loss", resamples=2)
    assert text.count("\n| 400,000 |") == 3
    power_law.draw(points, law, "loss", tmp_path / "law.png")
    assert (tmp_path / "law.png").stat().st_size > 1000
