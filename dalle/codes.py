"""Pictures encoded once and kept on disk, several augmented encodings of each."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dvae.tokenizer import ImageTokenizer
from training.data import Pictures
from training.errors import UserError
from training.pictures import to_tensor


class EncodedPictures(NamedTuple):
    """The codes of n pictures."""

    codes: Tensor
    """int32 [n, variants, RC]."""
    shown: Tensor
    """int32 [n]: which picture each row shows. Not its own where that one could not be read."""


@torch.inference_mode()
def encode_pictures(
    tokenizer: ImageTokenizer, pictures: Pictures, variants: int = 1, batch_size: int = 64
) -> EncodedPictures:
    """Encode `variants` augmentations of each picture.

    Variant v of picture i is augmented with a seed of its own, so the codes are the same each time.
    """
    device = next(tokenizer.parameters()).device
    keys = [(i, i * variants + v) for i in range(len(pictures)) for v in range(variants)]
    codes = torch.empty(len(keys), tokenizer.rows * tokenizer.columns, dtype=torch.int32)
    shown = torch.empty(len(keys), dtype=torch.int32)
    for first in tqdm(range(0, len(keys), batch_size), "encoding pictures", dynamic_ncols=True):
        examples = [pictures[key] for key in keys[first : first + batch_size]]
        images = to_tensor([example.pixels for example in examples]).to(device)
        part = slice(first, first + len(examples))
        codes[part] = tokenizer.encode(images).flatten(1).to("cpu", torch.int32)
        shown[part] = torch.tensor([example.index for example in examples])
    shape = (len(pictures), variants)
    return EncodedPictures(codes.unflatten(0, shape), shown.view(shape)[:, 0].contiguous())


def cached_codes(
    path: Path, key: str, tokenizer: ImageTokenizer, pictures: Pictures, variants: int
) -> EncodedPictures:
    """Return `encode_pictures`, from the file `path` if it was written under the same `key`.

    `key` names all that the codes depend on: tokenizer, pictures, augmentation.
    """
    if path.exists():
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return EncodedPictures(file.get_tensor("codes"), file.get_tensor("shown"))
        except (SafetensorError, OSError):
            tqdm.write(f"{path} is damaged; encoding the pictures again")
    encoded = encode_pictures(tokenizer, pictures, variants)
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(encoded._asdict(), temporary, metadata={"key": key})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    return encoded
