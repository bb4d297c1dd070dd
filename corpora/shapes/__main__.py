"""Write captioned images of shapes to a folder that `datasets` reads as an "imagefolder".

python -m corpora.shapes --out FOLDER --count 1000
"""

import argparse
import csv
import sys
import textwrap
from pathlib import Path
from typing import get_args

from PIL import Image, ImageDraw
from tqdm import tqdm

from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_folder, write_folder
from dalle_base.data.shapes import Split, example

PREVIEW_IMAGES = 36
PREVIEW_COLUMNS = 6


def contact_sheet(
    examples: list[tuple[Image.Image, str]], columns: int = PREVIEW_COLUMNS
) -> Image.Image:
    """Return one image of many, each 128 pixels wide over its caption."""
    tile, text, gap = 128, 84, 12
    rows = -(-len(examples) // columns)
    size = (columns * (tile + gap) + gap, rows * (tile + text + gap) + gap)
    sheet = Image.new("RGB", size, (235, 235, 235))
    draw = ImageDraw.Draw(sheet)
    for index, (image, words) in enumerate(examples):
        row, column = divmod(index, columns)
        left, top = gap + column * (tile + gap), gap + row * (tile + text + gap)
        sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (left, top))
        draw.multiline_text((left, top + tile + 4), textwrap.fill(words, 24), fill=(0, 0, 0))
    return sheet


def write(folder: Path, split: Split, seed: int, count: int, size: int) -> None:
    """Write `count` images, metadata.csv (file_name, caption) and preview.png to a folder.

    Raises `UserError` if the folder has files already or cannot be written, or for bad numbers.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1, not {count}")
    prepare_folder(folder)
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    write_folder(folder, lambda new: _write_into(new, split, seed, count, size))


def _write_into(folder: Path, split: Split, seed: int, count: int, size: int) -> None:
    first = [example(split, seed, index, size) for index in range(min(count, PREVIEW_IMAGES))]
    contact_sheet(first).save(folder / "preview.png")
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for index in tqdm(range(count), desc="drawing", unit="image"):
            image, words = example(split, seed, index, size)
            name = f"{index:06d}.png"
            image.save(folder / name)
            table.writerow([name, words])


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.shapes",
        description="Write captioned images of shapes, metadata.csv and preview.png to a folder.",
    )
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--count", type=int, default=1000, help="images (default 1000)")
    parser.add_argument("--split", choices=get_args(Split), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default 64)")
    args = parser.parse_args()
    write(args.out, args.split, args.seed, args.count, args.size)


if __name__ == "__main__":
    sys.exit(main())
