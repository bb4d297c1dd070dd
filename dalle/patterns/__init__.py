"""Attention patterns. To add one: write its file and its line in PATTERNS."""

from dalle.patterns.base import Blocks, Pattern, PatternOptions
from dalle.patterns.column import Column
from dalle.patterns.conv import Conv
from dalle.patterns.full import Full
from dalle.patterns.row import Row

PATTERNS: dict[str, type[Pattern]] = {
    Full.name: Full,
    Row.name: Row,
    Column.name: Column,
    Conv.name: Conv,
}


def paper_layers(depth: int) -> list[str]:
    """The paper's pattern for each of `depth` layers, first to last (section 2.2).

    Layers i = 1..depth-1 are column where (i - 2) mod 4 = 0 and row elsewhere, so "row, column,
    row, row" over and over; the last is convolutional.
    """
    return [
        *(Column.name if (i - 2) % 4 == 0 else Row.name for i in range(1, depth)),
        Conv.name,
    ]


__all__ = ["PATTERNS", "Blocks", "Pattern", "PatternOptions", "paper_layers"]
