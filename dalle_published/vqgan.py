"""Published VQGANs of taming-transformers to a tokenizer's folder, without trusting their files.

    python -m dalle_published.vqgan CHECKPOINT --config model.yaml --out FOLDER

CHECKPOINT is a checkpoint of PyTorch Lightning (`last.ckpt`) of a VQModel or a GumbelVQ, or a state
dict alone. No code in it is executed: see docs/published-weights.md. The sizes are read off the
tensors; the config adds the images' size and is checked against them. The folder is written in
float32.
"""

import argparse
from pathlib import Path

import torch

from dalle_base.common.checkpoint import load_into
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import check_free
from dalle_base.common.schema import validate_all
from dalle_published.archives import Archive, named_tensors, read_archive
from dalle_published.shapes import Shapes, check_image_size, check_shapes
from dalle_published.taming_config import check_taming_config, read_taming_config
from dalle_published.unpickling import StoredTensor
from dvae.checkpoint import save_tokenizer
from dvae.kinds import SavedTokenizer
from dvae.vqgan.config import NetworkConfig, VQGANConfig
from dvae.vqgan.model import VQGAN

IMAGE_SIZE = 256
LIGHTNING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "typing.Any",
    "collections.defaultdict",
    *(
        f"{module}.{name}"
        for module in ("__builtin__", "builtins")
        for name in ("dict", "list", "tuple", "int", "long", "float", "bool", "str", "unicode")
    ),
)
"""What checkpoints of PyTorch Lightning name beside tensors: classes of callbacks, of settings and
of the values in these. Each becomes a stand-in."""
DROPPED = ("loss.", "model_ema.")
"""Beginnings of the names of tensors that no tokenizer needs: the discriminator, the perceptual
network, averages of weights under names of their own."""
VQ_NAMES = {"quantize.embedding.weight": "quantiser.codebook"}
GUMBEL_NAMES = {
    "quantize.embed.weight": "quantiser.codebook",
    "quantize.proj.weight": "quantiser.project.weight",
    "quantize.proj.bias": "quantiser.project.bias",
}
"""Names that differ: taming's, and ours."""


def convert(
    checkpoint: Path, out: Path, config: Path | None = None, image_size: int | None = None
) -> VQGAN:
    """Read a checkpoint and write it to the folder `out`; return the tokenizer.

    Args:
        checkpoint: the file.
        out: the folder to write, a new one.
        config: taming's config of the model, if it is there.
        image_size: side of the images in pixels; None: the config's, or 256 without a config. The
            networks are convolutional, so it is free, in steps of a code's pixels.

    Raises:
        UserError: then nothing has been written.
    """
    check_free(out)
    described = read_taming_config(config) if config else None
    archive = read_archive(checkpoint, LIGHTNING)
    stored = _tensors(archive)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    size = image_size or (described["ddconfig"]["resolution"] if described else IMAGE_SIZE)
    found = read_config(checkpoint, shapes, size)
    if config and described:
        check_taming_config(config, described, found)
    names = GUMBEL_NAMES if found.quantiser == "gumbel" else VQ_NAMES
    with torch.device("meta"):
        expected = VQGAN(found).state_dict()
    theirs = {own: name for name, own in names.items()}
    needed = {
        theirs.get(own, own): tuple(value.shape)
        for own, value in expected.items()
        if own != "quantiser.usage"
    }
    check_shapes(checkpoint, shapes, needed, "VQGAN of taming-transformers")
    tokenizer = VQGAN(found)
    values = {names.get(name, name): value for name, value in archive.tensors(stored).items()}
    # How often each code is used, which only training asks for, is not in the file.
    own = {k: v for k, v in tokenizer.state_dict().items() if k == "quantiser.usage"}
    load_into(tokenizer, {**own, **values}, checkpoint)
    tokenizer.eval().requires_grad_(False)
    save_tokenizer(out, tokenizer, SavedTokenizer("vqgan", found, precision="float32"))
    return tokenizer


def _tensors(archive: Archive) -> dict[str, StoredTensor]:
    """Return the tensors of the model. Raises `UserError` for tensors of whole numbers."""
    root = archive.root
    state = root.get("state_dict", root) if isinstance(root, dict) else root
    found = {
        name: tensor
        for name, tensor in named_tensors(state).items()
        if not name.startswith(DROPPED)
    }
    for name, tensor in found.items():
        if not tensor.storage.dtype.is_floating_point:
            raise UserError(f"{archive.path}: {name} has whole numbers, which are no weights")
    return found


def read_config(path: Path, shapes: Shapes, image_size: int) -> VQGANConfig:
    """Read the sizes of a VQGAN off its tensors. Raises `UserError` for impossible ones."""

    def size(name: str, dimension: int = 0) -> int:
        shape = shapes.get(name)
        if shape is None:
            raise UserError(f"{path} is no VQGAN of taming-transformers: it lacks {name}")
        if len(shape) not in (2, 4) or min(shape) < 1:
            raise UserError(f"{path}: {name} is {list(shape)}, which makes no VQGAN")
        return shape[dimension]

    def count(pattern: str) -> int:
        return next(i for i in range(len(shapes) + 1) if pattern.format(i) not in shapes)

    width = size("encoder.conv_in.weight")
    levels = count("encoder.down.{}.block.0.conv1.weight")
    channels = [size(f"encoder.down.{i}.block.0.conv1.weight") for i in range(max(levels, 1))]
    if any(each % width for each in channels):
        raise UserError(f"{path} has levels of {channels} channels, which makes no VQGAN")
    attention = "encoder.down.{}.attn.0.q.weight"
    network = NetworkConfig(
        width=width,
        multipliers=[each // width for each in channels],
        blocks=count("encoder.down.0.block.{}.conv1.weight"),
        attention_levels=[i for i in range(levels) if attention.format(i) in shapes],
        z_channels=size("encoder.conv_out.weight"),
        code_width=size("quant_conv.weight"),
    )
    validate_all(network, "model.network")
    check_image_size(image_size, network.downsampling)
    gumbel = "quantize.embed.weight" in shapes
    config = VQGANConfig(
        image_size=image_size,
        grid=image_size // network.downsampling,
        codebook_size=size("quantize.embed.weight" if gumbel else "quantize.embedding.weight"),
        quantiser="gumbel" if gumbel else "vq",
        network=network,
    )
    validate_all(config, "model")
    return config


@command
def main() -> None:
    """Read the command line, convert, and say what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m dalle_published.vqgan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the file last.ckpt")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, a new one")
    parser.add_argument("--config", type=Path, help="the file model.yaml of the model, if there")
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of the images in pixels, a multiple of a code's pixels (default: the config's, "
        f"or {IMAGE_SIZE})",
    )
    options = parser.parse_args()
    config = convert(options.checkpoint, options.out, options.config, options.image_size).config
    print(
        f"wrote {options.out}: images of {config.image_size} pixels as "
        f"{config.grid}x{config.grid} codes of {config.codebook_size} ({config.quantiser})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
