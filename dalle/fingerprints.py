"""Write the fingerprints of models' folders, by which a file that was exchanged is noticed.

python -m dalle.fingerprints FOLDER ...

After a file was changed on purpose (another text.json, say; how a model is sampled may change at
any time), or for folders of earlier versions, which have none. Folders inside a folder that have
weights of their own are done too.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from dalle_base.common.config import read_yaml
from dalle_base.common.errors import UserError, command
from dalle_base.common.fingerprints import CONFIG, FINGERPRINTS, WEIGHTS, seal


def saved_config(folder: Path) -> Any:
    """Return what the config.yaml of a saved model of any kind says. Raises `UserError`.

    None for a training run's checkpoint, whose config is the run's.
    """
    from dalle.checkpoint import SavedTransformer
    from dual_encoder.checkpoint import is_dual_encoder
    from dual_encoder.checkpoint import read_config as dual_encoder_config
    from dvae.checkpoint import read_config as tokenizer_config

    stored = read_yaml(folder / CONFIG)
    if "run" in stored:
        return None
    if is_dual_encoder(folder):
        return dual_encoder_config(folder)
    if "tokenizer" in stored:
        return tokenizer_config(folder)
    return SavedTransformer.read(stored, str(folder / CONFIG))


def write_fingerprints(folder: Path) -> list[Path]:
    """Write those of a folder and of all inside it that have weights; return where.

    Raises `UserError`: there is none, or a config that cannot be read.
    """
    found = sorted(path.parent for path in folder.rglob(WEIGHTS))
    if not found:
        raise UserError(f"{folder} has no {WEIGHTS}, and no folder inside it has")
    for each in found:
        seal(each, saved_config(each))
    return [each / FINGERPRINTS for each in found]


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dalle.fingerprints",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of a model")
    for folder in parser.parse_args().folders:
        for path in write_fingerprints(folder):
            print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
