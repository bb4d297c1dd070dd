"""Give a trained dVAE's decoder more residual blocks, which change nothing until they are trained.

    python -m experiments.grow_decoder runs/dvae-emoji-sharp/tokenizer runs/grown --blocks 5 2 3

Writes a tokenizer's folder for `train_dvae.py init=runs/grown`. Its codes and its images are those
of the smaller one: each new block's last convolution is zero (Goyal et al. 2017, section 5.1, start
residual branches so). A transformer that was trained on the codes stays valid.
"""

import torch

from dalle_base.common.errors import UserError, command
from dvae.checkpoint import save_tokenizer
from dvae.model import DiscreteVAE
from dvae.networks import Block
from experiments.dvae_folders import folders_parser, load_dvae

ENTRANCE = "blocks.group_"


def grow(tokenizer: DiscreteVAE, blocks: list[int]) -> DiscreteVAE:
    """Return a dVAE with `blocks` residual blocks in the decoder's groups, coarsest first.

    Raises `UserError` where a group would lose blocks.
    """
    network = tokenizer.config.network
    before = network.decoder_blocks or [network.blocks] * network.groups
    if len(blocks) != len(before) or any(
        new < old for new, old in zip(blocks, before, strict=True)
    ):
        raise UserError(f"--blocks {blocks}: the decoder has {before}; write at least as many")
    network.decoder_blocks = blocks
    torch.manual_seed(0)
    grown = DiscreteVAE(tokenizer.config)
    grown.load_state_dict(grown.state_dict() | tokenizer.state_dict())
    for group, (old, new) in enumerate(zip(before, blocks, strict=True), 1):
        for number in range(old + 1, new + 1):
            block = grown.decoder.get_submodule(f"{ENTRANCE}{group}.block_{number}")
            assert isinstance(block, Block)
            for parameter in block.res_path[-1].parameters():
                torch.nn.init.zeros_(parameter)
    return grown


@command
def main() -> None:
    parser = folders_parser(__doc__)
    parser.add_argument(
        "--blocks", type=int, nargs="+", required=True, help="of each group, coarsest first"
    )
    options = parser.parse_args()
    tokenizer, config = load_dvae(options.tokenizer, "decoder can grow")
    save_tokenizer(options.out, grow(tokenizer, options.blocks), config)


if __name__ == "__main__":
    raise SystemExit(main())
