"""Captions to images by way of an image embedding: all parts of a DALL-E 2.

model = load_unclip("models/emoji-unclip")
images = model.generate("a red heart", candidates=4, seed=0).images
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle.sampling import candidate_uniforms
from dalle_base.common.errors import UserError
from dalle_base.common.images import centre_square, to_array, to_image, to_tensor
from dalle_base.common.model_folders import UNCLIP, find_model
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.rank import similarities
from dual_encoder.ranker import Ranker
from unclip.checkpoint import DECODER, PRIOR, load_decoder, load_prior, read_unclip
from unclip.config import UnclipSampling
from unclip.decoder import Decoder, shown
from unclip.prior import Prior
from unclip.reading import Caption, embed_images, read_captions, scaled, unscaled

TOGETHER = 16
"""Images decoded at a time."""


class Decoded(NamedTuple):
    """N images; a caption's candidates stand side by side."""

    images: list[Image.Image]
    embeddings: Tensor
    """[N, E], `scaled`: what each was decoded of."""
    captions: list[str]
    seeds: list[int]
    candidates: list[int]

    def select(self, order: Sequence[int]) -> "Decoded":
        """Some of the images, in the order given."""
        index = torch.tensor(order, dtype=torch.long)
        chosen: list[Any] = [
            part[index] if isinstance(part, Tensor) else [part[i] for i in order] for part in self
        ]
        return Decoded(*chosen)


def join(parts: Iterable[Decoded]) -> Decoded:
    """Return several batches of images as one."""
    joined: list[Any] = [
        torch.cat(each) if isinstance(each[0], Tensor) else [*chain(*each)]
        for each in zip(*parts, strict=True)
    ]
    return Decoded(*joined)


