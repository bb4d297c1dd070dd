"""A contact sheet of the corpus: a row of images of each coloured set, then silhouettes."""

import io
from collections import defaultdict
from typing import Any

from PIL import Image

from corpora.icons.colours import fraction
from corpora.icons.sets import SILHOUETTES, all_sets

COLUMNS = 16
ROWS_OF_A_SET, ROWS_OF_SILHOUETTES = 2, 14


def contact_sheet(rows: list[dict[str, Any]]) -> Image.Image:
    """Images of the corpus over their captions: of each set some, always the same ones."""
    from dalle_base.common.images import grid

    by_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    sets = all_sets()
    for row in rows:
        part = sets[row["set"]].part
        by_set["" if part == SILHOUETTES else row["set"]].append(row)
    images, labels = [], []
    for name, held in sorted(by_set.items(), key=lambda item: (not item[0], item[0])):
        count = COLUMNS * (ROWS_OF_A_SET if name else ROWS_OF_SILHOUETTES)
        for row in sorted(held, key=lambda row: fraction(f"sheet/{row['set']}/{row['icon']}"))[
            :count
        ]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                images.append(image.convert("RGB"))
            words = " ".join(filter(None, (row["colour"], row["concept"])))
            labels.append(words[:16])
        # Each set begins a row.
        blanks = -len(images) % COLUMNS
        images += [Image.new("RGB", (64, 64), "white")] * blanks
        labels += [""] * blanks
    return grid(images, COLUMNS, [label[:12] for label in labels], "A sample of each set")
