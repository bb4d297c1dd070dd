"""Images encoded once and kept on disk, several augmented encodings of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dalle_base.common.files import write_file
from dalle_base.common.images import to_tensor
from dalle_base.common.report import say, shown
from dalle_base.data.batches import ImageDataset
from dvae.tokenizer import ImageTokenizer


class EncodedImages(NamedTuple):
    """The codes of n images."""

    codes: Tensor
    """int32 [n, variants, RC]."""
    shown: Tensor
    """int32 [n]: which image each row shows. Not its own where that one could not be read."""


@torch.inference_mode()
def encode_images(
    tokenizer: ImageTokenizer, images: ImageDataset, variants: int = 1, batch_size: int = 64
) -> EncodedImages:
    """Encode `variants` augmentations of each image.

    Variant v of image i is augmented with a seed of its own, so the codes are the same each time.
    """
    device = next(tokenizer.parameters()).device
    # A mixture repeats images: each is encoded once.
    firsts = [images.first_with_same_image(i) for i in range(len(images))]
    distinct = sorted(set(firsts))
    keys = [(i, i * variants + v) for i in distinct for v in range(variants)]
    codes = torch.empty(len(keys), tokenizer.rows * tokenizer.columns, dtype=torch.int32)
    seen = torch.empty(len(keys), dtype=torch.int32)
    for first in tqdm(range(0, len(keys), batch_size), "encoding images", dynamic_ncols=True):
        examples = [images[key] for key in keys[first : first + batch_size]]
        pixels = to_tensor([example.pixels for example in examples]).to(device)
        part = slice(first, first + len(examples))
        codes[part] = tokenizer.encode(pixels).flatten(1).to("cpu", torch.int32)
        seen[part] = torch.tensor([example.index for example in examples])
    row = {image: number for number, image in enumerate(distinct)}
    rows, shape = torch.tensor([row[i] for i in firsts]), (len(distinct), variants)
    return EncodedImages(codes.unflatten(0, shape)[rows], seen.view(shape)[:, 0][rows])


def cached_codes(
    path: Path,
    key: Mapping[str, str],
    tokenizer: ImageTokenizer,
    images: ImageDataset,
    variants: int,
) -> EncodedImages:
    """Return `encode_images`, from the file `path` if it was written under the same `key`.

    A file of another key is replaced, which is said. Several processes may write the file: each
    writes it whole, the last one's stays.

    Args:
        path: the file.
        key: all that the codes depend on (`codes_key`).
        tokenizer: encodes the images.
        images: what to encode.
        variants: augmented encodings of each.

    Raises:
        UserError: the file cannot be written.
    """
    if path.exists():
        try:
            with safe_open(path, framework="pt") as file:
                stale = _stale(file.metadata() or {}, key)
                if not stale:
                    return EncodedImages(file.get_tensor("codes"), file.get_tensor("shown"))
                say(f"{shown(path)} is of {stale}; encoding the images again")
        except (SafetensorError, OSError):
            say(f"{shown(path)} is damaged; encoding the images again")
    encoded = encode_images(tokenizer, images, variants)
    write_file(path, lambda new: save_file(encoded._asdict(), new, metadata=dict(key)))
    return encoded


def _stale(stored: Mapping[str, str], key: Mapping[str, str]) -> str:
    """What a file's codes are of, where that is not what `key` says; else ""."""
    if not set(key) <= set(stored):
        return "an earlier version"
    words = {"images": "other images", "tokenizer": "another tokenizer"}
    changed = [name for name in key if stored[name] != key[name]]
    return " and ".join(words.get(name, f"another {name}") for name in changed)
