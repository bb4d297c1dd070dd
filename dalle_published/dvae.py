"""OpenAI's published dVAE to a tokenizer's folder, without trusting its files.

    python -m dalle_published.dvae ENCODER DECODER OUT

ENCODER and DECODER are `encoder.pkl` and `decoder.pkl`: modules of the package `dall_e`, pickled
whole. No code in them is executed: see docs/published-weights.md. The folder is written in float32.
"""

import argparse
from pathlib import Path

import torch

from dalle_base.common.checkpoint import load_into
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import check_free
from dalle_base.common.schema import validate_all
from dalle_published.archives import Archive, named_tensors, read_archive
from dalle_published.shapes import check_image_size, check_shapes
from dalle_published.unpickling import StandIn, StoredTensor
from dvae.checkpoint import save_tokenizer
from dvae.config import DVAEConfig, NetworkConfig
from dvae.kinds import SavedTokenizer
from dvae.model import DiscreteVAE

MODULES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.nn.modules.linear.Identity",
)
"""All classes that the two files may ask for: each becomes a stand-in."""
IMAGE_SIZE = 256


def convert(encoder: Path, decoder: Path, out: Path, image_size: int = IMAGE_SIZE) -> DiscreteVAE:
    """Read the two files and write them to the folder `out`; return the tokenizer.

    It is the dVAE of this project: the release differs from it in nothing but its sizes. The
    networks are convolutional, so `image_size` is free, in steps of a code's 8 pixels. Raises
    `UserError`; then nothing has been written.
    """
    check_free(out)
    archives = {
        "encoder": read_archive(encoder, MODULES),
        "decoder": read_archive(decoder, MODULES),
    }
    stored = {name: _tensors(archive, name) for name, archive in archives.items()}
    config = read_config(archives, stored, image_size)
    with torch.device("meta"):
        expected = DiscreteVAE(config).state_dict()
    for name, archive in archives.items():
        own = {k.removeprefix(f"{name}."): v for k, v in expected.items() if k.startswith(name)}
        needed = {key: tuple(value.shape) for key, value in own.items()}
        found = {key: tuple(value.shape) for key, value in stored[name].items()}
        check_shapes(archive.path, found, needed, f"{name} of OpenAI's dVAE")
    tokenizer = DiscreteVAE(config)
    for name, archive in archives.items():
        values = archive.tensors(stored[name])
        load_into(getattr(tokenizer, name), values, archive.path)
    tokenizer.eval().requires_grad_(False)
    save_tokenizer(out, tokenizer, SavedTokenizer("dvae", config, precision="float32"))
    return tokenizer


def _tensors(archive: Archive, name: str) -> dict[str, StoredTensor]:
    """Return a pickled network's tensors. Raises `UserError` unless it is the network `name`."""
    root = archive.root
    wanted = f"dall_e.{name}.{name.capitalize()}"
    if not isinstance(root, StandIn) or root.name != wanted:
        found = root.name if isinstance(root, StandIn) else f"a {type(root).__name__}"
        raise UserError(f"{archive.path} holds {found}, where OpenAI's {name} is {wanted}")
    return named_tensors(root)


def read_config(
    archives: dict[str, Archive], stored: dict[str, dict[str, StoredTensor]], image_size: int
) -> DVAEConfig:
    """Read the networks' sizes off their tensors. Raises `UserError` for impossible ones."""

    def size(network: str, tensor: str, dimension: int) -> int:
        found = stored[network].get(tensor)
        if found is None or len(found.shape) != 4:
            raise UserError(
                f"{archives[network].path} is no {network} of OpenAI: it lacks {tensor}"
            )
        return found.shape[dimension]

    first = "blocks.group_1.block_"
    names = (name for name in stored["encoder"] if name.startswith(first))
    network = NetworkConfig(
        width=size("encoder", "blocks.input.w", 0),
        blocks=len({name.removeprefix(first).split(".")[0] for name in names}),
        decoder_init=size("decoder", "blocks.input.w", 0),
    )
    validate_all(network, "model.network")
    check_image_size(image_size, network.downsampling)
    config = DVAEConfig(
        image_size=image_size,
        grid=image_size // network.downsampling,
        codebook_size=size("encoder", "blocks.output.conv.w", 0),
        network=network,
    )
    validate_all(config, "model")
    return config


@command
def main() -> None:
    """Read the command line, convert, and say what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m dalle_published.dvae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("encoder", type=Path, metavar="ENCODER", help="the file encoder.pkl")
    parser.add_argument("decoder", type=Path, metavar="DECODER", help="the file decoder.pkl")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, a new one")
    parser.add_argument(
        "--image-size",
        type=int,
        default=IMAGE_SIZE,
        help="side of the images in pixels, a multiple of 8 (default: %(default)s, the paper's)",
    )
    options = parser.parse_args()
    config = convert(options.encoder, options.decoder, options.out, options.image_size).config
    print(
        f"wrote {options.out}: images of {config.image_size} pixels as "
        f"{config.grid}x{config.grid} codes of {config.codebook_size}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
