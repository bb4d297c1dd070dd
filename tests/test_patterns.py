"""Patterns against slow loops written from the paper's words, and their drawings."""

from pathlib import Path

import pytest
import torch

from dalle.patterns import PATTERNS, make_pattern, paper_layers
from dalle.patterns.conv import Conv
from dalle.patterns.draw import page, seen
from dalle.stream import Stream
from dalle_base.common.errors import UserError

GRIDS = [(4, 4), (3, 5), (5, 3), (1, 6), (6, 1), (2, 2), (1, 1)]


def row_keys(query: int, rows: int, columns: int) -> set[int]:
    """The previous W + 1 image tokens in raster order, counting itself."""
    return set(range(max(0, query - columns), query + 1))


def column_keys(query: int, rows: int, columns: int) -> set[int]:
    """The tokens above it in its own column, and itself."""
    row, column = divmod(query, columns)
    return {above * columns + column for above in range(row + 1)}


def full_keys(query: int, rows: int, columns: int) -> set[int]:
    return set(range(query + 1))


def conv_keys(query: int, rows: int, columns: int, kernel: int = 11) -> set[int]:
    """The causal half of a kernel x kernel window, as offsets in the flattened order."""
    half = kernel // 2
    keys = set()
    for up in range(half + 1):
        for across in range(-half, half + 1):
            key = query - up * columns + across
            if 0 <= key <= query:
                keys.add(key)
    return keys


def same_row_keys(query: int, rows: int, columns: int) -> set[int]:
    """The tokens from its row's first to itself; not the paper's."""
    return set(range(query // columns * columns, query + 1))


REFERENCES = {
    "full": full_keys,
    "row": row_keys,
    "same_row": same_row_keys,
    "column": column_keys,
    "conv": conv_keys,
}


def image_keys(name: str, stream: Stream, query: int, kernel: int = 11) -> set[int]:
    pattern = make_pattern(name, {"kernel": kernel} if name == "conv" else None)
    _, grid = seen(pattern, stream, *divmod(query, stream.columns))
    return set(grid.flatten().nonzero()[:, 0].tolist())


def test_every_pattern_has_a_reference():
    assert set(REFERENCES) == set(PATTERNS)
    assert all(name == kind.name for name, kind in PATTERNS.items())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_image_keys_are_those_of_the_reference(name, grid):
    stream = Stream(2, *grid)
    for query in range(stream.image_length):
        assert image_keys(name, stream, query) == REFERENCES[name](query, *grid), query


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("grid", [*GRIDS, (9, 8), (8, 9)])
def test_conv_kernels(grid, kernel):
    stream = Stream(1, *grid)
    for query in range(stream.image_length):
        expected = conv_keys(query, *grid, kernel=kernel)
        assert image_keys("conv", stream, query, kernel) == expected, query


def test_row_is_the_papers_drawing():
    # A grid of 4 x 4: five keys, the oldest straight above, over the end of the row.
    assert image_keys("row", Stream(6, 4, 4), 9) == {5, 6, 7, 8, 9}


def test_conv_in_the_papers_stream():
    keys = image_keys("conv", Stream(256, 32, 32), 20 * 32 + 31)
    query = 20 * 32 + 31
    assert len(keys) == 5 * 11 + 6
    assert query - min(keys) == 5 * 32 + 5  # so a ring of 166 codes holds the window
    assert query - 32 + 1 in keys  # over the side: the next row's first code


@pytest.mark.parametrize("kernel", [0, 4, -3])
def test_conv_kernel_must_be_odd(kernel):
    with pytest.raises(UserError, match=rf"pattern_options\.conv: kernel is {kernel}: write"):
        make_pattern("conv", {"kernel": kernel})


def test_an_option_that_a_pattern_does_not_have_is_refused_with_those_that_it_has():
    with pytest.raises(
        UserError, match=r"pattern_options\.conv: no option 'kernal'; it has kernel"
    ):
        make_pattern("conv", {"kernal": 3})
    with pytest.raises(UserError, match=r"pattern_options\.row: no option 'kernel'; it has none"):
        make_pattern("row", {"kernel": 3})


def test_default_options_are_the_papers():
    assert make_pattern("conv").options == Conv.Options(kernel=11)
    assert make_pattern("conv", {"kernel": 5}).options == Conv.Options(kernel=5)


@pytest.mark.parametrize("text_length", [1, 4])
@pytest.mark.parametrize("name", PATTERNS)
def test_text_is_causal_and_seen_by_all_of_the_image(name, text_length):
    stream = Stream(text_length, 3, 4)
    mask = PATTERNS[name]().mask(stream)
    assert mask.shape == (stream.length, stream.length)
    text = text_length + 1  # BOS is position 0
    assert torch.equal(mask[:text, :text], torch.ones(text, text).tril().bool())
    assert not mask[:text, text:].any()
    assert mask[text:, :text].all()
    assert mask.diagonal().all()
    assert not mask.triu(1).any()


def test_stream_layout():
    stream = Stream(3, 2, 5)
    positions = torch.arange(stream.length)
    assert stream.length == 3 + 10
    assert stream.text_inputs == 4
    assert stream.is_text(positions).tolist() == [True] * 4 + [False] * 9
    assert stream.raster(positions)[4:].tolist() == list(range(9))
    assert stream.row(torch.arange(10)).tolist() == [0] * 5 + [1] * 5
    assert stream.column(torch.arange(10)).tolist() == [0, 1, 2, 3, 4] * 2


def test_stream_needs_every_part():
    with pytest.raises(UserError, match="columns is 0"):
        Stream(3, 2, 0)


def test_paper_layers():
    assert paper_layers(1) == ["conv"]
    assert paper_layers(6) == ["row", "column", "row", "row", "row", "conv"]
    layers = paper_layers(64)
    assert [i for i, name in enumerate(layers, 1) if name == "column"] == list(range(2, 64, 4))
    assert layers.count("row") == 47
    assert layers[-1] == "conv"
    assert len(layers) == 64


def test_the_committed_page_is_what_the_code_draws():
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "patterns.md").read_text(encoding="utf-8") == page(), (
        "run `python -m dalle.patterns`"
    )
    for name in PATTERNS:
        assert (docs / "patterns" / f"{name}.png").is_file()
