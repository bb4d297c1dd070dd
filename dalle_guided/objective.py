"""What moves a drawing: distances on the sphere of features, and a clamp that lets back in."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.errors import UserError
from dalle_base.common.opening import read_image
from dalle_guided.prompts import Prompt
from dual_encoder.ranker import Ranker


class Target:
    """Prompts as one dual encoder sees them."""

    def __init__(self, encoder: Ranker, prompts: Sequence[Prompt]) -> None:
        """Encode the prompts. Raises `UserError` for an image that cannot be read."""
        self.encoder = encoder
        # Clones: what inference mode made cannot take part in a backward pass.
        found = [_features(encoder, prompt).clone() for prompt in prompts]
        self.features = torch.cat(found).to(encoder.device)
        weights = torch.tensor([prompt.weight for prompt in prompts])
        self.weights = weights.to(self.features)
        if not self.features.isfinite().all():
            raise UserError("the dual encoder's features of the prompts are not finite")

    @property
    def size(self) -> int:
        """Side of the images that the encoder reads."""
        return self.encoder.model.config.image_size

    def distance(self, views: Tensor) -> Tensor:
        """Return the weighted squared distance of views [N, 3, S, S] to the prompts, their mean.

        Each is 2·arcsin(‖a − b‖/2)², along the sphere (Crowson's notebook).
        """
        features = self.encoder.model.encode_image(views)
        chords = (features[:, None] - self.features).norm(dim=-1)
        # At 1 arcsin has no finite slope.
        angles = 2 * (chords / 2).clamp(max=1 - 1e-6).arcsin().square()
        return (angles * self.weights).sum(dim=1).mean()

    @torch.no_grad()
    def score(self, image: Tensor) -> float:
        """Return the cosines of a whole image [1, 3, H, W] and the prompts, weighted, over the sum
        of the weights' sizes: from -1 to 1.
        """
        pixels = image.clamp(0, 1)
        if pixels.shape[2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = F.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
        cosines = self.encoder.model.encode_image(pixels)[0] @ self.features.T
        return ((cosines * self.weights).sum() / self.weights.abs().sum()).item()


def _features(encoder: Ranker, prompt: Prompt) -> Tensor:
    if prompt.image is None:
        return encoder.text_features([prompt.text])
    return encoder.image_features([read_image(prompt.image)])


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(pixels)
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (pixels,), (gradient,) = ctx.saved_tensors, gradients
        # A step goes against the gradient.
        further_out = (pixels < 0) & (gradient > 0) | (pixels > 1) & (gradient < 0)
        return gradient.masked_fill(further_out, 0.0)


def clamp(pixels: Tensor) -> Tensor:
    """Clamp to [0, 1], with the gradient of pixels outside that leads back (Crowson's notebook)."""
    return _Clamp.apply(pixels)  # type: ignore[no-any-return]
