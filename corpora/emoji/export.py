"""Write a split's images as files, to look at, to search and to classify.

python -m corpora.emoji.export data/emoji/held_out_pairs.parquet data/held-out
"""

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from dalle_base.common.errors import command
from dalle_base.common.files import prepare_folder
from dalle_base.common.images import open_image, save_image
from dalle_base.data.sources import read_data_config


def export(parquet: Path, out: Path) -> int:
    """Write each image as "CAPTION, ARTIST.png" into the folder `out`; return how many."""
    options = {"source": "datasets", "path": str(parquet), "held_out_share": 0}
    source, _ = read_data_config(options | {"artist_column": "artist"}, str(parquet)).open()
    prepare_folder(out)
    for index in tqdm(range(len(source)), "writing", unit="image", dynamic_ncols=True):
        record = source.record(index)
        name = re.sub(r"[^\w' -]+", " ", f"{record.caption}, {record.artist}".replace(",", " -"))
        save_image(open_image(record.image, record.name), out / f"{' '.join(name.split())}.png")
    return len(source)


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m corpora.emoji.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parquet", type=Path, help="a split, as python -m corpora.emoji writes it")
    parser.add_argument("out", type=Path, help="folder to write into")
    options = parser.parse_args()
    print(f"wrote {export(options.parquet, options.out)} images to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
