"""What experiments that make one dVAE's folder from another's have in common."""

import argparse
from pathlib import Path

from dalle_base.common.errors import UserError
from dvae.checkpoint import load_tokenizer
from dvae.kinds import SavedTokenizer
from dvae.model import DiscreteVAE


def folders_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that takes the folder to read and the one to write."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path, help="folder of a dVAE, or of its run's checkpoint")
    parser.add_argument("out", type=Path, help="folder to write")
    return parser


def load_dvae(folder: Path, only: str) -> tuple[DiscreteVAE, SavedTokenizer]:
    """Return a folder's dVAE and its config.

    Raises `UserError`: another kind of tokenizer; `only` says what needs a dVAE.
    """
    tokenizer, config = load_tokenizer(folder)
    if not isinstance(tokenizer, DiscreteVAE):
        raise UserError(f"{folder} is no dVAE: only a dVAE's {only}")
    return tokenizer, config
