"""Drawing guided by CLIP: the latents of one image, moved until it fits its prompts.

model = load_text_to_image("models/emoji")
drawing = draw_guided(model, "a red heart:1|blue:-0.3", seed=0)
drawing.image.save("heart.png")
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.images import to_image
from dalle_guided.config import GuidanceConfig
from dalle_guided.cutouts import cut_out
from dalle_guided.objective import Target, clamp
from dalle_guided.prompts import parse_prompts
from dalle_guided.starts import grid_of, random_codes, sampled_codes
from dual_encoder.ranker import Ranker
from dvae.tokenizer import ImageTokenizer


class Measured(NamedTuple):
    """The image after some steps."""

    step: int
    """Steps taken."""
    image: Image.Image
    codes: Tensor
    """[R, C]."""
    score: float
    """The guiding encoder's, of the whole image: from -1 to 1."""
    second: float | None
    """The second encoder's, which takes no part; None where there is none."""


@dataclass
class Drawing:
    """An image and how it came about."""

    way: list[Measured] = field(default_factory=list)
    """From the start on."""

    @property
    def best(self) -> Measured:
        """What the second encoder likes best; without one, the last."""
        if self.way[-1].second is None:
            return self.way[-1]
        return max(self.way, key=lambda measured: (measured.second, measured.step))

    @property
    def image(self) -> Image.Image:
        """The best image."""
        return self.best.image

    def fell(self, patience: int) -> bool:
        """Whether the second encoder has found nothing better in so many measurements."""
        best = next(i for i, measured in enumerate(self.way) if measured is self.best)
        return self.way[-1].second is not None and len(self.way) - 1 - best >= patience


def guide(
    tokenizer: ImageTokenizer,
    target: Target,
    codes: Tensor,
    config: GuidanceConfig,
    seed: int = 0,
    second: Target | None = None,
) -> Iterator[Measured]:
    """Move latents by Adam, and yield the image at the start, every few steps, and at the end.

    Args:
        tokenizer: whose latents move; its weights do not.
        target: the prompts, and the encoder that guides.
        codes: [1, R, C] to start from.
        config: steps, step size, cutouts.
        seed: of the cutouts.
        second: the prompts as an encoder sees them that only watches.

    Raises:
        UserError: before the first step, for a tokenizer through which no gradient goes; and where
            the gradient is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(tokenizer.parameters()).device
    latents = tokenizer.latents(codes.to(device)).clone().requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=config.step_size * tokenizer.latent_unit())
    start = None
    for step in range(config.steps + 1):
        drawn = tokenizer.draw_latents(latents)
        pixels = clamp(drawn.images)
        start = pixels.detach() if start is None else start
        if step % config.measure_every == 0 or step == config.steps:
            yield _measure(step, pixels.detach(), drawn.codes, target, second)
        if step == config.steps:
            return
        loss = target.distance(cut_out(pixels, target.size, config.cutouts, generator))
        if config.image_weight:
            loss = loss + config.image_weight * (pixels - start).square().mean()
        (latents.grad,) = torch.autograd.grad(loss, [latents])
        if not latents.grad.isfinite().all():
            raise UserError(f"step {step}: the gradient is not finite: lower --step-size")
        optimiser.step()
        with torch.no_grad():
            tokenizer.limit_latents(latents)


def _measure(
    step: int, pixels: Tensor, codes: Tensor, target: Target, second: Target | None
) -> Measured:
    scores = target.score(pixels), second.score(pixels) if second else None
    return Measured(step, to_image(pixels[0]), codes[0].cpu(), *scores)


def draw(
    measurements: Iterator[Measured],
    patience: int,
    watch: Callable[[Drawing], None] | None = None,
    drawing: Drawing | None = None,
) -> Drawing:
    """Follow a drawing until its steps are done or the second encoder's score has fallen.

    Args:
        measurements: of `guide`.
        patience: measurements without a better score of the second encoder that end it.
        watch: called with the drawing after each of them.
        drawing: what to add to, where the caller wants it though Ctrl-C should cut it short.
    """
    drawing = drawing or Drawing()
    for measured in measurements:
        drawing.way.append(measured)
        if watch:
            watch(drawing)
        if drawing.fell(patience):
            break
    return drawing


def draw_guided(
    model: TextToImage,
    prompts: str,
    *,
    config: GuidanceConfig | None = None,
    seed: int = 0,
    sampled: int = 0,
    size: int | None = None,
    second: Ranker | None = None,
) -> Drawing:
    """Draw an image guided by a model's reranker.

    Args:
        model: with a tokenizer and a reranker.
        prompts: such as "a red heart:1|blue:-0.3".
        config: how; None: `GuidanceConfig()`.
        seed: of everything that is random.
        sampled: start from the best of so many candidates of the first prompt; 0: from noise.
        size: side of the image; None: the tokenizer's own.
        second: a dual encoder that watches, and whose falling score ends the drawing.

    Raises:
        UserError: no reranker, prompts without text, a tokenizer through which no gradient goes.
    """
    if model.reranker is None:
        raise UserError("this model has no reranker to guide by: name a dual encoder's folder")
    config = config or GuidanceConfig()
    parsed = parse_prompts(prompts)
    grid = grid_of(model.tokenizer, size)
    if sampled:
        codes = sampled_codes(model, parsed[0].text, sampled, seed)
    else:
        codes = random_codes(model.tokenizer, grid, seed)
    watching = Target(second, parsed) if second else None
    target = Target(model.reranker, parsed)
    return draw(guide(model.tokenizer, target, codes, config, seed, watching), config.patience)
