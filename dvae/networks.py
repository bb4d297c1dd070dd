"""The convolutional encoder and decoder of the dVAE (appendix A.2), with the options around them.

With the defaults of `NetworkConfig` these are the networks of OpenAI's public release, down to
parameter names, order and initialisation. Shapes: B batch, K codebook size, (R, C) grid.
"""

import math
from collections import OrderedDict

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from dvae.config import NetworkConfig

OUTPUT_MAPS = 6  # three for μ, three for ln b
EPSILON = 0.1  # keeps mapped pixels away from 0 and 1, where the logit is infinite


def map_pixels(pixels: Tensor) -> Tensor:
    """Map pixel values from [0, 1] into [ε, 1 − ε], where the likelihood lives: φ(x) of A.3."""
    return (1 - 2 * EPSILON) * pixels + EPSILON


def unmap_pixels(mapped: Tensor) -> Tensor:
    """Invert `map_pixels`, clamped to [0, 1]."""
    return ((mapped - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def one_hot(codes: Tensor, codebook_size: int, dtype: torch.dtype) -> Tensor:
    """Return codes [B, R, C] as one-hot vectors along dim 1: [B, K, R, C]."""
    shape = (codes.shape[0], codebook_size, *codes.shape[1:])
    return torch.zeros(shape, dtype=dtype, device=codes.device).scatter_(1, codes[:, None], 1.0)


def _group_norm(channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, groups), channels)


NORMS = {"none": lambda channels, groups: nn.Identity(), "group": _group_norm}


class Conv2d(nn.Module):
    """A same-padded convolution, named (`w`, `b`) and initialised as in the release.

    With `exact` it keeps to its weights' precision under autocast: as in the release, the two
    convolutions that meet the codebook do.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, exact: bool = False
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.exact = stride, (kernel - 1) // 2, exact
        self.w = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel))
        self.b = nn.Parameter(torch.zeros(n_out))
        nn.init.normal_(self.w, std=1 / math.sqrt(n_in * kernel**2))

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            x = x.to(self.w.dtype)
            if torch.amp.is_autocast_available(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self._convolve(x)
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, stride=self.stride, padding=self.padding)


class Block(nn.Module):
    """`id_path(x) + post_gain · res_path(x)`, the residual block of both networks."""

    def __init__(
        self, config: NetworkConfig, n_in: int, n_out: int, kernels: tuple[int, ...]
    ) -> None:
        super().__init__()
        n_hidden = n_out // config.bottleneck
        channels = [n_in, *[n_hidden] * (len(kernels) - 1), n_out]
        path: OrderedDict[str, nn.Module] = OrderedDict()
        if config.norm != "none":
            path["norm"] = NORMS[config.norm](n_in, config.norm_groups)
        for i, kernel in enumerate(kernels):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = Conv2d(channels[i], channels[i + 1], kernel)
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.res_path = nn.Sequential(path)
        # With normalised inputs the branch no longer grows with depth, so a milder gain trains.
        self.post_gain = 1 / config.layers**2 if config.norm == "none" else config.layers**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.post_gain * self.res_path(x)


class GridAttention(nn.Module):
    """Residual self-attention over all grid positions, so that codes can share out the image."""

    def __init__(self, channels: int, norm_groups: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_width)
        self.norm = _group_norm(channels, norm_groups)
        self.qkv = Conv2d(channels, 3 * channels, 1)
        self.out = Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.w)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[-2]
        q, k, v = rearrange(
            self.qkv(self.norm(x)), "b (three h d) r c -> three b h (r c) d", three=3, h=self.heads
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(mixed, "b h (r c) d -> b (h d) r c", r=rows))


class Encoder(nn.Module):
    """Mapped pixels [B, 3, H, W] to logits over the codebook [B, K, R, C]."""

    def __init__(self, config: NetworkConfig, codebook_size: int) -> None:
        super().__init__()
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = Conv2d(3, config.width, 7, stride=config.stem_stride)
        n_in = config.width
        for g in range(config.groups):
            n_out = config.width * 2**g
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(config.blocks):
                group[f"block_{i + 1}"] = Block(config, n_in, n_out, (3, 3, 3, 1))
                n_in = n_out
            if g < config.groups - 1:
                group["pool"] = nn.MaxPool2d(2)
            elif config.attention:
                group["attention"] = GridAttention(n_out, config.norm_groups)
            blocks[f"group_{g + 1}"] = nn.Sequential(group)
        blocks["output"] = nn.Sequential(
            OrderedDict(relu=nn.ReLU(), conv=Conv2d(n_in, codebook_size, 1, exact=True))
        )
        self.blocks = nn.Sequential(blocks)

    def forward(self, mapped: Tensor) -> Tensor:
        return self.blocks(mapped)


class Decoder(nn.Module):
    """(Soft) one-hot codes [B, K, R, C] to the six maps [B, 6, H, W]: μ, then ln b."""

    def __init__(self, config: NetworkConfig, codebook_size: int) -> None:
        super().__init__()
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        blocks["input"] = Conv2d(codebook_size, config.decoder_init, 1, exact=True)
        n_in = config.decoder_init
        counts = config.decoder_blocks or [config.blocks] * config.groups
        for g in range(config.groups):
            n_out = config.width * 2 ** (config.groups - 1 - g)
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(counts[g]):
                group[f"block_{i + 1}"] = Block(config, n_in, n_out, (1, 3, 3, 3))
                n_in = n_out
            if g == 0 and config.attention:
                group["attention"] = GridAttention(n_out, config.norm_groups)
            if g < config.groups - 1:
                group["upsample"] = nn.Upsample(scale_factor=2, mode="nearest")
            blocks[f"group_{g + 1}"] = nn.Sequential(group)
        head: OrderedDict[str, nn.Module] = OrderedDict(relu=nn.ReLU())
        head["conv"] = Conv2d(n_in, OUTPUT_MAPS * config.stem_stride**2, 1)
        if config.stem_stride > 1:
            head["shuffle"] = nn.PixelShuffle(config.stem_stride)
        blocks["output"] = nn.Sequential(head)
        self.blocks = nn.Sequential(blocks)

    def forward(self, codes: Tensor) -> Tensor:
        return self.blocks(codes)
