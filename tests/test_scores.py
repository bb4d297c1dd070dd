"""Scores: closed forms, intervals, what a good and a deaf model get; FID's features."""

import importlib.util
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from rankers import COLOURS, colour_ranker, plain, untrained
from safetensors.torch import save_file

from dalle_base.common.errors import UserError
from dalle_base.data.captions import with_artist
from dalle_base.data.sources.folder import FolderSource
from dalle_evaluation.frechet import frechet_distance, frechet_score
from dalle_evaluation.inception import Inception
from dalle_evaluation.intervals import mean_interval
from dalle_evaluation.metrics.recall import recalled
from dalle_evaluation.scores import HeldOutImages, choose_held_out, scores


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size))
    return root @ root.T


def test_the_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    mean, other = np.array([1.0, 2.0, 0.0]), np.array([0.0, 2.0, 2.0])
    first, second = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.0])
    expected = 1 + 4 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    found = frechet_distance(mean, np.diag(first), other, np.diag(second))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_distance_is_the_general_formula_symmetric_and_unmoved_by_rotation() -> None:
    rng = np.random.default_rng(0)
    mean, other = rng.normal(size=(2, 6))
    first, second = covariance(rng, 6), covariance(rng, 6)
    trace = np.sqrt(np.abs(np.linalg.eigvals(first @ second))).sum()
    expected = ((mean - other) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * trace
    found = frechet_distance(mean, first, other, second)
    assert found == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(other, second, mean, first) == pytest.approx(expected, rel=1e-10)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    turned = (turn @ mean, turn @ first @ turn.T, turn @ other, turn @ second @ turn.T)
    assert frechet_distance(*turned) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [5, 200])  # fewer and more than the 20 features
def test_equal_sets_are_at_distance_0_and_moved_ones_at_the_square(count: int) -> None:
    features = np.random.default_rng(0).normal(size=(count, 20))
    score = frechet_score(features + 3 / np.sqrt(20), features, features, resamples=5)
    assert score.real.value == pytest.approx(0, abs=1e-6)
    assert score.sampled.value == pytest.approx(9, rel=1e-6)


def test_few_features_are_turned_into_their_space_without_a_change() -> None:
    rng = np.random.default_rng(0)
    sampled, real, reference = rng.normal(size=(3, 6, 40))
    score = frechet_score(sampled, real, reference, resamples=3)
    expected = frechet_distance(
        sampled.mean(0), np.cov(sampled.T), reference.mean(0), np.cov(reference.T)
    )
    assert score.sampled.value == pytest.approx(expected, rel=1e-6)


def test_both_sides_have_as_many_images_as_the_reference() -> None:
    rng = np.random.default_rng(0)
    sampled, real, reference = (
        rng.normal(size=(30, 4)),
        rng.normal(size=(30, 4)),
        rng.normal(size=(10, 4)),
    )
    full = frechet_score(sampled, real, reference, resamples=3)
    assert full == frechet_score(sampled[:10], real[:10], reference, resamples=3)


def test_intervals_surround_the_figure_and_narrow_with_more_images() -> None:
    rng = np.random.default_rng(0)
    few, many = (
        frechet_score(*rng.normal(size=(3, n, 5)), resamples=100).sampled for n in (50, 800)
    )
    for figure in (few, many):
        assert figure.low <= figure.value <= figure.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_interval_of_a_mean_is_what_theory_says() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = mean_interval(values, 2000)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found == mean_interval(values, 2000)
    assert found != mean_interval(values, 2000, seed=1)


def test_recall_counts_the_wrong_ones_before_the_right() -> None:
    similarities = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.3, 0.2, 0.1]])
    captions = ["a", "b", "c"]
    assert recalled(similarities, captions, 1).tolist() == [1, 0, 0]
    assert recalled(similarities, captions, 2).tolist() == [1, 0, 0]
    assert recalled(similarities, captions, 3).tolist() == [1, 1, 1]
    # Row 1 now also finds its caption at place 2.
    assert recalled(similarities, ["a", "b", "b"], 1).tolist() == [1, 1, 0]


def test_a_model_to_which_all_is_alike_recalls_nothing() -> None:
    assert not recalled(np.ones((20, 20)), [str(i) for i in range(20)], 10).any()


def held_out() -> HeldOutImages:
    captions = [f"a {colour} thing" for colour in COLOURS]
    real = [plain(colour) for colour in COLOURS]
    return HeldOutImages(captions, real, real)


