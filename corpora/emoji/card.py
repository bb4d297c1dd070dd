"""What goes out with the corpus: who drew it, under which licence, and how much there is."""

from collections import Counter
from typing import Any

from corpora.emoji.readers import Reading
from corpora.emoji.sources import LABELS, LABELS_CREDIT, SOURCES
from corpora.emoji.splits import SPLITS
from corpora.writing import header


def summarise(
    rows: list[dict[str, Any]], splits: dict[str, int], readings: dict[str, Reading]
) -> dict[str, Any]:
    """The corpus in figures and names, as `credits.json` holds it."""
    images = Counter(row["artist"] for row in rows)
    return {
        "pictures": len(rows),
        "concepts": len({row["concept"] for row in rows}),
        "mirrorable": sum(row["mirrorable"] for row in rows),
        "splits": splits,
        "captions": {"package": LABELS, "credit": LABELS_CREDIT},
        "artists": [
            {
                "artist": source.artist,
                "credit": source.credit,
                "licence": source.licence,
                "url": source.url,
                "package": source.package,
                "pictures": images[source.artist],
                "skin_tones_left_out": readings[source.artist].skin_tones,
                "unmatched": readings[source.artist].unmatched,
            }
            for source in SOURCES
        ],
    }


def table(summary: dict[str, Any]) -> str:
    """The counts by artist and by split, to be printed after a build."""
    lines = [f"{'artist':<12} {'images':>8} {'unmatched':>9}  licence     package"]
    for entry in summary["artists"]:
        lines.append(
            f"{entry['artist']:<12} {entry['pictures']:>8} {len(entry['unmatched']):>9}  "
            f"{entry['licence']:<10}  {entry['package']}"
        )
    unmatched = sum(len(entry["unmatched"]) for entry in summary["artists"])
    lines.append(f"{'total':<12} {summary['pictures']:>8} {unmatched:>9}")
    sizes = ", ".join(f"{split} {summary['splits'][split]}" for split in SPLITS)
    share = summary["mirrorable"] / max(1, summary["pictures"])
    lines.append(f"{summary['concepts']} concepts; {sizes}; {share:.0%} mirrorable")
    return "\n".join(lines)


def readme(summary: dict[str, Any]) -> str:
    """The corpus's README; its header lets `datasets` load the folder by split."""
    artists = "\n".join(
        f"| {entry['artist']} | {entry['pictures']} | [{entry['credit']}]({entry['url']}) "
        f"| {entry['licence']} | `{entry['package']}` |"
        for entry in summary["artists"]
    )
    sizes = summary["splits"]
    return f"""{header(SPLITS)}# Emoji art with its names

{summary["pictures"]} images of {summary["concepts"]} concepts. Built by
`python -m corpora.emoji`; `credits.json` holds the same figures and the names of the files that
matched no concept.

| artist | images | credit | licence | package |
|---|---|---|---|---|
{artists}

Captions and keywords: `{LABELS}` ({LABELS_CREDIT.split(": ", 1)[1]}). Skin-tone variants are left
out. Whoever ships these images, or a model trained on them, should credit the artists above.

- `train.parquet` ({sizes["train"]} images)
- `held_out_pairs.parquet` ({sizes["held_out_pairs"]}): the concept is in train by two other artists
  or more, the artist by other concepts; this combination is not.
- `held_out_concepts.parquet` ({sizes["held_out_concepts"]}): nothing of the concept is in train.

Columns: `image` (PNG with transparency, 64 or 128 pixels), `caption` (lower case), `concept`
(code points), `artist`, `licence`, `keywords`, `mirrorable` (a horizontal flip keeps image and
caption true).
"""
