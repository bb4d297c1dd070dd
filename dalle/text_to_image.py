"""Captions to images: the models of a folder, and what they are asked.

model = load_text_to_image("models/emoji")
samples = model.generate(["a red heart", "a cat face"], candidates=4)
samples.images[0].save("heart.png")
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle.config import Sampling, SamplingDefaults
from dalle.generate import TO_SAMPLE, Progress, Step, generate_batches
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError
from dalle_base.common.images import centre_square, to_array, to_image, to_tensor
from dalle_base.data.text import TextTokenizer
from dual_encoder.rank import similarities
from dual_encoder.ranker import Ranker
from dvae.tokenizer import ImageTokenizer

BLANK = 0.85
"""Grey of what is still to be sampled."""


class Samples(NamedTuple):
    """N sampled images; a caption's candidates stand side by side. Tensors are on the CPU."""

    images: list[Image.Image]
    codes: Tensor
    """[N, RC], in raster order."""
    log_likelihood: Tensor
    """[N] log probability of the sampled codes under the caption, in nats (`Generated`)."""
    captions: list[str]
    """Each image's caption."""
    seeds: list[int]
    """Each image's seed, which with its candidate's number names it."""
    candidates: list[int]
    """Each image's number among the candidates of its caption and seed."""

    def select(self, order: Sequence[int]) -> "Samples":
        """Some of the images, in the order given."""
        index = torch.tensor(order, dtype=torch.long)
        chosen: list[Any] = [
            part[index] if isinstance(part, Tensor) else [part[i] for i in order] for part in self
        ]
        return Samples(*chosen)


def join(parts: Iterable[Samples]) -> Samples:
    """Return several batches of images as one."""
    joined: list[Any] = [
        torch.cat(each) if isinstance(each[0], Tensor) else [*chain(*each)]
        for each in zip(*parts, strict=True)
    ]
    return Samples(*joined)


@dataclass(eq=False)
class TextToImage:
    """Everything that turns a caption into images."""

    transformer: Transformer
    text_tokenizer: TextTokenizer
    tokenizer: ImageTokenizer
    step: Step | None = None
    """How a code is decoded, where not by `eager_step`."""
    reranker: Ranker | None = None
    """The dual encoder that scores what is sampled, if there is one."""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """How it is sampled from where nothing else is asked for."""

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.transformer.start.device

    def to(self, device: torch.device | str) -> Self:
        """Move all models to a device, in place, with what they need there for sampling."""
        for model in (self.transformer, self.tokenizer, self.reranker):
            if model is not None:
                model.to(device)
        for pattern in self.transformer.patterns:
            self.transformer.cache_plan(pattern)
        return self

    def generate(
        self, captions: str | Sequence[str], sampling: Sampling | None = None, **options: Any
    ) -> Samples:
        """Sample images for captions: `batches`, all of them in one.

        `options` are fields of `Sampling`, for calls that need but a few of them; the others are as
        `self.sampling` says.
        """
        sampling = sampling or self.sampling.sampling(**options)
        return join(self.batches(captions, sampling))

    def batches(
        self,
        captions: str | Sequence[str],
        sampling: Sampling,
        given: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Samples]:
        """Sample images for captions, batch by batch, in order.

        A caption that is too long is cut: `self.text_tokenizer.cut` says where.

        Args:
            captions: one or several.
            sampling: how, and how many candidates of each caption.
            given: [RC] codes to keep, `TO_SAMPLE` for the others (`generate_batches`).
            progress: called after each step of a batch.

        Raises:
            UserError: before anything is sampled, for a caption without text or a value that makes
                no sense.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        tokens = self.tokens(captions)
        numbers = range(sampling.first, sampling.first + sampling.candidates)
        seeds = sampling.seed
        seeds = [seeds] * len(captions) if isinstance(seeds, int) else list(seeds)
        named = zip(captions, seeds, strict=False)
        rows = [(caption, seed, k) for caption, seed in named for k in numbers]
        for codes, log_likelihood in generate_batches(
            self.transformer, tokens, sampling, given, self.step, progress
        ):
            own, rows = rows[: len(codes)], rows[len(codes) :]
            names = ([*part] for part in zip(*own, strict=True))
            yield Samples(self.images(codes), codes.cpu(), log_likelihood.cpu(), *names)

    def rank(self, samples: Samples, likelihood_weight: float | None = None) -> Tensor:
        """Return how well each image fits its caption, [N], more is better (section 2.6).

        A nat of log-likelihood adds `likelihood_weight` to the reranker's score; None: as
        `self.sampling` says, by default nothing. Raises `UserError` where there is no reranker.
        """
        if self.reranker is None:
            raise UserError("this model has no reranker: name a dual encoder's folder")
        captions = list(dict.fromkeys(samples.captions))
        every = similarities(self.reranker, samples.images, captions)
        own = torch.tensor([captions.index(caption) for caption in samples.captions])
        scores = every.gather(1, own[:, None])[:, 0]
        if likelihood_weight is None:
            likelihood_weight = self.sampling.likelihood_weight
        return scores + likelihood_weight * samples.log_likelihood

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return captions as the transformer reads them, [B, T] on its device."""
        length = self.transformer.config.text_length
        return self.text_tokenizer.encode(captions, length).to(self.device)

    def images(self, codes: Tensor, batch_size: int = 64) -> list[Image.Image]:
        """Return the images of codes [N, RC], decoded `batch_size` at a time.

        Where a code is `TO_SAMPLE` the image is grey.
        """
        grids = codes.to(self.device).unflatten(1, (self.tokenizer.rows, self.tokenizer.columns))
        images = []
        for part in grids.split(batch_size):
            pixels = self.tokenizer.decode(part.clamp(min=0))
            blank = (part == TO_SAMPLE)[:, None].to(pixels.dtype)
            if blank.any():
                blank = F.interpolate(blank, size=pixels.shape[2:])
                pixels = torch.where(blank > 0, BLANK, pixels)
            images += [to_image(image) for image in pixels]
        return images

    @torch.no_grad()
    def codes(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the codes [N, RC] of images of any size; the centre square is what counts."""
        size = self.tokenizer.image_size
        squares = [to_array(centre_square(image, size)) for image in images]
        return self.tokenizer.encode(to_tensor(squares).to(self.device)).flatten(1).cpu()