def test_right_images_reach_the_ceiling_and_wrong_ones_do_not() -> None:
    ranker, given = colour_ranker(), held_out()
    right = scores(ranker, given.real, given, resamples=20)
    assert right["clip_score"].sampled == right["clip_score"].real
    assert right["text_to_picture_recall_at_1"].sampled.value == 1
    assert "text_to_picture_recall_at_5" not in right  # of three images it would always be 1
    assert right["fd_dual_encoder"].sampled.value == pytest.approx(0, abs=1e-6)
    wrong = scores(ranker, given.real[1:] + given.real[:1], given, resamples=20)
    assert wrong["clip_score"].sampled.value < right["clip_score"].real.value - 0.5
    assert wrong["picture_to_text_recall_at_1"].sampled.value == 0
    assert wrong["picture_to_text_recall_at_1"].real.value == 1
    assert wrong["fd_dual_encoder"].sampled.value == pytest.approx(0, abs=1e-6)


def test_the_clip_score_is_two_and_a_half_cosines_none_below_0() -> None:
    ranker, given = untrained(), held_out()
    sampled = [plain("red")] * 3
    found = scores(ranker, sampled, given, resamples=5)
    images, texts = ranker.image_features(sampled), ranker.text_features(given.captions)
    cosines = (images * texts).sum(dim=1)
    assert found["cosine"].sampled.value == pytest.approx(cosines.mean().item(), abs=1e-6)
    expected = 2.5 * cosines.clamp(min=0).mean().item()
    assert found["clip_score"].sampled.value == pytest.approx(expected, abs=1e-6)


def test_held_out_images_have_their_captions_and_the_reference_is_of_others(
    image_folder: Path,
) -> None:
    source = FolderSource(str(image_folder))
    chosen = choose_held_out(source, 5, 8)
    assert [len(part) for part in chosen] == [5, 5, 5]
    by_caption = {with_artist(source.record(i)): i for i in range(len(source))}
    channels = {"red": 0, "green": 1, "blue": 2}
    for caption, image in zip(chosen.captions, chosen.real, strict=True):
        assert image.size == (8, 8)
        assert np.asarray(image).mean(axis=(0, 1)).argmax() == channels[caption.split()[1]]
        assert caption in by_caption
    shown = {image.tobytes() for image in chosen.real}
    assert not shown & {image.tobytes() for image in chosen.reference}
    assert [len(part) for part in choose_held_out(source, 100, 8)] == [12, 12, 6]
    with pytest.raises(UserError, match="scores of 1 captions out of 12"):
        choose_held_out(source, 1, 8)


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of torch-fidelity as is called; like that, it opens any pickle that it is given."""

    class FeatureExtractorInceptionV3:
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path) -> None:
            assert features == ["2048"]
            state = torch.load(feature_extractor_weights_path, weights_only=False)
            if set(state) != {"w"}:
                raise RuntimeError("Error(s) in loading state_dict for Inception:\n\tMissing: w")
            self.w = state["w"]

        def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            assert images.dtype == torch.uint8
            return (images.float().mean(dim=(2, 3)) @ self.w,)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("fake_library")
def test_inception_features_come_from_the_library_with_the_given_weights(tmp_path: Path) -> None:
    weights = {"w": torch.randn(3, 4)}
    torch.save(weights, tmp_path / "w.pth")
    save_file(weights, tmp_path / "w.safetensors")
    images = [plain(colour) for colour in COLOURS] * 12
    found = Inception(tmp_path / "w.pth")(images)
    expected = torch.tensor([COLOURS[c] for c in COLOURS] * 12).float() @ weights["w"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(Inception(tmp_path / "w.safetensors")(images), found)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.usefixtures("fake_library")
def test_weights_that_are_none_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": Payload(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match="is damaged, or holds more than weights"):
        Inception(path)
    assert not (tmp_path / "ran").exists()
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not hold torch-fidelity's Inception weights: Miss"):
        Inception(path)
    torch.save([1], path)
    with pytest.raises(UserError, match="other things than named weights"):
        Inception(path)
    (tmp_path / "w.safetensors").write_bytes(b"?")
    with pytest.raises(UserError, match="cannot be read"):
        Inception(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="nowhere does not exist"):
        Inception(Path("nowhere"))


def test_without_the_library_a_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'not installed: `pip install -e "\.\[fid\]"`'):
        Inception(tmp_path / "w.pth")


@pytest.mark.slow
def test_fid_of_the_real_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights; the library imports torchvision, but Inception does without."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity")
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        monkeypatch.setitem(sys.modules, f"torchvision{name}", MagicMock())
    metric_fid = importlib.import_module("torch_fidelity.metric_fid")
    library = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: None)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        made = library.FeatureExtractorInceptionV3("random", ["2048"], "")
    torch.save(made.state_dict(), tmp_path / "w.pth")
    rng = np.random.default_rng(0)
    sets = [
        Inception(tmp_path / "w.pth")(
            [plain("red").point(lambda v, s=shift: min(255, v + s)) for shift in shifts]
        )
        for shifts in rng.integers(0, 200, size=(2, 6))
    ]
    assert sets[0].shape == (6, 2048)
    ours = frechet_score(sets[0], sets[0], sets[1], resamples=2).sampled.value
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(s)) for s in sets]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3, abs=1e-6)