@dataclass(eq=False)
class Unclip:
    """A dual encoder, a prior and a decoder."""

    encoder: Ranker
    prior: Prior
    decoder: Decoder
    sampling: UnclipSampling = field(default_factory=UnclipSampling)
    """How it is sampled from where nothing else is asked for."""

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.encoder.device

    def to(self, device: torch.device | str) -> Self:
        """Move all models to a device, in place."""
        for model in (self.encoder, self.prior, self.decoder):
            model.to(device)
        return self

    def generate(
        self,
        captions: str | Sequence[str],
        candidates: int = 1,
        seed: int | Sequence[int] = 0,
        first: int = 0,
        *,
        sampling: UnclipSampling | None = None,
        embeddings: Tensor | None = None,
        progress: Callable[[int, int, Tensor], None] | None = None,
    ) -> Decoded:
        """Return images of captions.

        Candidate k of a seed is always the same image, up to rounding, whatever the batch.

        Args:
            captions: one or several.
            candidates: images of each caption.
            seed: of all of them, or one for each caption.
            first: number of the first candidate.
            sampling: how; None: as `self.sampling` says.
            embeddings: [captions, E] to decode, `scaled`, in place of the prior's.
            progress: called with steps done, all steps, and a batch's images so far.

        Raises:
            UserError: a caption without text, or embeddings that are not finite.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        sampling = sampling or self.sampling
        if embeddings is not None:
            check_finite(embeddings)
        text = read_captions(self.encoder, captions).repeat(candidates)
        seeds = [seed] * len(captions) if isinstance(seed, int) else list(seed)
        named = zip(captions, seeds, strict=True)
        rows = [(caption, own, first + k) for caption, own in named for k in range(candidates)]
        if embeddings is not None:
            given = embeddings.to(self.device).repeat_interleave(candidates, dim=0)
        parts: list[Decoded] = []
        for start in range(0, len(rows), TOGETHER):
            part = slice(start, start + TOGETHER)
            noise = self.noises([row[1:] for row in rows[part]], sampling)
            own = text.part(part)
            drawn = given[part] if embeddings is not None else self.embed(own, noise[0], sampling)

            def report(done: int, images: Tensor, start: int = start) -> None:
                if progress:
                    batches = -(-len(rows) // TOGETHER)
                    progress(
                        start // TOGETHER * sampling.steps + done, batches * sampling.steps, images
                    )

            images = self.decode(drawn, own, noise[1:], sampling, report)
            names = ([*each] for each in zip(*rows[part], strict=True))
            parts.append(Decoded([to_image(image) for image in images], drawn.cpu(), *names))
        return join(parts)

    def noises(
        self, names: Sequence[tuple[int, int]], sampling: UnclipSampling
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normal numbers of (seed, candidate) pairs: of the prior's embeddings
        [N, embeddings, E], of the decoder's start [N, 3, H, W] and, with eta, of its steps
        [N, steps, 3, H, W].
        """
        width = self.encoder.model.config.embed_dim
        side = self.decoder.config.image_size
        fresh = sampling.steps if sampling.eta else 0
        counts = sampling.embeddings * width, 3 * side**2, fresh * 3 * side**2
        uniforms = torch.stack([candidate_uniforms(*name, sum(counts)) for name in names])
        # In float64: float32 rounds what is nearly 1 to 1, whose normal number is infinite.
        normals = torch.special.ndtri(uniforms.double().clamp(2**-25, 1 - 2**-25)).float()
        prior, start, steps = normals.to(self.device).split(counts, dim=1)
        shape = (3, side, side)
        return (
            prior.unflatten(1, (sampling.embeddings, width)),
            start.unflatten(1, shape),
            steps.unflatten(1, (fresh, *shape)),
        )

    @torch.no_grad()
    def embed(self, text: Caption, noise: Tensor, sampling: UnclipSampling) -> Tensor:
        """Return an image embedding [N, E] of each caption: of those that the prior draws of noise
        [N, n, E], the one nearest to the caption's (section 2.2).
        """
        count = noise.shape[1]
        drawn = self.prior.sample(
            text.repeat(count), noise.flatten(0, 1), sampling.prior_steps, sampling.prior_guidance
        )
        # Embeddings lie on a sphere, where the encoder's own do.
        drawn = scaled(unscaled(drawn)).unflatten(0, (-1, count))
        best = (drawn * text.embedding[:, None]).sum(dim=-1).argmax(dim=1)
        return drawn[torch.arange(len(drawn), device=drawn.device), best]

    @torch.no_grad()
    def decode(
        self,
        embedding: Tensor,
        text: Caption,
        noise: Sequence[Tensor],
        sampling: UnclipSampling,
        report: Callable[[int, Tensor], None],
    ) -> Tensor:
        """Return images [N, 3, H, W] of embeddings [N, E], from noise as `noises` has it."""
        condition = shown(embedding, text, read=sampling.read_text)
        start, fresh = noise
        steps = self.decoder.sample(
            condition,
            start,
            sampling.steps,
            sampling.guidance_scale,
            sampling.eta,
            (lambda number: fresh[:, number]) if sampling.eta else None,
        )
        images = start
        for number, images in enumerate(steps, 1):
            report(number, images)
        return images

    def embedding_of(self, image: Image.Image) -> Tensor:
        """Return the embedding [1, E] of an image of any size; the centre square is what counts."""
        size = self.encoder.model.config.image_size
        square = centre_square(image, size, Image.Resampling.BICUBIC)
        return embed_images(self.encoder, to_tensor([to_array(square)]).to(self.device))

    def rank(self, decoded: Decoded) -> Tensor:
        """Return how well each image fits its caption by the dual encoder, [N], more is better."""
        captions = list(dict.fromkeys(decoded.captions))
        every = similarities(self.encoder, decoded.images, captions)
        own = torch.tensor([captions.index(caption) for caption in decoded.captions])
        return every.gather(1, own[:, None])[:, 0]


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return embeddings [B, E] on the way from one to another along the sphere (section 3.2).

    Args:
        one: what share 0 gives.
        other: what share 1 gives.
        share: from 0 to 1.
    """
    a, b = unscaled(one), unscaled(other)
    angle = (a * b).sum(dim=-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()
    mixed = ((1 - share) * angle).sin() * a + (share * angle).sin() * b
    return scaled(F.normalize(mixed, dim=-1))


def check_finite(embeddings: Tensor) -> None:
    """Raise `UserError` for embeddings that are not finite."""
    if not embeddings.isfinite().all():
        raise UserError("an embedding is not finite: nothing can be decoded of it")


def load_unclip(folder: str | Path, device: torch.device | str = "cpu") -> Unclip:
    """Return the models of a folder, in float32 and evaluation mode.

    Raises `UserError` for files that are missing, damaged, or do not belong together.
    """
    folder = find_model(folder, UNCLIP)
    place, sampling = read_unclip(folder)
    encoder = load_dual_encoder(place)
    prior, decoder = load_prior(folder / PRIOR, encoder), load_decoder(folder / DECODER, encoder)
    return Unclip(encoder, prior, decoder, sampling).to(device)
