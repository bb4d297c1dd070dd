"""What goes out with the corpus: who drew it, under which licences, and how much there is."""

from collections import Counter
from typing import Any

from corpora.icons.nouns import WORDNET, WORDNET_CREDIT
from corpora.icons.reading import LEAST_SETS, Survey
from corpora.icons.sets import PACKAGE, PARTS, SILHOUETTES, all_sets
from corpora.icons.splits import HELD_OUT_COLOURS, HELD_OUT_CONCEPTS, HELD_OUT_PAIRS, splits_of

CONFIGS = {part: part.replace("-", "_") for part in PARTS}
MEANING = {
    HELD_OUT_PAIRS: "the concept is in train by two other artists or more; this combination is not",
    HELD_OUT_COLOURS: "the concept is in train in two other colours or more; not in this one",
    HELD_OUT_CONCEPTS: "nothing of the concept is in train, in any part",
}


def summarise(
    rows: list[dict[str, Any]], sizes: dict[str, dict[str, int]], survey: Survey, emoji: str
) -> dict[str, Any]:
    """The corpus in figures and names, as `credits.json` holds it.

    Args:
        rows: all images.
        sizes: how many images each split of each part holds.
        survey: what the package had.
        emoji: the emoji corpus with which the splits accord, if any.
    """
    images = Counter(row["set"] for row in rows)
    concepts: dict[str, set[str]] = {part: set() for part in PARTS}
    for row in rows:
        concepts[all_sets()[row["set"]].part].add(row["concept"])
    return {
        "pictures": len(rows),
        "concepts": {part: len(concepts[part]) for part in PARTS},
        "mirrorable": sum(row["mirrorable"] for row in rows),
        "splits": sizes,
        "package": PACKAGE,
        "nouns": {"package": WORDNET, "credit": WORDNET_CREDIT},
        "emoji_corpus": emoji,
        "sets": [
            {
                "set": prefix,
                "part": each.part,
                "artist": each.artist,
                **survey.about[prefix],
                "pictures": images[prefix],
                "left_out_for_their_names": survey.unnamed[prefix],
            }
            for prefix, each in all_sets().items()
            if images[prefix]
        ],
    }


def table(summary: dict[str, Any]) -> str:
    """The counts by set and by split, to be printed after a build."""
    named = [entry for entry in summary["sets"] if entry["part"] != SILHOUETTES]
    lines = [f"{'set':<28} {'images':>7}  {'licence':<11} artist"]
    lines += [
        f"{entry['set']:<28} {entry['pictures']:>7}  {entry['licence']:<11} {entry['artist']}"
        for entry in named
    ]
    others = [entry["pictures"] for entry in summary["sets"] if entry["part"] == SILHOUETTES]
    lines.append(f"{f'silhouettes of {len(others)} sets':<28} {sum(others):>7}")
    lines.append(f"{'total':<28} {summary['pictures']:>7}")
    for part, splits in summary["splits"].items():
        sizes = ", ".join(f"{split} {size}" for split, size in splits.items())
        lines.append(f"{part}: {summary['concepts'][part]} concepts; {sizes}")
    return "\n".join(lines)


def readme(summary: dict[str, Any]) -> str:
    """The corpus's README; its header lets `datasets` load the folder by part and split."""
    configs = "\n".join(
        f"- config_name: {CONFIGS[part]}\n  data_files:\n"
        + "\n".join(f"  - split: {s}\n    path: {part}-{s}.parquet" for s in splits_of(part))
        for part in PARTS
    )
    sets = "\n".join(
        f"| {entry['set']} | {entry['part']} | {entry['artist']} | {entry['pictures']} "
        f"| [{entry['title']} by {entry['author']}]({entry['url']}) | {entry['licence']} |"
        for entry in summary["sets"]
    )
    files = "\n".join(
        f"- `{part}-{split}.parquet`: {size} images{': ' * (split in MEANING)}"
        f"{MEANING.get(split, '')}"
        for part, sizes in summary["splits"].items()
        for split, size in sizes.items()
    )
    accord = summary["emoji_corpus"] or "none was given"
    return f"""---
configs:
{configs}
---
# Icons with their names

{summary["pictures"]} images of 64x64 pixels. Built by `python -m corpora.icons` from `{PACKAGE}`;
`credits.json` holds the same figures. Icons in their own colours (coloured), icons of one colour in
named colours on named grounds (silhouettes: concrete nouns that {LEAST_SETS} sets or more draw),
and icon-park's with its blue replaced by a named colour.

| set | part | artist | images | credit | licence |
|---|---|---|---|---|---|
{sets}

{WORDNET_CREDIT[0].upper() + WORDNET_CREDIT[1:]} (`{WORDNET}`). Whoever ships these images,
or a model trained on them, should credit the authors above.

{files}

Concepts that the emoji corpus has are held out where they are held out there, and images by the
artist "fluent glossy" together with their twins there by "fluent 3d" (emoji corpus: {accord}).

Columns: `image` (PNG on white or on the ground), `caption` (lower case), `concept` (what it shows,
in words), `artist`, `licence`, `keywords` (other names in the same set), `mirrorable` (a horizontal
flip keeps image and caption true), `set` and `icon` (iconify's names), `author`, and `colour` and
`ground` (names, or empty).
"""
