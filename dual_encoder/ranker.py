"""A dual encoder and its text tokenizer: features of images and of captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from dalle_base.common.images import centre_square, to_array, to_tensor
from dalle_base.data.text import TextTokenizer
from dual_encoder.model import DualEncoder
from dual_encoder.text import encode_captions


@dataclass(eq=False)
class Ranker:
    """All that ranking, classifying and searching need. Features come back on the CPU."""

    model: DualEncoder
    text_tokenizer: TextTokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.logit_scale.device

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device, in place."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def image_features(self, images: Sequence[Image.Image], batch_size: int = 64) -> Tensor:
        """Features [N, E] of images of any size, each of length 1.

        The short side is resized (bicubic, as CLIP does) and the centre is cut out.
        """
        size = self.model.config.image_size
        parts = []
        for i in range(0, len(images), batch_size):
            squares = [
                centre_square(image, size, Image.Resampling.BICUBIC)
                for image in images[i : i + batch_size]
            ]
            pixels = to_tensor([to_array(square) for square in squares])
            parts.append(self.model.encode_image(pixels.to(self.device)).cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.model.config.embed_dim)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str], batch_size: int = 256) -> Tensor:
        """Features [N, E] of captions, each of length 1. Raises `UserError` for an empty one."""
        tokens = encode_captions(self.text_tokenizer, captions, self.model.config).to(self.device)
        return torch.cat([self.model.encode_text(part) for part in tokens.split(batch_size)]).cpu()
