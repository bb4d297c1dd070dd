"""What kept codes were made from: they count for these images, tokenizer and augmentation alone."""

import hashlib

from tqdm import tqdm

from dalle_base.common.config import to_yaml
from dalle_base.data.batches import ImageDataset
from dalle_base.data.fingerprint import image_digest
from dvae.checkpoint import tokenizer_fingerprint
from dvae.tokenizer import ImageTokenizer


def codes_key(tokenizer: ImageTokenizer, images: ImageDataset, variants: int) -> dict[str, str]:
    """Return, by what a message calls it, all that the codes of images depend on.

    Images count by content and order, not by path or time: a folder may move. At the speed of
    SHA-256, nearly 1 GB a second, that costs a small part of what encoding does.
    """
    augmentation = to_yaml(images.augmentation) if images.augmentation else "none"
    return {
        "images": images_fingerprint(images),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "augmentation": f"{augmentation}\n{variants} of {images.size} pixels",
    }


def images_fingerprint(images: ImageDataset) -> str:
    """Return a hash of the images' content, in their order, and of what steers augmentation."""
    by_mirrorable = images.augmentation is not None and images.augmentation.flip == "mirrorable"
    whole = hashlib.sha256()
    bar = tqdm(range(len(images)), "comparing images", dynamic_ncols=True, delay=1, leave=False)
    for index in bar:
        first = images.first_with_same_image(index)
        if first != index:
            whole.update(f"as {first}".encode())
            continue
        record = images.source.record(index)
        whole.update(image_digest(record))
        whole.update(bytes([by_mirrorable and record.mirrorable]))
    return whole.hexdigest()
