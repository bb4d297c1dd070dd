"""Encoder and decoder of VQGAN (arXiv 2012.09841), with the options around them.

With the defaults of `NetworkConfig` these are the networks of taming-transformers, down to the
names of parameters. Pixels are in [-1, 1]. Shapes: B batch, Z z_channels, (R, C) grid.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dvae.vqgan.config import NetworkConfig, SideConfig

EPSILON = 1e-6
COLOURS = 3


class PixelNorm(nn.Module):
    """Divides by the root mean square over the channels of each position, which sees no other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().square().mean(dim=1, keepdim=True).add(EPSILON).rsqrt()
        gain = self.weight[:, None, None]
        return (x * size * gain + self.bias[:, None, None]).to(x.dtype)


@dataclass
class Parts:
    """What the parts of one network are made with."""

    config: NetworkConfig
    """Both networks' options."""
    side: SideConfig
    """This network's own."""

    def norm(self, channels: int) -> nn.Module:
        """Return a normalisation."""
        if self.side.norm == "pixel":
            return PixelNorm(channels)
        groups = math.gcd(channels, self.config.norm_groups)
        return nn.GroupNorm(groups, channels, eps=EPSILON)

    def kernel(self, level: int) -> int:
        """Return the kernel of a level's residual blocks; level -1 is the coarsest."""
        return self.side.kernels[level] if self.side.kernels else 3

    def channels(self, level: int) -> int:
        """Return the channels that a level ends with."""
        return self.config.width * self.config.multipliers[level]

    def level(self, level: int, n_in: int, blocks: int) -> "Level":
        """Return a level without its resampling."""
        n_out = self.channels(level)
        sizes = [(n_in, n_out), *[(n_out, n_out)] * (blocks - 1)]
        attention = self.side.attention and level in self.config.attention_levels
        return Level(
            [ResidualBlock(*size, self.kernel(level), self) for size in sizes],
            [Attention(n_out, self) for _ in sizes] if attention else [],
        )


class ResidualBlock(nn.Module):
    """Twice: normalise, swish, convolve; added to the input."""

    def __init__(self, n_in: int, n_out: int, kernel: int, parts: Parts) -> None:
        super().__init__()
        self.norm1 = parts.norm(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
        self.norm2 = parts.norm(n_out)
        self.dropout = nn.Dropout(parts.config.dropout)
        self.conv2 = nn.Conv2d(n_out, n_out, kernel, padding=kernel // 2)
        self.nin_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions, added to the input."""

    def __init__(self, channels: int, parts: Parts) -> None:
        super().__init__()
        self.norm = parts.norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).mT[:, None] for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj_out(mixed.mT.reshape(x.shape))


class Downsample(nn.Module):
    """Half the side: a convolution of stride 2, padded at the right and the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the side: each position repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one size, each with attention behind it where the level has attention,
    and then a resampling, which the network adds under taming's name for it.
    """

    RESAMPLINGS = ("downsample", "upsample")

    def __init__(self, blocks: list[nn.Module], attention: list[nn.Module]) -> None:
        super().__init__()
        self.block, self.attn = nn.ModuleList(blocks), nn.ModuleList(attention)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in self.RESAMPLINGS:
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """Two residual blocks of the grid's size, with attention between them if there is any."""

    def __init__(self, channels: int, parts: Parts) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, parts.kernel(-1), parts)
        self.attn_1 = Attention(channels, parts) if parts.side.attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels, parts.kernel(-1), parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Pixels [B, 3, H, W] to features of the grid [B, Z, R, C]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        parts, last = Parts(config, config.encoder), len(config.multipliers) - 1
        self.patch = nn.PixelUnshuffle(config.stem_stride)
        n = config.width
        self.conv_in = nn.Conv2d(COLOURS * config.stem_stride**2, n, 3, padding=1)
        self.down = nn.ModuleList()
        for i in range(last + 1):
            level = parts.level(i, n, config.encoder.blocks or config.blocks)
            n = parts.channels(i)
            if i < last:
                level.downsample = Downsample(n)
            self.down.append(level)
        self.mid = Middle(n, parts)
        self.norm_out = parts.norm(n)
        kernel = parts.kernel(-1)
        self.conv_out = nn.Conv2d(n, config.z_channels, kernel, padding=kernel // 2)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(self.patch(pixels))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features of the grid [B, Z, R, C] to pixels [B, 3, H, W]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        parts, last = Parts(config, config.decoder), len(config.multipliers) - 1
        n, kernel = parts.channels(-1), parts.kernel(-1)
        self.conv_in = nn.Conv2d(config.z_channels, n, kernel, padding=kernel // 2)
        self.mid = Middle(n, parts)
        levels = []
        for i in range(last, -1, -1):
            level = parts.level(i, n, config.decoder.blocks or config.blocks + 1)
            n = parts.channels(i)
            if i > 0:
                level.upsample = Upsample(n)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))  # the finest is the first
        self.norm_out = parts.norm(n)
        self.conv_out = nn.Conv2d(n, COLOURS * config.stem_stride**2, 3, padding=1)
        self.patch = nn.PixelShuffle(config.stem_stride)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            x = level(x)
        return self.patch(self.conv_out(F.silu(self.norm_out(x))))
