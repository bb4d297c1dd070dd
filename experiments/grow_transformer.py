"""Give a trained transformer more layers, which change nothing until they are trained.

    python -m experiments.grow_transformer models/shapes runs/shapes-grown --depth 10

Writes a model folder for `train_dalle.py init=runs/shapes-grown`. Its samples are those of the
shallower model: what each new layer adds to the stream is zero (Goyal et al. 2017, section 5.1,
start residual branches so). Layers keep their patterns, and new ones stand between them, where the
order of the deeper model (the paper's, section 2.2) has others.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dalle.checkpoint import TOKENIZER, load_text_to_image, save_text_to_image
from dalle.transformer import Block, Transformer
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import check_free
from dalle_base.common.model_folders import TEXT_TO_IMAGE, find_model
from dvae.checkpoint import read_config


def places(old: Sequence[str], new: Sequence[str]) -> list[int]:
    """Return which layer of the order `new` each of `old` becomes: the first that can be, the last
    one the last.

    Raises `UserError` where `new` does not have the patterns of `old` in their order.
    """
    found: list[int] = []
    for pattern in old[:-1]:
        start = found[-1] + 1 if found else 0
        if pattern not in new[start:-1]:
            break
        found.append(new.index(pattern, start, len(new) - 1))
    if len(found) < len(old) - 1 or old[-1] != new[-1]:
        raise UserError(
            f"--depth {len(new)}: layers {', '.join(old)} do not stand in this order among "
            f"{', '.join(new)}: write a larger depth"
        )
    return [*found, len(new) - 1]


def grow(transformer: Transformer, depth: int) -> Transformer:
    """Return a transformer of `depth` layers in the paper's order that computes the same.

    Raises `UserError`: `places`; a model with layers in an order of its own or learned gradient
    scales, of which there is one a layer.
    """
    config = transformer.config
    if config.layers or config.gradient_scales:
        raise UserError("only a model in the paper's order without gradient scales can grow")
    torch.manual_seed(0)
    grown = Transformer(replace(config, depth=depth))
    kept = places([p.name for p in transformer.patterns], [p.name for p in grown.patterns])
    theirs = transformer.state_dict()
    rest = {name: value for name, value in theirs.items() if not name.startswith("blocks.")}
    grown.load_state_dict(grown.state_dict() | rest)
    for old, new in zip(transformer.blocks, kept, strict=True):
        grown.blocks[new].load_state_dict(old.state_dict())
    for new, block in enumerate(grown.blocks):
        if new not in kept:
            assert isinstance(block, Block)
            for layer in (block.attention.out, block.mlp_out):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
    return grown


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a text-to-image model's folder")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--depth", type=int, required=True, help="layers of the new model")
    options = parser.parse_args()
    check_free(options.out)
    folder = find_model(options.model, TEXT_TO_IMAGE)
    model = load_text_to_image(folder, rerank=False)
    if options.depth <= model.transformer.config.depth:
        raise UserError(
            f"--depth {options.depth}: {folder} has {model.transformer.config.depth} layers; "
            "write more"
        )
    model.transformer = grow(model.transformer, options.depth)
    save_text_to_image(options.out, model, read_config(folder / TOKENIZER))


if __name__ == "__main__":
    raise SystemExit(main())
