"""The decoder: diffusion over pixels, given an image embedding and a caption (section 2.1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from dalle_base.common.schema import validate_all
from unclip.attention import FastAttention
from unclip.config import DecoderConfig
from unclip.diffusion import Predict, denoise, diffusion_loss, guided, signal_shares
from unclip.reading import Caption


@dataclass
class Condition:
    """What B images are to show, and which of it is left out."""

    embedding: Tensor
    """Image embeddings [B, E], `scaled`."""
    text: Caption
    """Their captions."""
    no_image: Tensor
    """bool [B]: whose embedding is not to be seen."""
    no_text: Tensor
    """bool [B]: whose caption is not to be seen."""

    def with_and_without(self) -> "Condition":
        """Return this, and behind it the same with nothing to be seen: for guidance."""
        every = torch.ones_like(self.no_image)
        return Condition(
            torch.cat([self.embedding, self.embedding]),
            self.text.twice(),
            torch.cat([self.no_image, every]),
            torch.cat([self.no_text, every]),
        )


def shown(embedding: Tensor, text: Caption, read: bool) -> Condition:
    """Return a condition whose embedding is seen, and whose caption if it is to be `read`."""
    no = torch.zeros(len(embedding), dtype=torch.bool, device=embedding.device)
    return Condition(embedding, text, no, no if read else ~no)


class Decoder(nn.Module):
    """A U-Net that sees the embedding twice: added to the step's embedding, and as tokens beside
    the caption's.
    """

    def __init__(self, config: DecoderConfig, embed_dim: int, text_width: int) -> None:
        """Make a decoder over a dual encoder whose embeddings and text states have these sizes.

        Raises `UserError` for a config that makes no model.
        """
        validate_all(config, "model")
        super().__init__()
        self.config = config
        self.values = 3 * config.patch**2
        outputs = self.values * (2 if config.noise.variance == "learned" else 1)
        levels = range(len(config.channels))
        crossed = [level in config.attention for level in levels]
        down = tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in crossed)
        up = tuple("CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(crossed))
        heads: Any = tuple(width // config.head_width for width in config.channels)
        self.network = UNet2DConditionModel(
            sample_size=config.image_size // config.patch,
            in_channels=self.values,
            out_channels=outputs,
            block_out_channels=tuple(config.channels),
            layers_per_block=config.blocks,
            down_block_types=down,
            up_block_types=up,
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=config.context_width,
            # diffusers' name for it says a width and means a number of heads.
            attention_head_dim=heads,
            norm_num_groups=config.norm_groups,
            dropout=config.dropout,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=embed_dim,
        )
        self.network.set_attn_processor(FastAttention())
        self.image_tokens = nn.Linear(embed_dim, config.image_tokens * config.context_width)
        self.project_states = nn.Linear(text_width, config.context_width)
        self.null_embedding = nn.Parameter(torch.zeros(embed_dim))
        self.null_state = nn.Parameter(torch.zeros(config.context_width))
        self.shares = signal_shares(config.noise)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights between hidden layers, which some optimisers treat as matrices."""
        network = self.network
        parts = (network.down_blocks, network.mid_block, network.up_blocks)
        return [p for part in parts for p in part.parameters() if p.ndim > 1]

    def pack(self, images: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in [0, 1] as the network sees them: from -1 to 1, squares of
        pixels as channels.
        """
        return F.pixel_unshuffle(2 * images - 1, self.config.patch)

    def unpack(self, data: Tensor) -> Tensor:
        """Return what the network sees as images, clamped to [0, 1]."""
        return ((F.pixel_shuffle(data, self.config.patch) + 1) / 2).clamp(0, 1)

    def predict(self, noisy: Tensor, steps: Tensor, condition: Condition) -> Tensor:
        """Return what is predicted of noised data [B, C, h, w] at steps [B]."""
        dropped = condition.no_image[:, None]
        embedding = torch.where(dropped, self.null_embedding, condition.embedding)
        tokens = self.image_tokens(embedding).unflatten(1, (self.config.image_tokens, -1))
        states = self.project_states(condition.text.states)
        hidden = condition.no_text[:, None] | ~condition.text.mask
        states = torch.where(hidden[..., None], self.null_state, states)
        seen = condition.text.mask | condition.no_text[:, None]
        mask = torch.cat([seen.new_ones(len(seen), self.config.image_tokens), seen], dim=1)
        return self.network(
            noisy.contiguous(memory_format=torch.channels_last),
            steps,
            encoder_hidden_states=torch.cat([tokens, states], dim=1),
            encoder_attention_mask=mask,
            class_labels=embedding,
        ).sample

    def forward(self, images: Tensor, condition: Condition, steps: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of each image [B, 3, H, W] in [0, 1], [B]; `noise` is of their shape."""
        return diffusion_loss(
            self.config.noise,
            self.shares,
            lambda noisy, at: self.predict(noisy, at, condition),
            self.pack(images),
            steps,
            F.pixel_unshuffle(noise, self.config.patch),
        )

    def sample(
        self,
        condition: Condition,
        noise: Tensor,
        steps: int,
        guidance: float = 1.0,
        eta: float = 0.0,
        noises: Callable[[int], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Yield images [B, 3, H, W] in [0, 1] after each step, from noise of that shape."""
        learned = self.config.noise.variance == "learned"

        def conditional(noisy: Tensor, at: Tensor) -> Tensor:
            return self.predict(noisy, at, condition)

        predict: Predict = conditional
        if guidance != 1:
            condition = condition.with_and_without()
            predict = guided(predict, guidance, variance=learned)
        patch = self.config.patch

        def packed(number: int) -> Tensor:
            assert noises
            return F.pixel_unshuffle(noises(number), patch)

        for data in denoise(
            self.config.noise,
            predict,
            F.pixel_unshuffle(noise, patch),
            steps,
            eta,
            packed if noises else None,
            limit=1.0,
        ):
            yield self.unpack(data)
