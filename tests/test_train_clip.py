"""A dual encoder's training end to end in miniature, its resumption, and its retrieval metrics."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rankers import TINY, log_lines
from safetensors.torch import load_file

import evaluate
from dalle_base.common.checkpoint import read_training_state
from dalle_base.common.errors import UserError
from dalle_base.common.images import open_image
from dalle_base.data.sources.base import Subset
from dalle_base.data.sources.folder import FolderSource
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.config import LossConfig
from dual_encoder.examples import Confusions, HeldOut, concept, held_out_pairs
from dual_encoder.loss import contrastive_loss
from dual_encoder.metrics import classification, measure, ranks, retrieval


def states(folder: Path) -> dict[str, Any]:
    average = load_file(folder / "checkpoint/model.safetensors")
    return average | read_training_state(folder / "checkpoint")["trainer"]["model"]


def test_images_and_captions_to_a_model_that_ranks(
    train_ranker: Callable[..., Any], tmp_path: Path, image_folder: Path
) -> None:
    status, printed, error = train_ranker("clip", "run.updates=4", "run.evaluate_every=2")
    assert status == 0, error
    assert "wrote" in printed
    held_out = [line for line in log_lines(tmp_path / "clip") if "held_out_loss" in line]
    assert [line["step"] for line in held_out] == [2, 4]
    for way in ("caption_to_picture", "picture_to_caption"):
        recalls = [held_out[-1][f"{way}_recall_{k}"] for k in (1, 5, 10)]
        assert recalls == sorted(recalls)
        assert held_out[-1][f"{way}_median_rank"] >= 1
    assert open_image(tmp_path / "clip/samples/0000004.png").width > 3 * 32
    ranker = load_dual_encoder(tmp_path / "clip/model")
    assert (
        load_file(tmp_path / "clip/model/model.safetensors")["logit_scale"].dtype == torch.bfloat16
    )
    image = open_image(image_folder / "00.png")
    scores = ranker.image_features([image]) @ ranker.text_features(["a red picture"]).T
    assert scores.abs().item() <= 1


def test_pairs_are_learned(train_ranker: Callable[..., Any], tmp_path: Path) -> None:
    """The three colours of the images: the loss falls far below that of guessing, ln 6 = 1.79."""
    options = [
        "data.held_out_share=0",
        "run.batch_size=6",
        "text.bpe_dropout=0",
        "optimiser.warmup_updates=10",
    ]
    train_ranker(
        "clip", "run.updates=60", "optimiser.lr=0.01", "optimiser.decay_updates=60", *options
    )
    losses = [line["loss"] for line in log_lines(tmp_path / "clip") if "loss" in line]
    assert losses[0] > 1.6
    assert sum(losses[-10:]) / 10 < 1.2


@pytest.mark.parametrize("optimiser", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    train_ranker: Callable[..., Any], tmp_path: Path, optimiser: str
) -> None:
    """With dropout of all kinds, and encoded in chunks."""
    options = [
        *("model.dropout=0.1", "model.patch_dropout=0.5", "text.bpe_dropout=0.5"),
        *("chunk_images=3", "loss.chunk=3"),
        *(f"optimiser.name={optimiser}", "run.evaluate_every=2"),
    ]
    assert train_ranker("whole", "run.updates=6", *options)[0] == 0
    assert train_ranker("parts", "run.updates=3", *options)[0] == 0
    status, printed, _ = train_ranker("parts", "run.updates=6", *options)
    assert status == 0
    assert "resumed" in printed
    whole, parts = states(tmp_path / "whole"), states(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    kept = [[x for x in log_lines(tmp_path / n) if x["step"] != 3] for n in ("whole", "parts")]
    assert kept[0] == kept[1]


def test_chunks_train_the_same_model(train_ranker: Callable[..., Any], tmp_path: Path) -> None:
    train_ranker("plain", "run.updates=3")
    train_ranker("chunks", "run.updates=3", "chunk_images=3", "loss.chunk=1")
    plain, chunks = (log_lines(tmp_path / name) for name in ("plain", "chunks"))
    for ours, theirs in zip(plain, chunks, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_scale_never_leaves_its_bounds(
    train_ranker: Callable[..., Any], tmp_path: Path
) -> None:
    train_ranker("clip", "run.updates=5", "optimiser.lr=1.0", "optimiser.clip=1")
    scales = [line["scale"] for line in log_lines(tmp_path / "clip") if "scale" in line]
    assert max(scales) <= 100.001
    assert states(tmp_path / "clip")["logit_scale"].exp() <= 100.001


def test_fine_tuning_keeps_the_text_encoding_and_starts_from_the_weights(
    train_ranker: Callable[..., Any], tmp_path: Path
) -> None:
    train_ranker("first", "run.updates=1")
    init = f"init={tmp_path / 'first/model'}"
    assert train_ranker("second", "run.updates=1", "optimiser.lr=1e-9", init)[0] == 0
    before, after = (
        load_file(tmp_path / n / "model/model.safetensors") for n in ("first", "second")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    texts = [(tmp_path / n / "model/text.json").read_text() for n in ("first", "second")]
    assert texts[0] == texts[1]
    status, _, error = train_ranker("third", "run.updates=1", "model.embed_dim=9", init)
    assert status == 2
    assert "this config needs" in error


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("model.patch_size=7", "model.patch_size=7 does not divide"),
        ("model.vocab_size=200", "at least 256"),
        ("loss.same_caption=maybe", "loss.same_caption"),
        ("chunk_images=-1", "chunk_images"),
        ("data.path=nowhere", "nowhere"),
        ("init=nowhere", "nowhere"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(
    train_ranker: Callable[..., Any], option: str, named: str
) -> None:
    status, _, error = train_ranker("clip", "run.updates=1", option)
    assert status == 2
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


def test_concepts_are_those_of_the_plain_caption() -> None:
    assert concept("A red  heart") == concept("a red heart ")
    assert concept("a red heart") != concept("a blue heart")
    assert -(2**63) <= concept("x") < 2**63


def test_unreadable_held_out_images_are_left_out(image_folder: Path) -> None:
    (image_folder / "03.png").write_bytes(b"no image")
    source = FolderSource(str(image_folder))
    pairs = held_out_pairs(source, 16, 0)
    assert len(pairs.images) == len(pairs.captions) == len(pairs.concepts) == 11
    assert "a red picture, number 3" not in pairs.captions
    assert {image.size for image in pairs.images} == {(16, 16)}
    with pytest.raises(UserError, match="can be read"):
        held_out_pairs(Subset(source, [3]), 16, 0)


def test_ranks_count_ties_against_the_model() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.5], [0.1, 0.9, 0.8]])
    right = torch.eye(3, dtype=torch.bool)
    assert ranks(scores, right).tolist() == [1, 3, 2]
    right[2, 1] = True
    assert ranks(scores, right).tolist() == [1, 3, 1]


def test_recalls_of_known_features() -> None:
    """Twelve images, whose captions point to the next: only equal captions are found at once."""
    images = torch.eye(12)
    text = images.roll(-1, dims=0)
    captions = [f"{i}" for i in range(12)]
    perfect = retrieval(images, images, captions)
    assert perfect["mean_recall"] == 1
    assert perfect["caption_to_picture_median_rank"] == 1
    figures = retrieval(images, text, captions)
    assert figures["picture_to_caption_recall_1"] == 0
    assert figures["picture_to_caption_recall_10"] == 0
    assert figures["picture_to_caption_median_rank"] == 12
    paired = retrieval(images, text, [f"{(i + 1) // 2 % 6}" for i in range(12)])
    assert paired["caption_to_picture_recall_1"] == 0.5
    assert paired["picture_to_caption_recall_1"] == 0.5


def test_measuring_takes_the_model_as_it_ships(
    train_ranker: Callable[..., Any], tmp_path: Path
) -> None:
    train_ranker("clip", "run.updates=1")
    ranker = load_dual_encoder(tmp_path / "clip/model")
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    captions = ["red", "green", "blue"]
    held_out = HeldOut(images, captions, torch.tensor([1, 2, 3]))
    figures = measure(ranker, held_out, LossConfig(chunk=2))
    features = ranker.image_features(images), ranker.text_features(captions)
    expected = contrastive_loss(
        *features, scale=ranker.model.scale(), concepts=held_out.concepts, config=LossConfig()
    )
    assert figures["held_out_loss"] == pytest.approx(expected.item())
    assert figures["mean_recall"] == retrieval(*features, captions=captions)["mean_recall"]


@pytest.mark.slow
def test_two_processes_train_and_measure(
    run_in_two_processes: Callable[..., None], image_folder: Path, tmp_path: Path
) -> None:
    """One process measures by itself while the other goes on: neither waits for ever."""
    places = [f"data.path={image_folder}", f"run.out={tmp_path / 'clip'}"]
    options = ["run.updates=4", "run.evaluate_every=2", "run.batch_size=2", "chunk_images=1"]
    run_in_two_processes("train_clip.py", *TINY, *places, *options)
    assert log_lines(tmp_path / "clip")[-1]["step"] == 4
    load_dual_encoder(tmp_path / "clip/model")


def test_classification_counts_images_whose_own_caption_beats_the_others() -> None:
    text = torch.eye(4)
    captions = ["a", "b", "c", "c"]
    text[3] = text[2]
    images = torch.tensor([[2.0, 1, 0, 0], [2, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1.0, 0]])
    assert classification(images, text, captions) == 0.5  # the last one ties, which is no win
    assert classification(images, text, captions, among=1) == 1
    many = torch.eye(50)
    names = [str(i) for i in range(50)]
    assert classification(many, many, names, among=10) == 1
    # A caption that beats the own one is among 9 others of 49 in about a fifth of the samples.
    rival = many + 2 * many.roll(1, dims=0)
    share = classification(rival, many, names, among=10)
    assert 0.6 < share < 1


def test_evaluate_measures_a_dual_encoder(
    train_ranker: Callable[..., Any],
    tmp_path: Path,
    image_folder: Path,
    run_script: Callable[..., tuple[int, str, str]],
) -> None:
    train_ranker("clip", "run.updates=2")
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{path: {image_folder}, held_out_share: 0.5}}")
    folder = tmp_path / "clip/model"
    arguments = [folder, "--config", config, "--json", tmp_path / "figures.json"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 <= figures["classification_of_100"] <= 1
    assert "caption_to_picture_recall_1" in printed
    for wrong, named in (([], "--config"), (["--config", config, "--checker", "3"], "--checker")):
        status, _, error = run_script(evaluate.main, folder, *wrong)
        assert status == 2
        assert named in error


def test_captions_are_made_wrong_by_words_of_one_list() -> None:
    lists = [["red", "blue|azure", "green"], ["left", "right"]]
    caption = "a red disc left of an azure box"
    rng = np.random.default_rng(0)
    confused = Confusions(lists)
    seen = {confused(caption, rng) for _ in range(300)}
    assert seen == {
        "a azure disc left of an red box",
        "a blue disc left of an azure box",
        "a green disc left of an azure box",
        "a red disc left of an red box",
        "a red disc left of an green box",
        "a red disc right of an azure box",
    }
    assert confused("a box", rng) == "a box"
    assert Confusions([])(caption, rng) == caption


def test_the_table_of_exchangeable_words_is_made_once() -> None:
    """Not for each caption: the lists are gone through when it is made, and never again."""

    class Words(list):
        readings = 0

        def __iter__(self) -> Iterator[str]:
            Words.readings += 1
            return super().__iter__()

    confused = Confusions([Words(["red", "blue", "green"]), Words(["left", "right"])])
    assert Words.readings == 2
    rng = np.random.default_rng(0)
    captions = [confused("a red disc left of a blue box", rng) for _ in range(50)]
    assert "a red disc left of a blue box" not in captions
    assert Words.readings == 2


def test_a_run_makes_one_table_of_exchangeable_words(
    train_ranker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = Confusions.__init__
    monkeypatch.setattr(
        Confusions, "__init__", lambda self, lists: (made.append(lists), make(self, lists))[1]
    )
    assert train_ranker("clip", "run.updates=3", "loss.confusable=[[red,green,blue]]")[0] == 0
    assert made == [[["red", "green", "blue"]]]


def test_wrong_captions_train(train_ranker: Callable[..., Any], tmp_path: Path) -> None:
    words = "loss.confusable=[[red,green,blue]]"
    status, _, error = train_ranker("clip", "run.updates=3", words, "chunk_images=2")
    assert status == 0, error
    plain = train_ranker("plain", "run.updates=3", "chunk_images=2")
    assert plain[0] == 0
    first = [log_lines(tmp_path / name)[0]["loss"] for name in ("clip", "plain")]
    assert first[0] > first[1]
