"""A dual encoder's image tower as a perceptual network: no download, no package, trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.model import DualEncoder


class ImageTower(nn.Module):
    """The frozen image tower. It is always in evaluation mode: nothing is dropped."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.visual, self.size = model.visual, model.config.image_size
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)
        self.requires_grad_(False)
        self.eval()

    @property
    def layers(self) -> int:
        """Its blocks."""
        return len(self.visual.transformer.resblocks)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also as a part of what trains."""
        return super().train(False)

    def activations(self, images: Tensor, blocks: Sequence[int], size: int) -> list[Tensor]:
        """The patches' states after some blocks, in their order [B, width, h, w]; differentiable.

        Args:
            images: [B, 3, H, W] in [0, 1].
            blocks: numbers from 0 to `layers` - 1.
            size: of no effect: the tower has a position for each patch of its own size, to which
                images are resized (bilinear).
        """
        own = (self.size, self.size)
        if images.shape[-2:] != own:
            images = F.interpolate(images, own, mode="bilinear", align_corners=False)
        x, outputs = self.visual.embed((images - self.mean) / self.std), []
        side = round((x.shape[1] - 1) ** 0.5)
        for number, block in enumerate(self.visual.transformer.resblocks[: max(blocks) + 1]):
            x = block(x)
            if number in blocks:
                outputs.append(rearrange(x[:, 1:], "b (h w) c -> b c h w", h=side))
        return outputs


def load_image_tower(folder: str) -> ImageTower:
    """Return the image tower of a dual encoder's folder. Raises `UserError`."""
    return ImageTower(load_dual_encoder(Path(folder)).model)
