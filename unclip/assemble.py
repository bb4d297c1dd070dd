"""Put a prior and a decoder together into one folder, which sample.py samples from.

python -m unclip.assemble --prior runs/prior-emoji/model --decoder runs/decoder-emoji/model \
    --encoder models/emoji/reranker --out models/emoji-unclip
"""

import argparse
from pathlib import Path

from dalle_base.common.errors import command
from unclip.config import UnclipSampling


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", type=Path, required=True, help="a prior's folder")
    parser.add_argument("--decoder", type=Path, required=True, help="a decoder's folder")
    parser.add_argument(
        "--encoder", type=Path, required=True, help="folder of the dual encoder of both"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    from unclip.checkpoint import save_unclip

    save_unclip(options.out, options.prior, options.decoder, options.encoder, UnclipSampling())
    print(f"wrote {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())
