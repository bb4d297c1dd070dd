"""Double a trained dVAE's codebook: each code becomes two, a little apart (Linde et al. 1980).

    python -m experiments.split_codebook runs/dvae-emoji/tokenizer runs/split

Writes a tokenizer's folder for `train_dvae.py init=runs/split model.codebook_size=2048`. The two
halves of a code mean nearly the same at first; training moves them apart.
"""

import torch
from torch import Tensor

from dalle_base.common.errors import command
from dvae.checkpoint import save_tokenizer
from dvae.model import DiscreteVAE
from experiments.dvae_folders import folders_parser, load_dvae

CODEBOOK = {  # the tensors with an entry for each code, and the dimension it lies in
    "encoder.blocks.output.conv.w": 0,
    "encoder.blocks.output.conv.b": 0,
    "decoder.blocks.input.w": 1,
}


def split(weights: dict[str, Tensor], apart: float) -> dict[str, Tensor]:
    """Return the weights with every code twice, each moved by `apart` of the weights' spread."""
    generator = torch.Generator().manual_seed(0)
    doubled = dict(weights)
    for name, dim in CODEBOOK.items():
        both = torch.cat([weights[name]] * 2, dim)
        noise = torch.randn(both.shape, generator=generator)
        doubled[name] = both + apart * weights[name].std() * noise
    return doubled


@command
def main() -> None:
    parser = folders_parser(__doc__)
    parser.add_argument("--apart", type=float, default=0.1, help="how far, in standard deviations")
    options = parser.parse_args()
    tokenizer, config = load_dvae(options.tokenizer, "codebook can be split")
    config.model.codebook_size *= 2
    larger = DiscreteVAE(config.model)
    larger.load_state_dict(split(tokenizer.state_dict(), options.apart))
    save_tokenizer(options.out, larger, config)


if __name__ == "__main__":
    raise SystemExit(main())
