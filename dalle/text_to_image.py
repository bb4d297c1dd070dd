"""Captions to pictures: the models of a folder, and what they are asked.

model = load_text_to_image("models/emoji")
drawn = model.generate(["a red heart", "a cat face"], candidates=4)
drawn.pictures[0].save("heart.png")
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle.decode import Step
from dalle.generate import (
    DRAW,
    Progress,
    at_once,
    fitting_batch,
    generate_batches,
    log_likelihood,
)
from dalle.text import TextTokenizer
from dalle.transformer import Transformer
from dual_encoder.checkpoint import Ranker
from dual_encoder.rank import scores
from dvae.tokenizer import ImageTokenizer
from training.errors import UserError
from training.pictures import centre_square, to_array, to_picture, to_tensor

GUIDANCE = 4.0
"""Guidance of models that were trained for it: docs/experiments.md shows what it does."""
BLANK = 0.85
"""Grey of what is still to be drawn."""


class Drawn(NamedTuple):
    """N drawn pictures; from `generate` a caption's candidates stand side by side."""

    pictures: list[Image.Image]
    codes: Tensor
    """[N, RC], in raster order."""
    log_likelihood: Tensor
    """[N] log probability of the drawn codes under the caption, in nats (`Generated`)."""
    captions: list[str]
    """Each picture's caption."""
    seeds: list[int]
    """Each picture's seed, which with its candidate's number names it."""
    candidates: list[int]
    """Each picture's number among the candidates of its caption and seed."""


def select(drawn: Drawn, order: Sequence[int]) -> Drawn:
    """Return some of the pictures, in the order given."""
    chosen = torch.tensor(order)
    return Drawn(
        [drawn.pictures[i] for i in order],
        drawn.codes[chosen],
        drawn.log_likelihood[chosen],
        [drawn.captions[i] for i in order],
        [drawn.seeds[i] for i in order],
        [drawn.candidates[i] for i in order],
    )


def join(parts: Iterable[Drawn]) -> Drawn:
    """Return several batches of pictures as one."""
    pictures, codes, likelihoods, captions, seeds, candidates = zip(*parts, strict=True)
    return Drawn(
        [*chain(*pictures)],
        torch.cat(codes),
        torch.cat(likelihoods),
        [*chain(*captions)],
        [*chain(*seeds)],
        [*chain(*candidates)],
    )


class TextToImage(NamedTuple):
    """Everything that turns a caption into pictures."""

    transformer: Transformer
    text: TextTokenizer
    tokenizer: ImageTokenizer
    step: Step | None = None
    """How a code is decoded, where not as `generate_batches` has it."""
    reranker: Ranker | None = None
    """The dual encoder that scores what is drawn, if there is one."""

    def batches(
        self,
        captions: str | Sequence[str],
        candidates: int = 1,
        *,
        seed: int = 0,
        first: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float | None = None,
        given: Tensor | None = None,
        memory: float = 4e9,
        progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Drawn]:
        """Draw `candidates` pictures for each caption; yield them batch by batch, in order.

        Candidate k of a seed and a caption is one picture, whatever is drawn beside it; `first` is
        the number of the first one. `guidance` above 1 follows the caption more closely (by default
        `GUIDANCE` where the model was trained for it, else 1); `temperature`, `top_k`, `top_p` and
        the `given` codes [RC] are those of `dalle.generate.generate_batches`. As many are drawn
        together as keep their caches within `memory` bytes.

        Raises `UserError`, before anything is drawn, for a caption without text or a value that
        makes no sense. A caption that is too long is cut: `self.text.cut` says where.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        guidance = self.guidance if guidance is None else guidance
        parts = generate_batches(
            self.transformer,
            self.text.encode(captions, self.transformer.config.text_length),
            candidates,
            seed,
            temperature,
            top_k,
            top_p,
            guidance,
            given,
            first,
            fitting_batch(self.transformer, int(memory), guided=guidance != 1),
            self.step,
            progress,
        )
        rows = [(caption, first + k) for caption in captions for k in range(candidates)]
        for part in parts:
            own, rows = rows[: len(part.codes)], rows[len(part.codes) :]
            yield Drawn(
                self.pictures(part.codes),
                part.codes,
                part.log_likelihood,
                [caption for caption, _ in own],
                [seed] * len(own),
                [k for _, k in own],
            )

    generate = at_once(batches, join)
    """`batches`, all of them in one."""

    def rank(self, drawn: Drawn) -> Tensor:
        """Return how well each picture fits its caption, [N], more is better (section 2.6).

        Raises `UserError` where there is no reranker.
        """
        if self.reranker is None:
            raise UserError("this model has no reranker: name a dual encoder's folder")
        captions = list(dict.fromkeys(drawn.captions))
        every = scores(self.reranker, drawn.pictures, captions)
        own = torch.tensor([captions.index(caption) for caption in drawn.captions])
        return every.gather(1, own[:, None])[:, 0]

    @property
    def guidance(self) -> float:
        """The guidance that is used where none is asked for."""
        return GUIDANCE if self.transformer.config.text_drop else 1.0

    def pictures(self, codes: Tensor, batch_size: int = 64) -> list[Image.Image]:
        """Return the pictures of codes [N, RC], decoded `batch_size` at a time.

        Where a code is `DRAW` the picture is grey.
        """
        grids = codes.unflatten(1, (self.tokenizer.rows, self.tokenizer.columns))
        pictures = []
        for part in grids.split(batch_size):
            images = self.tokenizer.decode(part.clamp(min=0))
            blank = (part == DRAW)[:, None].to(images.dtype)
            if blank.any():
                blank = F.interpolate(blank, size=images.shape[2:])
                images = torch.where(blank > 0, BLANK, images)
            pictures += [to_picture(image) for image in images]
        return pictures

    @torch.no_grad()
    def codes(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return the codes [N, RC] of pictures of any size; the centre square is what counts."""
        size = self.tokenizer.image_size
        squares = [to_array(centre_square(picture, size)) for picture in pictures]
        return self.tokenizer.encode(to_tensor(squares)).flatten(1)

    def log_likelihood(
        self, captions: Sequence[str], pictures: Sequence[Image.Image] | Tensor
    ) -> Tensor:
        """Return the log probability of given pictures under captions, in nats: [N].

        There are as many captions as pictures, which may be their codes [N, RC]. Nothing is drawn:
        one pass reads all codes.
        """
        text = self.text.encode(captions, self.transformer.config.text_length)
        codes = pictures if isinstance(pictures, Tensor) else self.codes(pictures)
        return log_likelihood(self.transformer, text, codes)
