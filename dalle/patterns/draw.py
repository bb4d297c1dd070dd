"""docs/patterns.md as text, drawn from every pattern's `allowed`."""

import textwrap

import torch
from torch import Tensor

from dalle.patterns import PATTERNS, Pattern, PatternOptions, paper_layers
from dalle.stream import Stream

SMALL = Stream(text_length=3, rows=4, columns=4)
PAPER = Stream(text_length=256, rows=32, columns=32)
SMALL_OPTIONS = PatternOptions(conv_kernel=3)
QUERIES = [(2, 1), (2, 3)]

HEADER = f"""\
# Attention patterns

Drawn by `python -m dalle.patterns` from each pattern's `allowed`; do not edit by hand.

Every text position attends to the text up to itself, and every image position to all of the text.
The patterns differ in which image codes an image position attends to. The paper's layers are
{", ".join(paper_layers(9)[:-1])} and so on, and at last conv.

The drawings show one query `Q` on a grid of {SMALL.rows} x {SMALL.columns} codes, after the start
token and {SMALL.text_length} text tokens: `#` is attended to, as is `Q` itself, and `.` is not. The
pictures show, at the left, the whole mask of that stream, with lines where the image begins and, at
the right, one query on the paper's grid of {PAPER.rows} x {PAPER.columns}. The small drawings take
a convolution kernel of {SMALL_OPTIONS.conv_kernel}, the large ones the paper's \
{PatternOptions().conv_kernel}.
"""


def seen(pattern: Pattern, stream: Stream, row: int, column: int) -> tuple[Tensor, Tensor]:
    """What the code at a place of the grid attends to: bool [T+1] of the text, [R, C] of the image.

    The last code of the grid is never a query (nothing follows it), and its drawing is as if it
    were.
    """
    query = torch.tensor(stream.text_inputs + row * stream.columns + column)
    keys = pattern.allowed(query, torch.arange(stream.length + 1), stream)
    text, grid = keys.split([stream.text_inputs, stream.image_length])
    return text, grid.view(stream.rows, stream.columns)


def art(pattern: Pattern, stream: Stream, row: int, column: int) -> list[str]:
    """A drawing of `seen`, a line for the text and one for each row of the grid."""
    text, grid = seen(pattern, stream, row, column)
    lines = [["#" if key else "." for key in keys.tolist()] for keys in (text, *grid)]
    lines[1 + row][column] = "Q"
    return ["text   " + " ".join(lines[0]), *("       " + " ".join(line) for line in lines[1:])]


def section(name: str) -> str:
    """The part of the page that is about one pattern."""
    pattern = PATTERNS[name](SMALL_OPTIONS)
    drawings = [art(pattern, SMALL, row, column) for row, column in QUERIES]
    beside = [f"{left}      {right}".rstrip() for left, right in zip(*drawings, strict=True)]
    about = textwrap.fill(" ".join((PATTERNS[name].__doc__ or "").split()), 100)
    picture = f"![the {name} pattern](patterns/{name}.png)"
    lines = [f"## {name}", about, "\n".join(["```text", *beside, "```"]), picture]
    return "\n\n".join(lines) + "\n"


def table() -> str:
    """How much each pattern attends to in the paper's stream."""
    dense = int(PATTERNS["full"]().mask(PAPER).sum())
    lines = [
        "## Compared",
        "",
        f"Pairs of query and key in the paper's stream, {PAPER.text_length} text tokens and "
        f"{PAPER.rows} x {PAPER.columns} codes:",
        "",
        "| pattern | most codes a query attends to | pairs | share of full |",
        "|---|---|---|---|",
    ]
    for name, kind in PATTERNS.items():
        mask = kind().mask(PAPER)
        most = int(mask[:, PAPER.text_inputs :].sum(dim=1).max())
        pairs = int(mask.sum())
        lines.append(f"| {name} | {most:,} | {pairs:,} | {pairs / dense:.2f} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole of docs/patterns.md."""
    return "\n".join([HEADER, *(section(name) for name in PATTERNS), table()])
