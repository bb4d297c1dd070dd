"""Published CLIP weights to a dual encoder's folder, without trusting the file.

    python -m dalle_published.clip FILE OUT

FILE is one of OpenAI's (a TorchScript archive), or one of open_clip's: safetensors, or a checkpoint
(.pt, .bin). No code in it is executed: see docs/published-weights.md. The folder is written in
float32.
"""

import argparse
from collections.abc import Callable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dalle_base.common.checkpoint import load_into
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import check_free
from dalle_base.common.schema import validate_all
from dalle_published.archives import Archive, check_file, named_tensors, read_archive
from dalle_published.clip_vocabulary import FILE as VOCABULARY
from dalle_published.clip_vocabulary import clip_text, find_vocabulary
from dalle_published.open_clip_config import FILE as CONFIG
from dalle_published.open_clip_config import read_open_clip_config
from dalle_published.shapes import check_shapes
from dalle_published.unpickling import StandIn
from dual_encoder.checkpoint import save_dual_encoder
from dual_encoder.config import DualEncoderConfig, TowerConfig
from dual_encoder.model import ACTIVATIONS, DualEncoder
from dual_encoder.ranker import Ranker
from dual_encoder.text import SPECIAL

HEAD_WIDTH = 64
"""Width of an attention head in all of OpenAI's models, and in open_clip's unless it says so."""
WIDEST = 1024
"""Widest image tower whose heads are that wide everywhere."""
UNUSED = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives hold beside their weights; the tensors' shapes say the same."""
OTHER_LAYOUTS = {
    "visual.layer1.": "its image tower is a ResNet",
    "visual.trunk.": "its image tower is another package's",
    "vision_model.": "it has the names of the transformers library",
    "text.": "its text tower is not CLIP's",
}
"""What the beginning of a tensor's name tells of files that are not read."""


class Weights(NamedTuple):
    """A file's tensors: their shapes are known, their values not yet read."""

    path: Path
    """The file."""
    shapes: dict[str, tuple[int, ...]]
    """The shape of each tensor, by its name in a state dict."""
    read: Callable[[], Mapping[str, Tensor]]
    """Reads the values."""
    activation: str | None = None
    """The activation that the file itself names."""

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return a tensor's shape. Raises `UserError` if it is missing or of other dimensions."""
        if name not in self.shapes:
            raise UserError(f"{self.path} is no CLIP model: it lacks {name}")
        shape = self.shapes[name]
        if len(shape) != dimensions or min(shape) < 1:
            raise UserError(f"{self.path}: {name} is {list(shape)}, which makes no CLIP model")
        return shape


def convert(
    path: Path, out: Path, activation: str | None = None, vocabulary: Path | None = None
) -> Ranker:
    """Read a published file and write it to the folder `out`; return the model.

    `activation` (quick_gelu or gelu) is needed where neither the file nor a config beside it says
    which is right; `vocabulary` where no installed package has CLIP's. Raises `UserError`; then
    nothing has been written.
    """
    check_free(out)
    weights = open_weights(path)
    config = read_config(weights, activation)
    text = clip_text(vocabulary or find_vocabulary())
    if text.vocab_size + SPECIAL != config.vocab_size:
        raise UserError(
            f"{path} has {config.vocab_size} text tokens, CLIP's encoding {text.vocab_size} and "
            f"{SPECIAL} ends: it was trained with another encoding, which is not supported"
        )
    with torch.device("meta"):
        needed = {name: tuple(t.shape) for name, t in DualEncoder(config).state_dict().items()}
    check_shapes(path, weights.shapes, needed, "CLIP model")
    model = DualEncoder(config)
    values = {name: value.reshape(weights.shapes[name]) for name, value in weights.read().items()}
    for name, value in values.items():
        if not value.is_floating_point():
            raise UserError(f"{path}: {name} has whole numbers, which are no weights")
    load_into(model, values, path)
    ranker = Ranker(model.eval().requires_grad_(False), text)
    save_dual_encoder(out, ranker, torch.float32)
    return ranker


def open_weights(path: Path) -> Weights:
    """Return a file's tensors, detected by its content, not its name. Raises `UserError`."""
    check_file(path)
    with path.open("rb") as file:
        start = file.read(9)
    weights = _open_safetensors(path) if start[8:] == b"{" else _open_archive(path)
    for prefix, reason in OTHER_LAYOUTS.items():
        found = next((name for name in weights.shapes if name.startswith(prefix)), None)
        if found:
            raise UserError(
                f"{path} is not supported: {reason} ({found}); use a vision transformer's file of "
                "OpenAI or open_clip"
            )
    if weights.shapes.get("logit_scale") == (1,):  # open_clip has both forms
        weights.shapes["logit_scale"] = ()
    return weights


