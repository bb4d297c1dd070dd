"""The two towers of CLIP (Radford et al. 2021, arXiv 2103.00020, section 2.4).

Parameters have the names of the published files, so these load as they are. Shapes: B batch,
P patches, T text positions, E the width of the shared space.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.data.text import PADDING
from dual_encoder.config import DualEncoderConfig, TowerConfig

LARGEST_SCALE = math.log(100)
"""The learned logit scale stays at or below this (CLIP, section 2.5)."""


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}
"""A function for each name in `dual_encoder.config.ACTIVATIONS`."""


class Attention(nn.Module):
    """Multi-head self-attention, causal or not; [B, n, width] to the same."""

    def __init__(self, config: TowerConfig, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.width, config.width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.width))
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(qkv, "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.heads)
        # Few positions: torch's fused kernel takes several times as long backward in bfloat16.
        plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(rearrange(out, "b h n d -> b n (h d)"))


class MLP(nn.Module):
    """Two layers, the hidden one four times as wide."""

    def __init__(self, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.activation = activation
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm residual block."""

    def __init__(
        self,
        config: TowerConfig,
        causal: bool,
        activation: Callable[[Tensor], Tensor],
        dropout: float,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config, causal)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Tower(nn.Module):
    """A stack of blocks."""

    def __init__(
        self,
        config: TowerConfig,
        causal: bool,
        activation: Callable[[Tensor], Tensor],
        dropout: float,
    ) -> None:
        super().__init__()
        self.config = config
        self.resblocks = nn.ModuleList(
            Block(config, causal, activation, dropout) for _ in range(config.layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x

    def reset_parameters(self) -> None:
        """Initialise as CLIP's text tower: less for what writes to the residual stream."""
        width, layers = self.config.width, self.config.layers
        into = width**-0.5 * (2 * layers) ** -0.5
        for module in self.modules():
            if isinstance(module, Attention):
                nn.init.normal_(module.in_proj_weight, std=width**-0.5)
                nn.init.zeros_(module.in_proj_bias)
                nn.init.normal_(module.out_proj.weight, std=into)
                nn.init.zeros_(module.out_proj.bias)
            if isinstance(module, MLP):
                nn.init.normal_(module.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.zeros_(module.c_fc.bias)
                nn.init.normal_(module.c_proj.weight, std=into)
                nn.init.zeros_(module.c_proj.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()


class VisionTransformer(nn.Module):
    """The image tower: patches and a class token, whose output is projected."""

    tables = ("class_embedding", "positional_embedding")

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        width, patch = config.vision.width, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.patch_dropout = config.patch_dropout
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        activation = ACTIVATIONS[config.activation]
        self.transformer = Tower(config.vision, False, activation, config.dropout)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def embed(self, images: Tensor) -> Tensor:
        """What the blocks read of normalised pixels [B, 3, S, S]: [B, 1 + P, width]."""
        x = self.conv1(images).flatten(2).mT + self.positional_embedding[1:]
        if self.training and self.patch_dropout:
            x = _some_patches(x, 1 - self.patch_dropout)
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(x), 1, -1)
        return self.ln_pre(torch.cat([first.to(x.dtype), x], dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] to [B, E]."""
        return self.ln_post(self.transformer(self.embed(images))[:, 0]) @ self.proj

    def reset_parameters(self) -> None:
        width = self.transformer.config.width
        nn.init.normal_(self.conv1.weight, std=self.conv1.weight[0].numel() ** -0.5)
        for table in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(table, std=width**-0.5)
        self.ln_pre.reset_parameters()
        self.ln_post.reset_parameters()
        self.transformer.reset_parameters()


def _some_patches(x: Tensor, share: float) -> Tensor:
    """A random share of each image's patches, at least one: [B, P, width] to [B, n, width]."""
    kept = max(1, round(share * x.shape[1]))
    chosen = torch.rand(x.shape[:2], device=x.device).topk(kept, dim=1).indices
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))


def _in_chunks(encode: Callable[[Tensor], Tensor], x: Tensor, chunk: int) -> Tensor:
    """`encode(x)`, which keeps no activations for the backward pass where it takes several parts.

    `checkpoint` keeps the state of the random numbers, so both passes have the same dropout.
    """
    if not 0 < chunk < len(x):
        return encode(x)
    parts = [checkpoint(encode, part, use_reentrant=False) for part in x.split(chunk)]
    return torch.cat(parts)  # type: ignore[arg-type]


class DualEncoder(nn.Module):
    """Image tower, text tower, and the learned scale of their similarities.

    With the defaults it has the 151,277,313 parameters of ViT-B/32. Raises `UserError` for a config
    that makes no model.
    """

    mean: Tensor
    std: Tensor
    tables = ("positional_embedding",)

    def __init__(self, config: DualEncoderConfig) -> None:
        validate_all(config, "model")
        super().__init__()
        self.config = config
        width = config.text.width
        activation = ACTIVATIONS[config.activation]
        self.visual = VisionTransformer(config)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.text_length, width))
        self.transformer = Tower(config.text, True, activation, config.dropout)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for name in ("mean", "std"):
            table = torch.tensor(getattr(config, name)).view(3, 1, 1)
            self.register_buffer(name, table, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as CLIP does."""
        self.visual.reset_parameters()
        self.transformer.reset_parameters()
        self.ln_final.reset_parameters()
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.config.text.width**-0.5)
        nn.init.constant_(self.logit_scale, math.log(1 / 0.07))

    def encode_image(self, images: Tensor) -> Tensor:
        """Features of images [B, 3, S, S] in [0, 1]: [B, E], each of length 1.

        Raises `UserError` for images of another size.
        """
        size = self.config.image_size
        if images.shape[1:] != (3, size, size):
            raise UserError(
                f"images of shape {list(images.shape)}: the model reads [B, 3, {size}, {size}]"
            )
        return self._normalised(self.visual((images - self.mean) / self.std))

    def encode_text(self, text: Tensor) -> Tensor:
        """Features of texts [B, T], `PADDING` behind each one's end token: [B, E] of length 1.

        The text is read causally, so its end token's output speaks for all of it. Raises
        `UserError` for texts that are longer than the model reads.
        """
        if text.ndim != 2 or text.shape[1] > self.config.text_length:
            raise UserError(
                f"text of shape {list(text.shape)}: the model reads at most "
                f"[B, {self.config.text_length}]"
            )
        return self.read_text(text)[0]

    def read_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features of texts as `encode_text` returns them, [B, E], and what the tower makes of each
        position, [B, T, width]; behind a text's end that means nothing.
        """
        x = self.token_embedding(text.clamp(min=0)) + self.positional_embedding[: text.shape[1]]
        x = self.ln_final(self.transformer(x))
        end = (text != PADDING).sum(dim=1) - 1
        last = x[torch.arange(len(x), device=x.device), end]
        return self._normalised(last @ self.text_projection), x

    def _normalised(self, x: Tensor) -> Tensor:
        # In the parameters' type: with mixed precision, x is a rounded one.
        return F.normalize(x.to(self.logit_scale.dtype), dim=-1)

    def scale(self) -> Tensor:
        """The factor on cosine similarities: at most 100."""
        return self.logit_scale.clamp(max=LARGEST_SCALE).exp()

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Bring the scale itself back to 100, from where it can still fall (section 2.5)."""
        self.logit_scale.clamp_(max=LARGEST_SCALE)

    def forward(
        self, images: Tensor, text: Tensor, chunk: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of images and texts [B, E], and the scale, under the name that wrappers call.

        See `encode_image`, `encode_text` and `scale`. With `chunk`, that many images, then texts,
        are encoded at a time, and once more in the backward pass with the same dropout: the
        activations of one chunk exist at a time, whatever the batch (Gao et al. 2021, arXiv
        2101.06983).
        """
        return (
            _in_chunks(self.encode_image, images, chunk),
            _in_chunks(self.encode_text, text, chunk),
            self.scale(),
        )

    def hidden_weights(self) -> list[Tensor]:
        """The matrices between hidden layers, which some optimisers treat apart."""
        attention = [m.in_proj_weight for m in self.modules() if isinstance(m, Attention)]
        return attention + [m.weight for m in self.modules() if isinstance(m, nn.Linear)]
