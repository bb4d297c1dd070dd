"""What a training run will see of its data: counts, captions, and a sheet of augmented images.

python -m dalle_base.data.inspect configs/dalle/folder.yaml data.path=my_images
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_file, write_file
from dalle_base.data.inspect.reading import SCHEMAS, Reading, read_run


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arguments", nargs="+", metavar="CONFIG, key=value", help="as for training")
    parser.add_argument("--config", help="the config, as an option")
    parser.add_argument(
        "--script", choices=tuple(SCHEMAS), help="whose config it is, where it cannot be told"
    )
    parser.add_argument("--images", type=int, default=8, help="images on the sheet")
    parser.add_argument(
        "--out", type=Path, default=Path("out/inspect.png"), help="the sheet, a PNG"
    )
    parser.add_argument(
        "--opened", type=int, default=1000, help="images that are opened to see whether they can be"
    )
    options = parser.parse_args(argv)
    if options.config is None and "=" not in options.arguments[0]:
        options.config = options.arguments.pop(0)
    if options.images < 1 or options.opened < 1:
        raise UserError("--images and --opened must be at least 1")
    return options


@command
def main() -> None:
    options = parse_arguments()
    reading = read_run(options.script, options.config, options.arguments)
    prepare_file(options.out, "name another with --out")
    inspect(reading, options)


def inspect(reading: Reading, options: argparse.Namespace) -> None:
    """Print the report and write the sheet."""
    from dalle_base.data.inspect.captions import caption_report
    from dalle_base.data.inspect.images import contact_sheet, image_report
    from dalle_base.data.sources import open_sources

    train, held_out = open_sources(reading.data)
    for line in image_report(train, held_out, reading, options.opened):
        print(line)
    for line in caption_report(train, held_out, reading):
        print(line)
    sheet = contact_sheet(train, reading, options.images)
    write_file(options.out, lambda new: sheet.save(new, format="PNG"))
    print(f"wrote {options.out}: each row an image as it is, then as training may see it")


if __name__ == "__main__":
    raise SystemExit(main())