def _open_safetensors(path: Path) -> Weights:
    def read() -> dict[str, Tensor]:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if _used(name)]  # noqa: SIM118
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or truncated ({reason}); download it again") from None
    return Weights(path, shapes, read)


def _open_archive(path: Path) -> Weights:
    archive = read_archive(path)
    root = archive.root
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    stored = named_tensors(root)
    if all(name.startswith("module.") for name in stored):  # trained on several devices
        stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    stored = {name: tensor for name, tensor in stored.items() if _used(name)}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    return Weights(path, shapes, lambda: archive.tensors(stored), _script_activation(archive))


def _used(name: str) -> bool:
    return name not in UNUSED and not name.endswith("attn_mask")


def _script_activation(archive: Archive) -> str | None:
    """Return QuickGELU where a TorchScript archive has a module of that class in both towers."""
    names = set()
    for tower in (("visual", "transformer"), ("transformer",)):
        item: Any = archive.root
        for step in (*tower, "resblocks", "0", "mlp", "gelu"):
            state = item.state if isinstance(item, StandIn) else None
            item = state.get(step) if isinstance(state, dict) else None
        names.add(item.name.rpartition(".")[2] if isinstance(item, StandIn) else "")
    return "quick_gelu" if archive.script and names == {"QuickGELU"} else None


def read_config(weights: Weights, activation: str | None) -> DualEncoderConfig:
    """Read a model's sizes off its tensors, and the rest off what is known of the file.

    Raises `UserError` where they are no vision transformer's and text transformer's, and where it
    is not known which activation is right: the wrong one gives features that are subtly wrong.
    """
    path = weights.path
    width, channels, *patch = weights.shape("visual.conv1.weight", 4)
    if channels != 3 or patch[0] != patch[1]:
        raise UserError(f"{path}: visual.conv1.weight reads no square patches of RGB images")
    patches = weights.shape("visual.positional_embedding", 2)[0] - 1
    if isqrt(patches) ** 2 != patches:
        raise UserError(f"{path} has {patches} patches an image, which make no square")
    length, text_width = weights.shape("positional_embedding", 2)
    # What an archive of OpenAI is, it says itself: a config beside it is another file's.
    described = None if weights.activation else read_open_clip_config(path.parent / CONFIG)
    known = described.activation if described else weights.activation
    if activation is None and known is None:
        raise UserError(
            f"{path} does not say which activation it was trained with: write --activation "
            f"quick_gelu (OpenAI's weights) or --activation gelu, or put its {CONFIG} beside it"
        )
    if activation and known and activation != known:
        raise UserError(
            f"{path} was trained with {known}, so --activation {activation} is wrong: leave it out"
        )
    head = described.vision_head if described else None
    if described is None and width > WIDEST:
        raise UserError(
            f"{path}: an image tower of width {width} does not show how wide its attention heads "
            f"are: put its {CONFIG} beside it, which does"
        )
    config = DualEncoderConfig(
        embed_dim=weights.shape("text_projection", 2)[1],
        image_size=isqrt(patches) * patch[0],
        patch_size=patch[0],
        vision=_tower(weights, "visual.", width, head),
        vocab_size=weights.shape("token_embedding.weight", 2)[0],
        text_length=length,
        text=_tower(weights, "", text_width, None),
        activation=activation or known or "",
    )
    if described:
        described.check(config)
        config.text.heads = described.text_heads or config.text.heads
        config.mean = described.mean or config.mean
        config.std = described.std or config.std
    validate_all(config, "model")
    return config


def _tower(weights: Weights, prefix: str, width: int, head: int | None) -> TowerConfig:
    blocks = f"{prefix}transformer.resblocks."
    names = (name for name in weights.shapes if name.startswith(blocks))
    layers = len({name.removeprefix(blocks).split(".")[0] for name in names})
    head = head or HEAD_WIDTH
    if not layers or width % head:
        raise UserError(
            f"{weights.path}: {blocks[:-1]} has {layers} blocks of width {width}, which make no "
            f"CLIP model with heads of {head}"
        )
    return TowerConfig(width, layers, width // head)


@command
def main() -> None:
    """Read the command line, convert, and say what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m dalle_published.clip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the downloaded weights")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, a new one")
    parser.add_argument(
        "--activation",
        choices=sorted(ACTIVATIONS),
        help="needed where the file does not say: quick_gelu for OpenAI's weights",
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help=f"CLIP's {VOCABULARY} (default: that of an installed open_clip or clip)",
    )
    options = parser.parse_args()
    ranker = convert(options.file, options.out, options.activation, options.vocabulary)
    config = ranker.model.config
    print(
        f"wrote {options.out}: images of {config.image_size} pixels in patches of "
        f"{config.patch_size}, {sum(p.numel() for p in ranker.model.parameters()):,} parameters, "
        f"{config.activation}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
