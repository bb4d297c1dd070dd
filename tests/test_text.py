"""Captions to tokens and back."""

import pytest
import torch

from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING, TextTokenizer
from dalle_base.data.text_training import train_text

CAPTIONS = [
    f"a {size} {colour} {shape} on the {side}"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for shape in ("circle", "square", "triangle")
    for side in ("left", "right")
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_text(CAPTIONS, 320)


@pytest.mark.parametrize(
    ("caption", "normal"),
    [
        ("a small red circle", "a small red circle"),
        ("  A Small\n\tRED   circle ", "a small red circle"),
        ("zebra crossing, 1984!", "zebra crossing, 1984!"),
        ("a 🦔 in a christmas sweater", "a 🦔 in a christmas sweater"),
        ("ＦＵＬＬ ﬁne ÀÉ 猫", "full fine àé 猫"),
        ("don't", "don't"),
    ],
)
def test_round_trip_of_known_and_unknown_words(tokenizer, caption, normal):
    tokens = tokenizer.encode([caption], 64)
    assert tokenizer.decode(tokens[0]) == normal
    assert torch.equal(tokens, tokenizer.encode([normal], 64))
    for dropout in (0.1, 1.0):
        assert tokenizer.decode(tokenizer.encode([caption], 64, dropout, [7])[0]) == normal


def test_tokens_are_padded_to_the_right(tokenizer):
    tokens = tokenizer.encode(["red", "a small red circle"], 8)
    assert tokens.dtype == torch.long
    assert tokens.shape == (2, 8)
    # Frequent words are one token, the same at the start as within.
    assert tokens[0, 0] == tokens[1, 2]
    assert tokens[0].tolist() == [tokens[0, 0].item()] + [PADDING] * 7
    assert (tokens[1, :4] >= 0).all()
    assert (tokens[1, 4:] == PADDING).all()
    assert tokens.max() < tokenizer.vocab_size


def test_vocabulary_is_at_most_what_was_asked_for(tokenizer):
    assert train_text(CAPTIONS, 290).vocab_size == 290
    assert 290 < tokenizer.vocab_size < 320  # there are no more pairs to merge
    assert train_text([], 256).vocab_size == 256
    with pytest.raises(UserError, match="vocab_size is 255"):
        train_text(CAPTIONS, 255)


def test_training_twice_gives_the_same_encoding(tokenizer):
    again = train_text(CAPTIONS, 320)
    assert torch.equal(again.encode(CAPTIONS, 12), tokenizer.encode(CAPTIONS, 12))


def test_dropout_varies_and_is_off_by_default(tokenizer):
    caption = ["a small green triangle on the right"]
    plain = tokenizer.encode(caption, 64)
    drops = {tuple(tokenizer.encode(caption, 64, 0.3, [i])[0].tolist()) for i in range(30)}
    assert len(drops) > 10
    assert torch.equal(tokenizer.encode(caption, 64), plain)
    letters = tokenizer.encode(caption, 64, 1.0, [0])[0]
    assert (letters != PADDING).sum() == len(caption[0]) + 1  # and a space in front
    with pytest.raises(UserError, match=r"dropout is 1\.5"):
        tokenizer.encode(caption, 64, 1.5, [0])


def test_dropout_depends_on_the_seed_alone(tokenizer):
    captions = ["a small green triangle", "a blue square"]
    both = tokenizer.encode(captions, 64, 0.3, [1, 2])
    assert torch.equal(both, tokenizer.encode(captions, 64, 0.3, [1, 2]))
    assert torch.equal(both[1:], tokenizer.encode(captions[1:], 64, 0.3, [2]))


def test_our_merging_with_dropout_is_the_librarys_without(tokenizer):
    """A rate too small to drop anything leaves the same merges to be made in the same order."""
    captions = [*CAPTIONS, "zażółć 🐌 qwxyz, never seen"]
    seeds = list(range(len(captions)))
    ours = tokenizer.encode(captions, 64, 1e-15, seeds)
    assert torch.equal(ours, tokenizer.encode(captions, 64))


def test_a_long_caption_is_cut_and_says_where(tokenizer):
    caption = "a small red circle on the left"
    assert tokenizer.cut(caption, 7) is None
    cut = tokenizer.cut(caption, 5)
    assert cut is not None
    assert cut.kept == "a small red circle on"
    assert cut.kept == tokenizer.decode(tokenizer.encode([caption], 5)[0])
    assert str(cut) == (
        'caption of 7 tokens cut to 5: the model reads up to "... small red circle on"'
    )
    # Half of an emoji is left out of what is shown.
    half = tokenizer.cut("red 🦔", 3)
    assert half is not None
    assert half.kept.strip() == "red"


@pytest.mark.parametrize("caption", ["", "  \n ", "\u3000"])
def test_an_empty_caption_is_refused(tokenizer, caption):
    with pytest.raises(UserError, match="is empty"):
        tokenizer.encode(["red", caption], 8)


def test_broken_unicode_is_refused(tokenizer):
    with pytest.raises(UserError, match="not valid Unicode"):
        tokenizer.encode(["red \ud83e"], 8)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "text.json"
    tokenizer.encode(["red"], 4, 0.5, [0])  # must leave no trace in the file
    tokenizer.save(path)
    loaded = TextTokenizer.load(path)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert torch.equal(loaded.encode(CAPTIONS, 12), tokenizer.encode(CAPTIONS, 12))


def test_a_damaged_or_missing_file_is_named(tokenizer, tmp_path):
    path = tmp_path / "text.json"
    with pytest.raises(UserError, match=r"text\.json"):
        TextTokenizer.load(path)
    tokenizer.save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff\xfe\x00", b'{"model": 1}'):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"text\.json: damaged"):
            TextTokenizer.load(path)
