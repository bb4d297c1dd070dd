"""The prior: diffusion over image embeddings, given a caption (section 2.2)."""

from typing import Any

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from torch import Tensor, nn

from dalle_base.common.schema import validate_all
from unclip.attention import FastAttention
from unclip.config import ADDITIONAL, PriorConfig
from unclip.diffusion import Predict, denoise, diffusion_loss, guided, signal_shares
from unclip.reading import Caption


class Prior(nn.Module):
    """A causal transformer over the text, its embedding, the step, the noised image embedding and a
    query, whose output is the embedding without noise.
    """

    def __init__(
        self, config: PriorConfig, embed_dim: int, text_width: int, text_length: int
    ) -> None:
        """Make a prior over a dual encoder whose embeddings, states and texts have these sizes.

        Raises `UserError` for a config that makes no model.
        """
        validate_all(config, "model")
        super().__init__()
        self.config = config
        self.network = PriorTransformer(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_width,
            num_layers=config.layers,
            embedding_dim=embed_dim,
            num_embeddings=text_length,
            additional_embeddings=ADDITIONAL,
            dropout=config.dropout,
        )
        self.network.set_attn_processor(FastAttention())
        # Statistics that diffusers keeps for others' weights, and that nothing here reads.
        del self.network.clip_mean, self.network.clip_std
        self.project_states = nn.Linear(text_width, embed_dim)
        self.null_embedding = nn.Parameter(torch.zeros(embed_dim))
        self.null_state = nn.Parameter(torch.zeros(embed_dim))
        network: Any = self.network
        network.tables = ("positional_embedding", "prd_embedding")
        for name in network.tables:
            nn.init.normal_(getattr(network, name), std=0.02)
        self.shares = signal_shares(config.noise)

    def hidden_weights(self) -> list[Tensor]:
        """Return the matrices between hidden layers, which some optimisers treat apart."""
        return [p for p in self.network.transformer_blocks.parameters() if p.ndim == 2]

    def predict(self, noisy: Tensor, steps: Tensor, text: Caption, dropped: Tensor) -> Tensor:
        """Return what is predicted of noised embeddings [B, E] at steps [B].

        `dropped`, bool [B], says whose caption is not to be seen: its embedding and its states
        together.
        """
        embedding = torch.where(dropped[:, None], self.null_embedding, text.embedding)
        states = self.project_states(text.states)
        hidden = (dropped[:, None] | ~text.mask)[..., None]
        states = torch.where(hidden, self.null_state, states)
        mask = text.mask | dropped[:, None]
        out = self.network(noisy, steps, embedding, states, mask.float())
        return out.predicted_image_embedding

    def forward(
        self, clean: Tensor, text: Caption, steps: Tensor, noise: Tensor, dropped: Tensor
    ) -> Tensor:
        """Return the loss of each image embedding [B, E] under its caption, [B]."""
        return diffusion_loss(
            self.config.noise,
            self.shares,
            lambda noisy, at: self.predict(noisy, at, text, dropped),
            clean,
            steps,
            noise,
        )

    @torch.no_grad()
    def sample(self, text: Caption, noise: Tensor, steps: int, guidance: float = 1.0) -> Tensor:
        """Return image embeddings [B, E] of captions, from noise of that shape."""
        count = len(noise)
        shown = torch.zeros(count, dtype=torch.bool, device=noise.device)

        def conditional(noisy: Tensor, at: Tensor) -> Tensor:
            return self.predict(noisy, at, text, shown)

        predict: Predict = conditional
        if guidance != 1:
            text, shown = text.twice(), torch.cat([shown, ~shown])
            predict = guided(predict, guidance, variance=False)
        *_, last = denoise(self.config.noise, predict, noise, steps)
        return last
