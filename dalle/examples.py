"""What stage two trains on: captions as token ids, images as codes, batch by batch."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dalle.codes import cached_codes, encode_images
from dalle.codes_key import codes_key
from dalle.config import CodesConfig
from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset, Shuffled, shown_batches, some_of
from dalle_base.data.captions import all_with_artist, varied_captions
from dalle_base.data.config import TextConfig
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TextTokenizer
from dalle_base.training.run import Run
from dvae.tokenizer import ImageTokenizer


class Captions:
    """A source's captions as token ids, varied and with BPE dropout, as training reads them."""

    def __init__(
        self,
        source: Source,
        text_tokenizer: TextTokenizer,
        text_length: int,
        options: TextConfig,
    ) -> None:
        self.source, self.text_tokenizer = source, text_tokenizer
        self.text_length, self.options = text_length, options

    def __call__(self, keys: list[tuple[int, int]]) -> Tensor:
        """Return the token ids [B, T] for (index, seed) keys: a pure function of them."""
        captions = varied_captions(self.source, keys, self.options)
        seeds = [seed for _, seed in keys]
        dropout = self.options.bpe_dropout
        return self.text_tokenizer.encode(captions, self.text_length, dropout, seeds)


def training_examples(
    run: Run,
    captions: Captions,
    tokenizer: ImageTokenizer,
    images: ImageDataset,
    config: CodesConfig,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the token ids [B, T] and codes [B, RC] of a run's batches, from where it stands."""
    order = run.order(images.count)
    if config.mode == "on_the_fly":
        return fresh_examples(captions, tokenizer, images, order, workers)
    if not images.count:
        raise UserError(
            "codes.mode=cached keeps the codes of all images, and data.source=stream does not know "
            "them: leave it out"
        )
    path = Path(config.file) if config.file else run.folder / "codes.safetensors"
    with run.accelerator.main_process_first():  # the others then find the files
        key = codes_key(tokenizer, images, config.variants)
        codes, shown = cached_codes(path, key, tokenizer, images, config.variants)
        if config.keeps_clean:
            whole = ImageDataset(images.source, images.size, None, images.skips.limit)
            path = path.with_stem(f"{path.stem}-clean")
            key = codes_key(tokenizer, whole, 1)
            clean = cached_codes(path, key, tokenizer, whole, 1).codes
            codes = torch.cat([codes, clean], dim=1)
    return cached_examples(captions, codes, shown, order, config)


def fresh_examples(
    captions: Captions,
    tokenizer: ImageTokenizer,
    images: ImageDataset,
    order: Shuffled,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids [B, T] and codes [B, RC], each batch encoded as it is needed."""
    device = next(tokenizer.parameters()).device
    for pixels, shown in shown_batches(images, order, workers):
        yield captions(shown), tokenizer.encode(pixels.to(device)).flatten(1)


def cached_examples(
    captions: Captions, codes: Tensor, shown: Tensor, order: Shuffled, config: CodesConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids [B, T] and codes [B, RC] from encodings made once (`EncodedImages`).

    Of images that are kept clean as well, the last encoding is the clean one.
    """
    clean = codes.shape[1] - 1
    augmented = clean if config.keeps_clean else clean + 1
    for update, keys in enumerate(order, order.start):
        encodings = [
            seed % augmented if config.augments(update, seed) else clean for _, seed in keys
        ]
        yield (
            captions([(int(shown[index]), seed) for index, seed in keys]),
            codes[[index for index, _ in keys], encodings].long(),
        )


def held_out_examples(
    source: Source,
    text_tokenizer: TextTokenizer,
    text_length: int,
    tokenizer: ImageTokenizer,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Return token ids [n, T] and codes [n, RC] of at most `limit` (0: all) images, unaugmented.

    An image with several captions comes once with each.
    """
    subset = some_of(source, limit)
    codes, shown = encode_images(tokenizer, ImageDataset(subset, tokenizer.image_size, None))
    pairs = [
        (row, caption)
        for row, index in enumerate(shown.tolist())
        for caption in all_with_artist(subset.record(index))
    ]
    tokens = text_tokenizer.encode([caption for _, caption in pairs], text_length)
    return tokens, codes[[row for row, _ in pairs], 0].long()
